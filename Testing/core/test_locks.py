"""Whose run is it: locks, lost jobs and process identities, across real processes that are really killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from VoCoCore.errors import EnvironmentFault, SettingsError
from VoCoCore.runs import directory, files, lock, process, status
from VoCoCore.runs.directory import RunDirectory

ROOT = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX processes")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", {"seed": 1}, {"python": "3"})


class Other:
    """Python code that runs in another process and has said its first line."""

    def __init__(self, code: str, *arguments: object) -> None:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, encoding="utf-8")
        assert self.process.stdin
        assert self.process.stdout
        self.input, self.output = self.process.stdin, self.process.stdout
        self.pid = self.process.pid
        self.said = self.output.readline()

    def ask(self) -> str:
        self.input.write("?\n")
        self.input.flush()
        return self.output.readline().strip()

    def finish(self) -> None:
        self.input.close()
        self.process.wait(30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


Begin = Callable[..., Other]


@pytest.fixture
def other_process() -> Iterator[Begin]:
    started: list[Other] = []

    def begin(code: str, *arguments: object) -> Other:
        started.append(Other(code, *arguments))
        assert started[-1].said, "the other process ended too early"
        return started[-1]

    yield begin
    for other in started:
        other.kill()
        other.input.close()
        other.output.close()


HOLD = """
import sys
from VoCoCore.runs.directory import RunDirectory
run = RunDirectory.open(sys.argv[1])
with run.lock(), run.heartbeat(0.05):
    run.next_attempt()
    run.write_status("running", 3, 10)
    print("holding", flush=True)
    sys.stdin.read()
    run.write_status("finished", 10)
"""


def set_status(run: RunDirectory, **changes: object) -> None:
    """Write the status of some other job."""
    there = json.loads(run.status_file.read_text())
    files.write_json(run.status_file, there | {"state": "running", "heartbeat": time.time()} | changes)


def test_what_is_read_during_replacing_is_always_whole(run: RunDirectory, other_process: Begin) -> None:
    """A process that replaces the status all the time is killed; a reader beside it never sees half of it."""
    code = """
import itertools, sys
from VoCoCore.runs.directory import RunDirectory
run = RunDirectory.open(sys.argv[1])
for step in itertools.count():
    run.write_status("running", step, message="x" * 20_000)
    if step == 0: print("go", flush=True)
"""
    for _ in range(3):
        child = other_process(code, run.path)
        steps = []
        end = time.monotonic() + 60
        while len(steps) < 200 or len(set(steps)) < 4:
            assert time.monotonic() < end, "nothing was replaced"
            now = run.read_status()
            assert now is not None
            steps.append(now.step)
        child.kill()
        assert run.read_status() is not None
        assert steps == sorted(steps)
    with run.lock():
        assert not list(run.path.glob(".*.tmp"))


# Lock


def test_one_job_at_a_time(run: RunDirectory, other_process: Begin) -> None:
    child = other_process(HOLD, run.path)
    assert run.is_locked()
    who = f"host {socket.gethostname()}, pid {child.pid}, since 20"
    with pytest.raises(SettingsError, match=who), run.lock():
        pytest.fail("two jobs in one run")
    child.finish()
    with run.lock():
        assert run.is_locked()
    assert not run.is_locked()


def test_questions_of_the_owner_do_not_cost_it_the_lock(run: RunDirectory, other_process: Begin) -> None:
    """On POSIX closing any handle of a locked file would give the lock up."""
    asking = f"""
import sys
from pathlib import Path
from VoCoCore.runs import lock
for line in sys.stdin:
    print(lock.probe(Path({str(run.lock_file)!r})), flush=True)
"""
    child = other_process("print('ready', flush=True)" + asking)

    with run.lock():
        run.write_status("running")
        reader = RunDirectory.open(run.path)
        assert reader.state() == "running"
        assert reader.is_locked()
        assert lock.read_owner(run.lock_file)["pid"] == os.getpid()
        with pytest.raises(SettingsError, match="a job is running"), reader.lock():
            pytest.fail("two jobs in one process")
        assert child.ask() == "True"
    assert child.ask() == "False"


@posix
def test_orphaned_workers_do_not_keep_the_lock(run: RunDirectory, other_process: Begin) -> None:
    code = """
import os, sys, time
from VoCoCore.runs.directory import RunDirectory
run = RunDirectory.open(sys.argv[1])
with run.lock():
    run.write_status("running")
    worker = os.fork()
    if worker == 0:
        time.sleep(60)
    print(worker, flush=True)
    time.sleep(60)
"""
    child = other_process(code, run.path)
    (worker,) = process.descendants(child.pid)
    try:
        child.kill()
        assert not process.is_gone(worker, process.process_start(worker) or "")
        assert run.state() == "lost"
        with run.lock():
            run.write_status("running")
    finally:
        os.kill(worker, signal.SIGKILL)


def test_asking_at_the_same_time_does_not_stop_a_job_from_starting(
    run: RunDirectory, other_process: Begin
) -> None:
    code = """
import os, sys, time
from VoCoCore.runs import lock
print("asking", flush=True)
while True:  # as `probe` does, but slower
    handle = os.open(sys.argv[1], os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    if lock._try(handle, shared=True): time.sleep(0.02); lock._unlock(handle)
    os.close(handle)
    time.sleep(0.02)
"""
    run.lock_file.touch()
    other_process(code, run.lock_file)
    for _ in range(5):
        with run.lock():
            pass


def test_a_disk_that_does_not_answer_for_a_moment_ends_neither_job_nor_heartbeat(run, monkeypatch) -> None:
    """A network disk may have lost sight of the open lock file: nobody is known to have taken the run over."""
    read, bad = os.read, [errno.ESTALE, errno.EIO, errno.EIO]

    def stale(handle: int, count: int) -> bytes:
        if bad:
            number = bad.pop()
            raise OSError(number, os.strerror(number))
        return read(handle, count)

    with run.lock(), run.heartbeat(0.01):
        run.write_status("running", 1, 10)
        monkeypatch.setattr(lock.os, "read", stale)
        run.write_status("running", 2)
        give_up = time.monotonic() + 10
        while bad and time.monotonic() < give_up:
            time.sleep(0.01)
        before = run.read_status()
        while run.read_status() == before and time.monotonic() < give_up:
            time.sleep(0.01)
        assert run.read_status() != before


# Lost


@posix
def test_a_killed_job_is_lost_at_once(run: RunDirectory, other_process: Begin) -> None:
    child = other_process(HOLD, run.path)
    assert run.state() == "running"
    child.kill()
    assert run.state() == "lost"
    with run.lock():
        assert run.next_attempt() == 2


def test_a_job_that_ended_is_not_lost(run: RunDirectory, other_process: Begin) -> None:
    other_process(HOLD, run.path).finish()
    assert run.state() == "finished"


def test_another_machines_job_is_lost_after_a_minute_of_silence(run: RunDirectory, monkeypatch) -> None:
    """The reader's own clock counts, so the job's clock may be hours away."""
    now = 1000.0
    monkeypatch.setattr(status.time, "monotonic", lambda: now)
    wrong = time.time() - 7200
    set_status(run, host="elsewhere", pid=1, heartbeat=wrong)
    assert run.state() == "running"
    now += 59
    assert run.state() == "running"
    set_status(run, host="elsewhere", pid=1, heartbeat=wrong + 5)
    now += 59
    assert run.state() == "running"
    now += 59
    assert run.state() == "running"
    now += 2
    assert run.state() == "lost"
    set_status(run, host="elsewhere", pid=1, heartbeat=wrong + 100)
    assert run.state() == "running"


def test_a_run_copied_days_ago_is_lost_at_first_sight(run: RunDirectory) -> None:
    set_status(run, host="elsewhere", heartbeat=time.time() - 3 * 86_400)
    assert run.state() == "lost"


def test_a_process_number_used_again_is_another_process(run: RunDirectory) -> None:
    set_status(run, pid=os.getpid(), process_start="another")
    assert run.state() == "lost"


def test_a_living_job_on_another_machine_is_not_taken_over(run: RunDirectory, other_process: Begin) -> None:
    code = """
import sys, time
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs import process
process.host_name = lambda: "elsewhere"
run = RunDirectory.open(sys.argv[1])
run.write_status("running", 1, 2)
with run.heartbeat(0.3):
    print("beating", flush=True)
    sys.stdin.read()
"""
    child = other_process(code, run.path)
    with pytest.raises(SettingsError, match="a job is running"), run.lock():
        pytest.fail("two jobs in one run")
    child.kill()
    assert "elsewhere was the last to work here" in run.log_file.read_text()


def test_a_silent_job_on_another_machine_is_taken_over(run: RunDirectory, monkeypatch) -> None:
    monkeypatch.setattr(status, "LOST_AFTER", 0.3)
    set_status(run, host="elsewhere")
    with run.lock():
        run.write_status("running")
    assert not run.is_locked()


def test_where_nothing_can_be_locked_heartbeat_and_token_decide(run: RunDirectory, monkeypatch) -> None:
    def cannot(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", cannot)
    monkeypatch.setattr(status, "LOST_AFTER", 0.3)
    monkeypatch.setattr(directory, "SETTLE", 0.02)
    run.write_status("stopped")
    first, second = RunDirectory.open(run.path), RunDirectory.open(run.path)
    with first.lock():
        first.write_status("running", 1)
        assert lock.probe(run.lock_file) in (None, True)
        lock._mine.clear()  # as if the second were another process
        with second.lock():
            second.write_status("running", 2)
            with pytest.raises(EnvironmentFault, match="another job has taken over"):
                first.write_status("running", 3)
    now = run.read_status()
    assert now is not None
    assert now.step == 2
