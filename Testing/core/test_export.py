"""`voco jobs export`: the folder for a cluster, and its batch script run with stand-ins for SLURM's commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from faults import meet
from made_runs import make_run

from VoCoCore.cli import main
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.weights import load_weights, save_weights
from VoCoCore.runs import files, known
from VoCoCore.runs.export import Cluster, export_run, is_export

pytestmark = pytest.mark.usefixtures("own_config")
bash = pytest.mark.skipif(os.name != "posix" or not shutil.which("bash"), reason="needs bash")

ROOT = Path(__file__).resolve().parents[2]
CASES = [
    {"id": "a", "images": ["../../scans/a.nii.gz"], "label": "../../scans/labels/a.nii.gz"},
    {"id": "b", "images": [{"path": "../../more/b", "files": ["1.dcm", "2.dcm"]}], "split": "val"},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose cases lie in ``scans`` and ``more`` beside its own folder's parent."""
    folder = make_run(tmp_path / "runs" / "Anna's run", state="stopped")
    (folder / "private").mkdir()
    index = {"format": "vococore-index", "version": 1, "channels": ["image"], "labels": None}
    content = {**index, "cases": CASES, "skipped": [{"path": "../../scans/x", "reason": "no image"}]}
    (folder / "private" / "index.json").write_text(json.dumps(content))
    return folder


def paths_in(folder: Path) -> list[str]:
    cases = json.loads((folder / "index.json").read_text())["cases"]
    return [cases[0]["images"][0], cases[0]["label"], cases[1]["images"][0]["path"]]


def test_an_export_holds_settings_cases_script_and_a_word_on_them(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["jobs", "export", str(run), "-o", str(tmp_path / "out"), "--gpus", "2"]) == 0
    said = capsys.readouterr().out
    assert "2 cases" in said and "index.json names files" in said
    out = tmp_path / "out"
    names = ["README.txt", "index.json", "job.sbatch", "settings.json", "vococore-export.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert is_export(out) and not is_export(run)
    settings = json.loads((out / "settings.json").read_text())
    assert settings["data"]["source"] == "" and settings["data"]["store"] is None
    assert settings["optim"] == json.loads((run / "settings.json").read_text())["optim"]
    inside = tmp_path / "runs"
    assert paths_in(out) == [
        str(inside / "scans" / "a.nii.gz"), str(inside / "scans" / "labels" / "a.nii.gz"), str(inside / "more" / "b")
    ]  # fmt: skip
    assert json.loads((out / "index.json").read_text())["skipped"] == []
    assert known.remembered(known.EXPORTS) == [out]
    assert not list(tmp_path.glob(".*"))
    script = (out / "job.sbatch").read_text()
    for line in (
        "--job-name=Anna-s-run",
        "--ntasks-per-node=2",
        "--gres=gpu:2",
        "--signal=B:USR1@120",
        "--requeue",
    ):
        assert f"#SBATCH {line}\n" in script
    assert "@" not in script.replace("USR1@120", "").replace('"$@"', "").replace("[@]", "")
    title, line, *_ = (out / "README.txt").read_text().splitlines()
    assert title.startswith("Anna-s-run: a VoCo run") and line == "=" * len(title)


def test_the_exported_settings_and_index_are_those_that_a_job_reads(run: Path, tmp_path: Path) -> None:
    from VoCoCore.data.cases import load_index
    from VoCoCore.presets import resolve_pretrain

    out = export_run(run, tmp_path / "out").folder
    index = load_index(out / "index.json")
    assert index.cases[0].images[0].path == str(tmp_path / "runs" / "scans" / "a.nii.gz")
    assert index.cases[1].images[0].files == ("1.dcm", "2.dcm") and index.cases[1].split == "val"
    from VoCoCore.cli.options import read_config

    settings = resolve_pretrain(read_config(str(out / "settings.json")), {"data.source": "index.json"})
    assert settings.data.source == "index.json"


def test_the_weights_that_a_run_starts_from_go_with_it(run: Path, tmp_path: Path, capsys) -> None:
    network = build_encoder("unet", 1, 4, 32)
    save_weights(network, tmp_path / "start.safetensors")
    places = run / "private" / "places.json"
    places.write_text(json.dumps({"init": str(tmp_path / "start.safetensors")}))
    assert main(["jobs", "export", str(run), "-o", str(tmp_path / "out")]) == 0
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["init"] == "init.weights" and str(tmp_path) not in json.dumps(settings)
    other = build_encoder("unet", 1, 4, 32)
    assert load_weights(other, tmp_path / "out" / "init.weights").fraction == 1.0
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    (tmp_path / "start.safetensors").unlink()
    words = ["jobs", "export", run, "-o", tmp_path / "again"]
    meet(capsys, "an export whose first weights are gone", 3, words, ["start.safetensors", "not there"])


def test_paths_are_translated_by_the_longest_folder_that_fits(run: Path, tmp_path: Path, capsys) -> None:
    here = tmp_path / "runs"
    roots = [f"{here}=/scratch/all", f"{here / 'scans' / 'labels'}=/scratch/labels/"]
    words = [word for root in roots for word in ("--data-root", root)]
    assert main(["jobs", "export", str(run), "-o", str(tmp_path / "out"), *words]) == 0
    assert paths_in(tmp_path / "out") == [
        "/scratch/all/scans/a.nii.gz", "/scratch/labels/a.nii.gz", "/scratch/all/more/b"
    ]  # fmt: skip
    assert "3 of 3 paths translated" in capsys.readouterr().out


def test_mistakes_of_an_export_say_what_to_do(run: Path, tmp_path: Path, capsys) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.docx").touch()
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "log.txt").write_text(
        "of another program: a run may begin beside it, an export takes the folder's place"
    )
    export = ["jobs", "export", run, "-o"]
    meet(capsys, "export onto another program's log", 2, [*export, notes], ["not empty", notes])
    new = tmp_path / "new"
    meet(capsys, "export into a folder in use", 2, [*export, full], ["not empty", full])
    line = meet(capsys, "export into its own run", 2, [*export, run], ["not empty", run])
    assert "is not a run" not in line
    meet(capsys, "export of no run", 2, ["jobs", "export", full, "-o", new], ["not a run", full])
    meet(capsys, "export without a target", 2, ["jobs", "export", run], ["--output"])
    meet(capsys, "data root in another form", 2, [*export, new, "--data-root", "/a"], ["OLD=NEW", "/a"])
    words = [*export, new, "--data-root", "/nowhere=/scratch"]
    meet(
        capsys,
        "data root that no file needs",
        2,
        words,
        ["no file of the run lies below", "/nowhere", "more/b"],
    )
    meet(capsys, "export with a wrong time", 2, [*export, new, "--time", "soon"], ["--time", "soon"])
    meet(capsys, "export with a wrong memory", 2, [*export, new, "--mem", "lots"], ["--mem", "lots"])
    words = [*export, new, "--sbatch=rm -rf /"]
    meet(capsys, "export with a wrong sbatch option", 2, words, ["--sbatch", "rm -rf"])
    meet(capsys, "export for no machine", 2, [*export, new, "--nodes", "0"], ["--nodes", "at least 1"])
    words = [*export, new, "--gpus", "7"]
    meet(capsys, "export for cards that do not divide the batch", 2, words, ["optim.batch", "7 processes"])
    (run / "private" / "index.json").write_text('{"cases": [{"images": 3}]}')
    meet(capsys, "export of a damaged index", 2, [*export, new], ["damaged", "index.json"])
    (run / "private" / "index.json").unlink()
    meet(capsys, "export of a run without its cases", 2, [*export, new], ["missing", "index.json"])
    assert not new.exists() and sorted(full.iterdir()) == [full / "thesis.docx"]
    assert known.remembered(known.EXPORTS) == []


def test_a_failed_or_killed_export_leaves_nothing_in_the_way(run: Path, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(Exception, match="the disk is full"):
            export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
    (tmp_path / ".out.export.tmp").mkdir()  # killed before it was renamed
    (tmp_path / "out").mkdir()
    assert is_export(export_run(run, tmp_path / "out").folder)
    assert not list(tmp_path.glob(".*"))


# The batch script, with stand-ins for SLURM

SRUN = """#!/bin/bash
echo "srun $*" >> calls.txt
export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=2
while [ "$1" != bash ]; do shift; done
exec "$@"
"""
# The trainer: says how it was called, leaves a run, and then does what the file "behave" says.
PYTHON = """#!/bin/bash
ranks="RANK=$RANK LOCAL_RANK=$LOCAL_RANK WORLD_SIZE=$WORLD_SIZE"
echo "python $ranks PORT=$MASTER_PORT ADDR=$MASTER_ADDR $*" >> calls.txt
mkdir -p run && echo '{}' > run/settings.json
case $(cat behave) in
    wait) trap 'sleep 0.3; exit 5' USR1; trap 'exit 99' TERM; echo > ready; while :; do sleep 0.05; done ;;
    crash) trap 'exit 3' USR1; echo > ready; while :; do sleep 0.05; done ;;
    ended) trap 'printf "{\\n \\"state\\": \\"stopped\\"\\n}" > run/status.json; exit 137' USR1
        echo > ready; while :; do sleep 0.05; done ;;
    *) exit $(cat behave) ;;
esac
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> calls.txt
[ "$1" = show ] && printf 'node07\\nnode08\\n' || true
"""


class Slurm:
    """An exported folder in which the batch script can be run."""

    def __init__(self, folder: Path, tools: Path) -> None:
        self.folder = folder
        tools.mkdir()
        for name, text in (("srun", SRUN), ("trainer", PYTHON), ("scontrol", SCONTROL)):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "VOCO_PYTHON": str(tools / "trainer"),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "node[07-08]",
            "SLURM_SUBMIT_DIR": str(folder),
        }

    def begin(self, behave: str) -> subprocess.Popen[str]:
        for name in ("calls.txt", "ready"):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / "behave").write_text(behave)
        command = ["bash", str(self.folder / "job.sbatch")]
        return subprocess.Popen(command, env=self.environment, cwd="/", text=True, stdout=subprocess.PIPE)

    def run(self, behave: str, *signals: int) -> tuple[int, str]:
        """The script's exit code and what was called, after sending it ``signals`` when the trainer is ready."""
        job = self.begin(behave)
        give_up = time.monotonic() + 20
        while signals and not (self.folder / "ready").exists():
            assert time.monotonic() < give_up
            time.sleep(0.02)
        for number in signals:
            job.send_signal(number)
            time.sleep(0.05)
        job.communicate(timeout=20)
        return job.returncode, (self.folder / "calls.txt").read_text()


@pytest.fixture
def slurm(run: Path, tmp_path: Path) -> Slurm:
    return Slurm(export_run(run, tmp_path / "my export", Cluster(nodes=2)).folder, tmp_path / "tools")


@bash
def test_the_script_is_bash_and_starts_then_resumes(slurm: Slurm) -> None:
    assert subprocess.run(["bash", "-n", str(slurm.folder / "job.sbatch")], check=False).returncode == 0
    code, calls = slurm.run("0")
    assert code == 0
    ranks = "RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 PORT=24711 ADDR=node07"
    job = "-m VoCoCore pretrain --run-folder run --config settings.json --data index.json --store store --device cuda"
    assert f"python {ranks} {job}\n" in calls
    assert "requeue" not in calls
    code, calls = slurm.run("0")
    assert code == 0 and "--run-folder run --resume --data index.json" in calls and "--config" not in calls


@bash
@pytest.mark.parametrize(
    "signals", [(signal.SIGUSR1,), (signal.SIGUSR1, signal.SIGUSR1)], ids=["once", "twice"]
)
def test_when_the_time_is_up_the_job_goes_back_into_the_queue(slurm: Slurm, signals: tuple[int, ...]) -> None:
    code, calls = slurm.run("wait", *signals)
    assert code == 5
    assert calls.count("scontrol requeue 4711\n") == 1


@bash
def test_a_job_that_was_ended_while_stopping_goes_back_as_well(slurm: Slurm) -> None:
    code, calls = slurm.run("ended", signal.SIGUSR1)
    assert code == 137 and "scontrol requeue 4711\n" in calls


@bash
@pytest.mark.parametrize(
    ("behave", "signals", "code"),
    [
        ("3", (), 3),
        ("5", (), 5),  # somebody stopped it: it must not come back
        ("137", (), 137),
        ("crash", (signal.SIGUSR1,), 3),
        ("wait", (signal.SIGTERM,), 5),  # cancelled
    ],
)
def test_other_ends_are_passed_on_and_not_repeated(
    slurm: Slurm, behave: str, signals: tuple[int], code: int
) -> None:
    got, calls = slurm.run(behave, *signals)
    assert got == code
    assert "requeue" not in calls


@bash
@pytest.mark.slow
def test_the_real_trainer_stops_in_time_comes_back_and_finishes(small_cohort, tmp_path: Path) -> None:
    from VoCoCore.training.pretrain import pretrain

    settings = small_cohort.settings(optim__steps=40, run__validate_every=40, run__checkpoint_every=40)
    pretrain(
        settings,
        tmp_path / "here",
        should_stop=lambda: (tmp_path / "here" / "private" / "cohort.json").exists(),
    )
    out = export_run(tmp_path / "here", tmp_path / "cluster", Cluster(gpus=0, cpus=1)).folder
    cluster = Slurm(out, tmp_path / "tools")
    (tmp_path / "tools" / "srun").write_text(SRUN.replace("NTASKS=2", "NTASKS=1"))
    cluster.environment |= {"VOCO_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}

    def step() -> int:
        status = files.read_json(out / "run" / "status.json")
        return status["step"] if status and status["state"] == "running" else 0

    job = cluster.begin("")
    give_up = time.monotonic() + 60
    while not step():
        assert job.poll() is None and time.monotonic() < give_up
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    said, _ = job.communicate(timeout=60)
    assert job.returncode == 5 and "back into the queue" in said
    assert "scontrol requeue 4711" in (out / "calls.txt").read_text()
    assert 0 < files.read_json(out / "run" / "status.json")["step"] < 40
    job = cluster.begin("")
    said, _ = job.communicate(timeout=120)
    assert job.returncode == 0 and "weights:" in said
    assert "requeue" not in (out / "calls.txt").read_text()
    assert files.read_json(out / "run" / "status.json")["state"] == "finished"
    assert main(["jobs", "show", str(out / "run")]) == 0


def test_files_of_the_export_come_with_the_package() -> None:
    import tomllib

    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "VoCoCore"
    ]
    assert any(Path("runs/templates/job.sbatch").match(pattern) for pattern in data)
