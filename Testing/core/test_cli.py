"""The command line as users call it: exit codes, one-line errors, help, and the main job end to end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from VoCoCore.cli import main
from VoCoCore.cli.interrupts import interrupts
from VoCoCore.cli.main import COMMANDS
from VoCoCore.errors import counted
from VoCoCore.runs.directory import RunDirectory

TINY = [
    "--preset", "tiny", "--encoder", "unet", "--recipe", "paper", "--model.feature_size", "4",
    "--crops.counts", "2,2,1", "--batch", "1", "--steps", "2", "--optim.warmup", "0",
    "--data.val_fraction", "0.3", "--workers", "0",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("own_config")


def call(capsys, *words):
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def finished_run(small_cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert (
        main(
            [
                "pretrain",
                "--data",
                str(small_cohort.source),
                "--store",
                str(small_cohort.store),
                "--run",
                str(folder),
                *TINY,
            ]
        )
        == 0
    )
    return folder


def test_help_of_everything(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0 and all(name in out for name in COMMANDS)
    for name in COMMANDS:
        try:
            code = main([name, "--help"])
        except SystemExit as ended:
            code = ended.code
        assert code == 0 and name in capsys.readouterr().out


def test_the_help_says_what_is_asked_for(capsys):
    for command, told in (
        (
            "pretrain",
            ["--init RUN|FILE|scratch", "--data SOURCE", "--store FOLDER", "command line overrides it"],
        ),
        ("finetune", ["--init RUN|FILE|scratch", "--fold N|all"]),
        ("demo", ["steps (240)", "volumes per step, over all ranks (1)", "form of the method (paper)"]),
    ):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        said = " ".join(capsys.readouterr().out.split())
        assert all(words in said for words in told) and "TEXT" not in said, said


def test_a_defect_says_where_to_report_it(monkeypatch, capsys):
    from VoCoCore.cli import doctor

    def fail(words):
        raise KeyError("x")

    monkeypatch.setattr(doctor, "run", fail)
    code, _, err = call(capsys, "doctor")
    assert code == 1 and "report it to those you have VoCo from" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["pretrian"], 2, "Did you mean 'pretrain'"),
        (["pretrain", "--run", "x", "--data", "d", "--stesp", "3"], 2, "Did you mean '--steps'"),
        (["pretrain", "--run", "x", "--data", "d", "--steps", "-3"], 2, "at least 1"),
        (["pretrain", "--run", "x", "--data", "d", "--recipe", "v9"], 2, "one of paper, v1, v2"),
        (["pretrain", "--run", "x", "--data", "d", "--config", "absent.yaml"], 2, "absent.yaml"),
        (["pretrain", "--data", "d"], 2, "--run"),
        (["finetune", "--run", "x", "--data", "d", "--labels", "*_truth"], 2, "'voco data index --labels'"),
        (["data", "prepare", "d", "--data", "other"], 2, "unknown argument '--data'"),
        (["pretrain", "--run", "no-such-run", "--resume"], 2, "does not exist"),
        (["pretrain", "--run", "x", "--data", "no-such-folder"], 3, "no-such-folder"),
        (["pretrain", "--run", "x"], 2, "--data"),
        (["data", "index", "no-such-folder", "-o", "i.json"], 3, "no-such-folder"),
        (["data", "indx"], 2, "Did you mean 'index'"),
        (["data", "show", "no-such-store"], 4, "no-such-store"),
        (["crops", "no-such-file.nii.gz", "-o", "x.png"], 3, "no-such-file"),
        (["weights", "inspect", "no-such-file.pt"], 3, "no-such-file"),
        (["jobs", "show", "no-such-run"], 2, "no-such-run"),
        (["jobs", "list", "no-such-folder"], 2, "no-such-folder is not there"),
        (["jobs", "space", "no-such-folder"], 2, "no-such-folder is not there"),
        (["jobs", "lst"], 2, "Did you mean 'list'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_with_the_right_exit_code(words, code, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got, _, err = call(capsys, *words)
    assert got == code
    line = err.strip().splitlines()[-1]
    assert line.startswith("voco: error: ") and said in line and "Traceback" not in err


def test_a_config_file_and_its_mistakes(capsys, tmp_path):
    good, bad, other = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "other.json"
    good.write_text("preset: tiny\nmodel: {encoder: unet}\noptim:\n  steps: 5\n  unknown: 1\n")
    bad.write_text("preset: [tiny\n")
    other.write_text("[1, 2]")
    for path, said in ((good, "optim.unknown"), (bad, "neither YAML nor JSON"), (other, "names and values")):
        code, _, err = call(capsys, "pretrain", "--run", tmp_path / "r", "--data", "d", "--config", path)
        assert code == 2 and said in err


@pytest.mark.parametrize(
    ("words", "at"),
    [
        (["predict", "--model=~/gone", "images", "-o", "out"], "gone"),
        (["pretrain", "--run", "r", "--data=~/gone"], "gone"),
        (["finetune", "--run", "r", "--data=~/labelled", "--init=~/gone"], "gone"),
        (["pretrain", "--run", "r", "--config=~/lists/in.yaml"], "there"),
        (["jobs", "show", "~/gone"], "gone"),
        (["compare", "~/gone", "~/labelled", "--name=~/gone=old"], "gone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_tilde_is_the_users_folder_also_where_no_shell_sees_it(words, at, capsys, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "lists").mkdir(parents=True)
    (home / "lists" / "in.yaml").write_text("data: {source: ~/there}\n")
    (home / "labelled").mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, *words)
    assert code in (2, 3) and str(home / at) in err
    assert not (tmp_path / "~").exists()


def test_a_word_that_only_begins_with_a_tilde_stays_as_it_is(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "predict", "--model=~root", "images", "-o", "out")
    assert code == 3 and "~root" in err, "root is a user of most machines"
    (tmp_path / "in.yaml").write_text("optim: {steps: &x [*x]}\n")
    code, _, err = call(capsys, "pretrain", "--run", "r", "--data", "d", "--config", "in.yaml")
    assert code == 2 and "optim.steps" in err


def test_prepared_volumes_go_to_a_folder_below_home(small_cohort, capsys, tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    words = ["--preset", "tiny", "--crops.counts", "2,2,1", "--workers", "0"]
    assert call(capsys, "data", "prepare", small_cohort.source, "--store=~/kept", *words)[0] == 0
    assert (tmp_path / "kept").is_dir() and not (tmp_path / "~").exists()


def test_the_main_job_leaves_weights_and_a_report(finished_run):
    assert RunDirectory(finished_run).state() == "finished"
    assert (finished_run / "weights" / "encoder.safetensors").is_file()
    assert "<html" in (finished_run / "report.html").read_text()[:500].lower()
    assert "held-out position accuracy" in (finished_run / "log.txt").read_text()


def test_resume_needs_only_the_run(finished_run, capsys):
    code, out, _ = call(capsys, "pretrain", "--run", finished_run, "--resume")
    assert code == 0 and "going on from step 2" in out


def test_a_run_is_not_overwritten(finished_run, capsys):
    code, _, err = call(capsys, "pretrain", "--data", "d", "--run", finished_run, *TINY)
    assert code == 2 and "--resume" in err


def test_settings_json_reproduces_the_run(finished_run, small_cohort, capsys, tmp_path):
    words = [
        "--config",
        finished_run / "settings.json",
        "--data",
        small_cohort.source,
        "--store",
        small_cohort.store,
    ]
    code, _, _ = call(capsys, "pretrain", "--run", tmp_path / "again", *words)
    assert code == 0
    a, b = (path / "weights" / "encoder.safetensors" for path in (finished_run, tmp_path / "again"))
    assert a.stat().st_size > 0 and _tensors(a) == _tensors(b)


def _tensors(path):
    from safetensors.torch import load_file

    return {name: value.tolist() for name, value in load_file(path).items()}


def test_jobs_show_list_and_stop(finished_run, capsys):
    code, out, _ = call(capsys, "jobs", "list", finished_run.parent, "--json")
    assert code == 0 and [row["state"] for row in json.loads(out)] == ["finished"]
    code, out, _ = call(capsys, "jobs", "show", finished_run)
    assert code == 0 and "step 2 of 2" in out and "position_accuracy" in out
    code, out, _ = call(capsys, "jobs", "follow", finished_run)
    assert code == 0 and "the run is finished" in out
    code, _, err = call(capsys, "jobs", "stop", finished_run)
    assert code == 2 and "not under way" in err


def test_data_commands(small_cohort, capsys, tmp_path):
    index = tmp_path / "index.json"
    code, out, _ = call(capsys, "data", "index", small_cohort.source, "-o", index, "--val", "0.34")
    assert code == 0 and "6 cases written" in out
    code, out, _ = call(capsys, "data", "check", index, "--workers", "0")
    assert code == 0 and "6 cases checked" in out
    code, out, _ = call(capsys, "data", "check", index, "--workers", "0", "--json")
    assert code == 0 and json.loads(out)["bad_cases"] == []
    words = [
        "--preset",
        "tiny",
        "--store",
        tmp_path / "store",
        "--workers",
        "0",
        "--sheet",
        tmp_path / "sheet.png",
    ]
    code, out, _ = call(capsys, "data", "prepare", index, *words)
    assert code == 0 and "6 cases are prepared" in out and (tmp_path / "sheet.png").stat().st_size > 1000
    code, out, _ = call(capsys, "data", "show", tmp_path / "store")
    assert code == 0 and "CT" in out


def test_crops_draws_a_picture_and_a_page(small_cohort, capsys, tmp_path):
    image = sorted((small_cohort.source / "imagesTr").iterdir())[0]
    for name in ("crops.png", "crops.html"):
        code, out, _ = call(capsys, "crops", image, "-o", tmp_path / name, "--preset", "tiny")
        assert code == 0 and (tmp_path / name).stat().st_size > 5000 and "CT, decided" in out


def test_counts_are_said_as_people_say_them():
    said = [counted(n, "case") for n in (0, 1, 2)] + [counted(n, "file", "is", "are") for n in (1, 2)]
    assert said == ["0 cases", "1 case", "2 cases", "1 file is", "2 files are"]
    assert [counted(n, "", "was", "were") for n in (1, 2)] == ["1 was", "2 were"]


def test_doctor_judges_tiny_with_the_encoder_that_a_laptop_can_train(monkeypatch, capsys):
    from VoCoCore import doctor

    def preset(name, recipe, encoder, machine):
        return {
            "encoder": encoder,
            "parameters_m": 1,
            "memory_mb": 1,
            "fits": True,
            "seconds_per_step": 1,
            "steps": 9,
        }

    monkeypatch.setattr(doctor, "_preset", preset)
    code, out, _ = call(capsys, "doctor")
    assert code == 0 and re.search(r"tiny +unet +1 M", out) and re.search(r"base +swin_unetr +1 M", out)
    code, out, _ = call(capsys, "doctor", "--encoder", "unetr", "--json")
    assert {name: need["encoder"] for name, need in json.loads(out)["presets"].items()} == dict.fromkeys(
        ("tiny", "base", "large", "huge"), "unetr"
    )


def test_doctor_says_what_it_is_doing_beside_its_report(capsys):
    code, out, err = call(capsys, "doctor", "--encoder", "unet")
    assert code == 0 and "estimating presets 0/4  loading torch first" in err and "4/4" in err
    assert "presets    (recipe v1; estimates)" in out and "estimating" not in out
    code, out, err = call(capsys, "doctor", "--encoder", "unet", "--json")
    assert (code, err) == (0, "") and set(json.loads(out)["presets"]) == {"tiny", "base", "large", "huge"}


def test_estimate_starts_nothing(capsys, tmp_path):
    code, out, _ = call(capsys, "pretrain", "--run", tmp_path / "r", "--estimate", *TINY)
    assert code == 0 and "trained parameters" in out and not (tmp_path / "r").exists()


def test_estimate_refuses_weights_to_start_from_as_the_job_does(capsys, tmp_path):
    asked = ("pretrain", "--run", tmp_path / "r", "--estimate", *TINY, "--init", tmp_path / "gone.pt")
    code, out, err = call(capsys, *asked)
    assert code == 3 and "cannot read weights from" in err and "gone.pt" in err and not out


def test_as_a_program_it_does_not_import_torch_to_say_help_or_an_error(tmp_path):
    for words, code in (
        (["--help"], 0),
        (["pretrain", "--run", "x", "--steps", "no"], 2),
        (["jobs", "list"], 0),
    ):
        script = "import sys; from VoCoCore.cli import main; "
        script += f"code = main({words!r}); print(code, 'torch' in sys.modules)"
        environment = {**os.environ, "VOCO_CONFIG_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        assert done.stdout.strip().splitlines()[-1] == f"{code} False"


def test_the_first_interrupt_asks_and_the_second_stops():
    before = signal.getsignal(signal.SIGINT)
    with interrupts() as should_stop:
        assert not should_stop()
        signal.raise_signal(signal.SIGINT)
        assert should_stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_in_the_middle_of_printing_counts(monkeypatch):
    def reentrant(*words, **how):
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    with interrupts() as should_stop:
        with monkeypatch.context() as patched:
            patched.setattr("builtins.print", reentrant)
            signal.raise_signal(signal.SIGINT)
        assert should_stop()


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        ("predict --model m -o p --mirror scans", "'scans' was taken for the value of --mirror"),
        ("data prepare --skip-bad scans", "'scans' was taken for the value of --skip-bad"),
        ("predict --model m -o p --mirror fitting", ""),
        ("predict --model m -o p scans --mirror xyz --overlap much", ""),
        ("pretrain --data scans --model.checkpointing true --batch 2", ""),
        ("data prepare scans --skip-bad true --nonsense 3", ""),
    ],
)
def test_an_option_that_took_the_input_for_its_value_is_named_and_no_other(
    words, taken, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert taken in said and ("was taken" in said) == bool(taken)


@pytest.mark.skipif(sys.platform != "linux", reason="only there PyTorch's threads are those of GNU's OpenMP")
def test_threads_that_wait_soon_sleep_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    asked = {**os.environ, "OMP_DISPLAY_ENV": "VERBOSE", "VOCO_CONFIG_HOME": str(tmp_path)}
    script = "from VoCoCore.cli import main; main(['--version']); import torch"
    said = []
    for own in ({}, {"GOMP_SPINCOUNT": "77"}):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env={**asked, **own}
        )
        said += [line.strip() for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    assert said == ["GOMP_SPINCOUNT = '10000'", "GOMP_SPINCOUNT = '77'"]
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert main(["--version"]) == 0
    assert "GOMP_SPINCOUNT" not in os.environ
