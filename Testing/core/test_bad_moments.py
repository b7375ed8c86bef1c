"""What can happen while a command works: signals, full and read-only disks, killed workers."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from faults import check_line

from VoCoCore.cli import main
from VoCoCore.data.phantom import make_cohort
from VoCoCore.data.store import Store
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.weights import save_weights

ROOT = Path(__file__).resolve().parents[2]
GRID = ["--preset", "tiny", "--crops.counts", "2,2,1"]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")

# Limits what a file may hold, as a full disk does; Python ignores the signal, so that writing fails.
_LIMITED = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); del sys.argv[1]; "
    "from VoCoCore.cli import main; sys.exit(main(sys.argv[1:]))"
)
# Takes its time over each case, so that there is something to interrupt; worker processes find it by its name.
_SLOWLY = """
import os, time
import VoCoCore.data.prepare as prepare
work = prepare._carry_out
def carry_out(*given, **named):
    time.sleep(float(os.environ["VOCO_TEST_PAUSE"]))
    return work(*given, **named)
"""
_SLOW = (
    "import sys, slowly; slowly.prepare._carry_out = slowly.carry_out; "
    "from VoCoCore.cli import main; sys.exit(main(sys.argv[1:]))"
)
_SLOW_DISK = (
    "import sys, time, torch; torch.save = lambda _, file: (file.write(b'a half'), file.flush(), time.sleep(100)); "
    "from VoCoCore.cli import main; sys.exit(main())"
)
_PLAIN = "import sys; from VoCoCore.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Sixteen small cases: enough for two preparing workers."""
    folder = tmp_path_factory.mktemp("moments") / "cases"
    return make_cohort(folder, cases=16, size=(32, 32, 20), labels=False)


def program(
    code: str, words: Sequence[object], before: Sequence[str] = (), **variables: str
) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    command = [*before, sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip


@pytest.fixture
def slowly(tmp_path) -> Callable[..., subprocess.Popen[str]]:
    """Starts ``voco`` with a pause before each case."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "slowly.py").write_text(_SLOWLY)

    def start(words: Sequence[object], pause: float = 0.3) -> subprocess.Popen[str]:
        paths = os.pathsep.join(map(str, (tmp_path / "code", ROOT)))
        return program(_SLOW, words, PYTHONPATH=paths, VOCO_TEST_PAUSE=str(pause))

    return start


def cases_in(store: Path) -> int:
    return len(Store(store).keys())


def until(condition: Callable[[], bool], job: subprocess.Popen[str], seconds: float = 150.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def only_line(kind: str, code: int, job: subprocess.Popen[str], *says: object) -> str:
    _, text = job.communicate(timeout=150)
    others = [w for w in text.splitlines() if not w.startswith(("voco: ", "preparing ", "looking "))]
    assert not others, f"libraries printed: {others}"
    return check_line(kind, job.returncode, code, text, map(str, says))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_preparing_between_two_cases(name, workers, cohort, slowly, tmp_path):
    store = tmp_path / "store"
    words = ["data", "prepare", cohort, *GRID, "--store", store, "--workers", workers]
    job = slowly(words)
    until(lambda: cases_in(store) >= 2, job)
    # To the whole group, as a terminal's Ctrl-C and a cluster's stop come.
    os.killpg(job.pid, getattr(signal, name))
    line = only_line(f"preparing, told {name}", 5, job, "preparing was stopped", "run the same command again")
    ready = int(re.search(r"(\d+) of 16", line)[1])
    # Another worker may have finished a case that nobody waited for any more.
    assert 2 <= ready < 16 and ready <= cases_in(store) <= ready + workers, "what was prepared stays"
    assert not list((store / "partial").iterdir())


def test_a_second_interrupt_ends_at_once(cohort, slowly, tmp_path):
    store = tmp_path / "store"
    job = slowly(["data", "prepare", cohort, *GRID, "--store", store, "--workers", "0"], pause=20)
    until(lambda: (store / "locks").is_dir(), job)
    time.sleep(0.5)
    for _ in range(2):
        job.send_signal(signal.SIGINT)
        time.sleep(0.5)
    only_line("preparing, interrupted twice", 5, job, "interrupted")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_in_the_middle_of_writing_leaves_nothing(name, tmp_path):
    save_weights(build_encoder("unet", 1, 4, 32), tmp_path / "encoder.safetensors")
    out = tmp_path / "out"
    words = ["weights", "export", tmp_path / "encoder.safetensors", "--format", "torch", "-o", out / "w.pt"]
    job = program(_SLOW_DISK, words)
    until(lambda: any(file.stat().st_size for file in out.glob("*")), job)
    job.send_signal(getattr(signal, name))
    only_line(f"an export, told {name}", 5, job, "interrupted")
    assert not list(out.iterdir())


def test_a_disk_that_is_full(cohort, tmp_path):
    store = tmp_path / "store"
    words = ["data", "prepare", cohort, *GRID, "--store", store, "--workers", "0"]
    only_line("preparing on a full disk", 4, program(_LIMITED, [6000, *words]), "disk is full", store)
    assert cases_in(store) == 0 and not list((store / "partial").iterdir()), "no half case stays"
    job = program(_PLAIN, words)
    assert job.communicate(timeout=150)[0] and job.returncode == 0 and cases_in(store) == 16


def test_a_store_that_may_not_be_written(cohort, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    store.chmod(0o555)
    words = ["data", "prepare", cohort, *GRID, "--store", store, "--workers", "0"]
    job = program(_PLAIN, words, before=without_privileges())
    only_line("a store that may not be written", 4, job, "permission denied", store)
    assert not list(store.iterdir())


@pytest.mark.usefixtures("own_config")
def test_run_folders_that_may_not_be_written(cohort, tmp_path):
    """A new run below a closed folder, and one that was closed after it had ended; what it holds stays."""
    job = [*GRID, "--encoder", "unet", "--model.feature_size", "4", "--steps", "1", "--optim.warmup", "0"]
    words = ["pretrain", "--data", cohort, *job, "--store", tmp_path / "store", "--workers", "0", "--run"]
    closed, run = tmp_path / "closed", tmp_path / "run"
    closed.mkdir(mode=0o555)
    variables = {"VOCO_CONFIG_HOME": str(tmp_path)}
    new = program(_PLAIN, [*words, closed / "run"], before=without_privileges(), **variables)
    only_line("a run folder that may not be made", 4, new, "permission denied", closed / "run")
    assert main(list(map(str, [*words, run]))) == 0
    kept = [path for folder in ("checkpoints", "weights") for path in (run / folder).rglob("*.*")]
    before = {path: path.read_bytes() for path in kept if path.is_file()}
    run.chmod(0o555)
    again = program(_PLAIN, ["pretrain", "--run", run, "--resume"], before=without_privileges(), **variables)
    only_line("a run folder that may not be written", 4, again, "permission denied", run)
    assert len(before) >= 4 and {path: path.read_bytes() for path in before} == before


def test_a_folder_and_an_image_that_may_not_be_read(cohort, tmp_path):
    before = without_privileges()
    shutil.copytree(cohort / "imagesTr", tmp_path / "cases")
    closed = sorted((tmp_path / "cases").iterdir())[0]
    closed.chmod(0)
    words = ["data", "prepare", tmp_path / "cases", *GRID, "--store", tmp_path / "store", "--workers", "0"]
    job = program(_PLAIN, words, before=before)
    only_line("an image that may not be read", 3, job, "Permission denied", closed)
    (tmp_path / "cases").chmod(0)
    try:
        job = program(_PLAIN, words, before=before)
        only_line("a folder that may not be read", 3, job, "cannot be opened", tmp_path / "cases")
    finally:
        (tmp_path / "cases").chmod(0o755)


def test_folders_of_predictions_and_runs_that_may_not_be_used(tmp_path):
    def told(kind: str, *words: object) -> None:
        job = program(_PLAIN, words, before=without_privileges(), VOCO_CONFIG_HOME=str(tmp_path))
        only_line(kind, 4, job, "ermission denied", tmp_path)

    labels = make_cohort(tmp_path / "cases", cases=2, size=(32, 32, 20)) / "labelsTr"
    closed, open_ = tmp_path / "closed", tmp_path / "open"
    closed.mkdir(mode=0)
    evaluate = ("evaluate", "--references", labels, "--workers", "0", "--predictions")
    told("predictions that may not be read", *evaluate, closed, "-o", open_)
    told("runs that may not be looked for", "jobs", "list", closed)
    closed.chmod(0o555)
    told("an evaluation that may not be written", *evaluate, labels, "-o", closed)
    (open_ / ".DS_Store").touch()
    assert program(_PLAIN, [*evaluate, labels, "-o", open_]).wait(120) == 0


def without_privileges() -> list[str]:
    """What to put before a command so that permissions hold for it too, when root runs these tests."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may read and write everything, and there is no setpriv to change that")
    return ["setpriv", "--bounding-set", "-all"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for the workers in /proc")
def test_a_worker_that_is_killed(cohort, slowly, tmp_path):
    store = tmp_path / "store"
    words = ["data", "prepare", cohort, *GRID, "--store", store, "--workers", "2"]
    job = slowly(words)
    until(lambda: cases_in(store) >= 1, job)
    workers = [pid for pid in _children(job.pid) if "spawn_main" in _command(pid)]
    os.kill(workers[0], signal.SIGKILL)
    only_line("a preparing worker that was killed", 3, job, "died", "exit code -9")
    assert cases_in(store) >= 15 and not list((store / "partial").iterdir())


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return found


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
