"""Detached jobs: started, followed, stopped and killed, with a small real job in another process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from VoCoCore.errors import DataError, EnvironmentFault, SettingsError, VocoError
from VoCoCore.runs import files, known, process
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.launch import kill, kill_tree, launch, start, stop

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX processes")

JOB = """
import multiprocessing, os, signal, subprocess, sys, time
from VoCoCore.errors import DataError
from VoCoCore.runs.directory import RunDirectory, is_run

def worker(numbers):
    import VoCoCore
    numbers.put((VoCoCore.__file__, os.getpid()))
    time.sleep(60)

def main(folder, how):
    print("arguments:", folder, how)
    if how == "bad data":
        print(DataError("no images in here", "name another folder"), file=sys.stderr)
        return 3
    if how == "crash":
        raise RuntimeError("boom")
    if how == "mute":
        time.sleep(60)
    if "deaf" in how:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run = RunDirectory(folder) if is_run(RunDirectory(folder).path) else RunDirectory.create(folder, {}, {})
    with run.lock(), run.heartbeat(0.2):
        run.clear_stop()
        run.next_attempt()
        if "worker" in how:
            spawn = multiprocessing.get_context("spawn")
            numbers = spawn.Queue()
            spawn.Process(target=worker, args=(numbers,), daemon=True).start()
            print("worker:", *numbers.get(), flush=True)
        if "orphan" in how:
            command = "sleep 60 >/dev/null 2>&1 & echo $!"
            print("worker: orphan", subprocess.check_output(["sh", "-c", command]).decode(), flush=True)
        run.write_status("running", 1, 100)
        print("stdin:", repr(sys.stdin.read()), "path:", sys.path[0], flush=True)
        while "stubborn" in how or not run.stop_requested():
            time.sleep(0.02)
        run.write_status("stopped", 2)
    return 0

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
"""


class Launcher:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tiny_job.py").write_text(JOB)
        self.options: dict[str, Any] = {
            "module": "tiny_job",
            "environ": {**os.environ, "PYTHONPATH": str(folder)},
        }
        self.runs: list[RunDirectory] = []

    def __call__(self, how: str, name: str = "Übung 1", **options: Any) -> RunDirectory:
        path = self.folder / name
        self.runs.append(RunDirectory(path))
        return launch(path, [str(path), how], timeout=30, **self.options, **options)


@pytest.fixture
def go(tmp_path: Path, monkeypatch) -> Iterator[Launcher]:
    monkeypatch.setenv("VOCO_CONFIG_HOME", str(tmp_path / "config"))
    launcher = Launcher(tmp_path)
    yield launcher
    for run in launcher.runs:
        if run.read_status():
            kill(run)


def wait_for(condition, seconds: float = 10.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.02)


def test_a_job_lives_apart_and_stops_when_asked(go: Launcher) -> None:
    run = go("normal")
    status = run.read_status()
    assert status is not None
    assert status.pid != os.getpid()
    assert known.known_runs() == [run.path]
    if os.name == "posix":
        assert os.getsid(status.pid) == status.pid
    wait_for(lambda: "stdin:" in run.log_file.read_text(encoding="utf-8"))
    log = run.log_file.read_text(encoding="utf-8")
    assert f"arguments: {run.path} normal" in log
    assert f"stdin: '' path: {Path(__file__).resolve().parents[2]}" in log
    with pytest.raises(SettingsError, match=f"a job is running in .*pid {status.pid}"):
        go("normal")
    assert stop(run, grace=20) == "stopped"
    assert stop(run) == "stopped"
    assert not run.is_locked()
    wait_for(lambda: process.is_gone(status.pid, status.process_start))


def test_a_stopped_run_goes_on_in_a_second_attempt(go: Launcher) -> None:
    for attempt in (1, 2):
        run = go("normal")
        wait_for(lambda run=run: run.state() == "running")
        status = run.read_status()
        assert status is not None
        assert status.attempt == attempt
        stop(run)
    assert run.log_file.read_text(encoding="utf-8").count("arguments:") == 2


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("bad data", DataError, "no images in here (name another folder)"),
        ("crash", VocoError, "RuntimeError: boom"),
    ],
)
def test_a_job_that_dies_early_says_why(go: Launcher, how: str, kind: type[VocoError], words: str) -> None:
    with pytest.raises(VocoError, match=re.escape(words)) as caught:
        go(how)
    assert type(caught.value) is kind
    assert "log.txt" in caught.value.hint
    assert known.known_runs() == []


def test_a_job_that_says_nothing_is_left_alone(go: Launcher, tmp_path: Path) -> None:
    path = tmp_path / "mute"
    started = start(path, [str(path), "mute"], **go.options)
    assert not started.ready()
    with pytest.raises(EnvironmentFault, match="said nothing for 0 s"):
        launch(tmp_path / "mute 2", [str(path), "mute"], timeout=0.3, **go.options)
    for child in sys.modules["VoCoCore.runs.launch"]._children:
        child.kill()
        child.wait()
    with pytest.raises(VocoError, match="did not start"):
        started.ready()


def test_foreign_folders_and_missing_pythons_are_refused(go: Launcher, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "thesis.docx").touch()
    with pytest.raises(SettingsError, match="not empty and is not a run"):
        go("normal", "docs")
    assert not (tmp_path / "docs" / "log.txt").exists()
    with pytest.raises(EnvironmentFault, match="could not be started"):
        go("normal", python=tmp_path / "no python here")


def worker_of(run: RunDirectory) -> tuple[str, int, str]:
    """The file that the job's worker imported, its process number and start time."""
    wait_for(lambda: run.log_file.exists() and "stdin:" in run.log_file.read_text(encoding="utf-8"))
    log = run.log_file.read_text(encoding="utf-8")
    found = re.search(r"^worker: (.*) (\d+)$", log, re.M)
    assert found, log
    born = process.process_start(int(found[2]))
    assert born
    return found[1], int(found[2]), born


@posix
@pytest.mark.parametrize("how", ["stubborn deaf worker", "stubborn deaf orphan"])
def test_a_deaf_job_is_killed_in_the_third_step_with_all_it_started(go: Launcher, how: str) -> None:
    run = go(how)
    file, worker, born = worker_of(run)
    assert file == "orphan" or Path(file).parents[1] == Path(__file__).resolve().parents[2]
    assert stop(run, grace=0.3) == "stopped"
    wait_for(lambda: process.is_gone(worker, born))
    status = run.read_status()
    assert status is not None
    assert "ended by force" in status.message
    assert not run.stop_requested()


@posix
def test_a_job_in_a_terminal_is_killed_with_its_workers_only(go: Launcher, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {}, {})
    with open(run.log_file, "ab") as log:
        command = [sys.executable, str(tmp_path / "tiny_job.py"), str(run.path), "stubborn worker"]
        root = str(Path(__file__).resolve().parents[2])
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, env={**os.environ, "PYTHONPATH": root}
        )
    _, worker, born = worker_of(run)
    assert kill(run) == "stopped"
    wait_for(lambda: process.is_gone(worker, born))
    assert child.wait(5) == -signal.SIGKILL


@posix
def test_a_stubborn_job_is_ended_in_the_second_step(go: Launcher) -> None:
    run = go("stubborn")
    wait_for(lambda: run.state() == "running")
    assert stop(run, grace=0.3) == "stopped"


@posix
def test_only_the_very_process_is_killed(go: Launcher, tmp_path: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    run = RunDirectory.create(tmp_path / "run", {}, {})
    own = {"v": 1, "state": "running", "heartbeat": time.time(), "host": socket.gethostname()}
    files.write_json(run.status_file, own | {"pid": bystander.pid, "process_start": "another time"})
    assert kill(run) == "stopped"
    files.write_json(run.status_file, own | {"pid": bystander.pid, "process_start": ""})
    with pytest.raises(EnvironmentFault, match="does not say whether"):
        kill(run)
    start_time = process.process_start(bystander.pid)
    files.write_json(
        run.status_file, own | {"host": "elsewhere", "pid": bystander.pid, "process_start": start_time}
    )
    with pytest.raises(SettingsError, match="runs on elsewhere"):
        kill(run)
    with pytest.raises(SettingsError, match="runs on elsewhere"):
        stop(run, grace=0.1)
    assert run.stop_requested()
    assert bystander.poll() is None
    bystander.communicate(b"\n")


@posix
def test_a_zombie_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = process.process_start(child.pid)
    assert born
    assert process.process_start(child.pid) == born
    assert born != process.process_start(os.getpid())
    os.kill(child.pid, signal.SIGKILL)
    wait_for(lambda: process.is_gone(child.pid, born))
    assert child.returncode is None  # nobody has waited for it yet
    child.communicate()


@posix
def test_a_process_that_ends_while_it_is_asked_about_is_gone(monkeypatch) -> None:
    """It is there for the first question and not for the second, as after a kill on a busy machine."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = process.process_start(child.pid)
    read = process._stat

    def ends_first(pid: int) -> list[str]:
        child.communicate(b"\n")
        return read(pid)

    monkeypatch.setattr(process, "_stat", ends_first)
    assert born and process.process_start(child.pid) is None


@posix
def test_a_job_that_ends_while_it_is_verified_is_gone_and_no_riddle(tmp_path: Path, monkeypatch) -> None:
    run = RunDirectory.create(tmp_path / "run", {}, {})
    run.write_status("running")
    answers = iter([process.process_start(os.getpid())])  # alive once, then gone
    monkeypatch.setattr(process, "process_start", lambda pid: next(answers, None))
    monkeypatch.setattr("VoCoCore.runs.launch.kill_tree", lambda pid: None)
    assert kill(run) == "stopped"


def test_on_windows_a_window_that_kills_does_not_wait_for_the_program_that_does(monkeypatch) -> None:
    started: list[tuple[list[str], list[str]]] = []
    hidden = 0x08000000

    class Played:
        def __init__(self, words: list[str], creationflags: int, **_: Any) -> None:
            assert creationflags == hidden, "a window of its own would flash up"
            self.waits: list[str] = []
            started.append((words, self.waits))

        def wait(self) -> None:
            self.waits.append("waited")

        def poll(self) -> int:
            return 0

    monkeypatch.setattr("VoCoCore.runs.launch.sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(subprocess, "Popen", Played)
    monkeypatch.setattr(subprocess, "CREATE_NO_WINDOW", hidden, raising=False)
    kill_tree(77)
    kill_tree(77, wait=False)
    assert [words for words, _ in started] == [["taskkill", "/PID", "77", "/T", "/F"]] * 2
    assert [waits for _, waits in started] == [["waited"], []]


@posix
@pytest.mark.skipif(not shutil.which("ps"), reason="no ps here")
def test_ps_tells_what_proc_does(monkeypatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.pid in process.descendants(os.getpid())
    monkeypatch.setattr(process, "_HAS_PROC", False)
    assert child.pid in process.descendants(os.getpid())
    born = process.process_start(child.pid)
    assert born
    assert re.search(r"\d\d:\d\d:\d\d \d{4}$", born)
    assert process.is_same(child.pid, born)
    os.kill(child.pid, signal.SIGKILL)
    wait_for(lambda: process.is_gone(child.pid, born))
    child.communicate()
    assert process.is_gone(child.pid, born)
