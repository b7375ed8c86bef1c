"""A run's folder: creating and opening it, status, heartbeat, stop, log, environment."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import sys
import time
from pathlib import Path

import pytest

from VoCoCore.errors import EnvironmentFault, SettingsError
from VoCoCore.runs import directory, files, process
from VoCoCore.runs.describe import describe
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.environment import environment
from VoCoCore.runs.events import last_attempt

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", {"seed": 1}, {"python": "3"})


# Creating and opening


def test_a_new_run_holds_settings_environment_and_a_state(run: RunDirectory) -> None:
    assert RunDirectory.open(run.path).read_settings() == {"seed": 1}
    assert json.loads((run.path / "environment.json").read_text()) == {"python": "3"}
    assert run.state() == "preparing"
    assert all(f.is_dir() for f in (run.checkpoints, run.weights, run.private, run.validation))


def test_a_launchers_log_does_not_make_a_folder_full(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("hello\n")
    assert RunDirectory.create(tmp_path, {}, {}).state() == "preparing"


def test_a_folder_of_folds_is_named_as_such(tmp_path):
    for number in (0, 1):
        RunDirectory.create(tmp_path / "folds" / f"fold-{number}", {}, {})
    with pytest.raises(SettingsError, match="holds several folds") as refused:
        RunDirectory.open(tmp_path / "folds")
    assert str(tmp_path / "folds" / "fold-0") in (refused.value.hint or "")


@pytest.mark.parametrize("name", ["thesis.docx", "images", "settings.json"])
def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(SettingsError, match="not empty and is not a run"):
        RunDirectory.create(tmp_path, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_existing_run_is_not_overwritten(run: RunDirectory) -> None:
    with pytest.raises(SettingsError, match="already holds a run") as caught:
        RunDirectory.create(run.path, {"seed": 2}, {})
    assert "--resume" in caught.value.hint
    assert run.read_settings() == {"seed": 1}


def test_a_run_that_was_made_a_moment_ago_is_not_overwritten(tmp_path: Path, monkeypatch) -> None:
    check, jobs = directory.check_usable, []

    def slow_check(path: Path) -> None:
        check(path)
        monkeypatch.setattr(directory, "check_usable", check)
        job = RunDirectory.create(path, {"seed": 1}, {})  # as another process does, right then
        jobs.append(job.lock())
        jobs[0].__enter__()

    monkeypatch.setattr(directory, "check_usable", slow_check)
    with pytest.raises(SettingsError, match="a job is running"):
        RunDirectory.create(tmp_path / "run", {"seed": 2}, {})
    assert RunDirectory(tmp_path / "run").read_settings() == {"seed": 1}
    assert RunDirectory(tmp_path / "run").is_locked()
    jobs[0].__exit__(None, None, None)


def test_what_is_not_a_run_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "settings.json").write_text("{}")
    for path, words in [
        (tmp_path / "gone", "does not exist"),
        (file, "is a file"),
        (tmp_path, "settings.json is missing"),
        (tmp_path / "half", "status.json is missing"),
    ]:
        with pytest.raises(SettingsError, match=words):
            RunDirectory.open(path)
    with pytest.raises(SettingsError, match="is a file"):
        RunDirectory.create(file, {}, {})


def test_a_name_that_looks_like_somebodys_home_is_a_folder() -> None:
    assert RunDirectory("~nobody-is-called-so/run").path.parent.name.endswith("nobody-is-called-so")
    assert RunDirectory("~/run").path == Path.home() / "run"


def test_damaged_settings_are_said(run: RunDirectory) -> None:
    run.settings_file.write_text('{"seed": ')
    with pytest.raises(SettingsError, match=r"settings\.json is missing or damaged"):
        run.read_settings()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(EnvironmentFault, match="permission denied"):
        RunDirectory.create(tmp_path / "run", {}, {})


# Status


def test_status_keeps_what_is_not_said_again(run: RunDirectory) -> None:
    run.next_attempt()
    run.write_status("running", 5, 100)
    run.write_status("stopping", message="asked")
    now = run.read_status()
    assert now is not None
    assert (now.state, now.step, now.total, now.attempt, now.message) == ("stopping", 5, 100, 1, "asked")
    assert (now.host, now.pid) == (socket.gethostname(), os.getpid())
    assert process.is_same(now.pid, now.process_start)
    assert json.loads(run.status_file.read_text())["v"] == 1


def test_nobody_writes_lost(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match="lost"):
        run.write_status("lost")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"state": "odd"}', '{"state": "running", "pid": "x"}', "\0"]
)
def test_a_damaged_status_is_no_status(run: RunDirectory, text: str) -> None:
    run.status_file.write_text(text)
    assert run.read_status() is None
    assert run.state() == "lost"


def test_a_status_from_the_future_is_read(run: RunDirectory) -> None:
    there = json.loads(run.status_file.read_text())
    files.write_json(run.status_file, there | {"v": 7, "mood": "fine", "state": "finished"})
    assert run.state() == "finished"


def test_the_heartbeat_moves_and_ends(run: RunDirectory) -> None:
    with run.heartbeat(0.02):
        beats: set[float] = set()
        while len(beats) < 3:
            now = run.read_status()
            assert now is not None
            beats.add(now.heartbeat)
    last = run.status_file.read_bytes()
    time.sleep(0.1)
    assert run.status_file.read_bytes() == last


def test_a_heartbeat_outlives_a_disk_that_is_full_for_a_while(run: RunDirectory, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with run.heartbeat(0.02):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", full)
            with pytest.raises(EnvironmentFault, match="the disk is full"):
                run.write_status("running", 1)
            time.sleep(0.1)
        give_up = time.monotonic() + 5
        while run.state() != "running":
            assert time.monotonic() < give_up
            time.sleep(0.01)
    assert not list(run.path.glob(".*.tmp"))


def test_each_attempt_has_a_number(run: RunDirectory) -> None:
    assert run.next_attempt() == 1
    run.write_status("failed")
    assert RunDirectory.open(run.path).next_attempt() == 2
    run.status_file.unlink()
    run.events.emit("started", attempt=4, step=0)
    run.events.close()
    assert RunDirectory.open(run.path).next_attempt() == 5


def test_stopping_is_asked_seen_and_forgotten(run: RunDirectory) -> None:
    run.write_status("running")
    assert not run.stop_requested()
    RunDirectory(run.path).request_stop()
    assert run.stop_requested()
    assert run.state() == "stopping"
    run.clear_stop()
    run.clear_stop()
    assert not run.stop_requested()
    assert run.state() == "running"


def test_the_log_takes_any_text(run: RunDirectory) -> None:
    run.log("Größe \udcff")
    run.log("second")
    lines = run.log_file.read_text(encoding="utf-8").splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "", line) for line in lines] == [
        "Größe \\udcff",
        "second",
    ]


# Environment


def test_the_environment_names_versions_and_no_person(monkeypatch) -> None:
    text = json.dumps(environment())
    assert environment()["packages"]["numpy"]
    for secret in (socket.gethostname(), str(Path.home()), sys.prefix, str(ROOT)):
        assert secret not in text


# A folder that somebody else has made


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["status.json", "events.jsonl", "run.lock", "environment.json"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(run: RunDirectory, name: str) -> None:
    (run.path / "events.jsonl").touch()
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    describe(run.path)
    assert run.is_locked() in (True, False) and files.read_json(run.path / name) is None
    assert isinstance(run.taken(), SettingsError) and last_attempt(run.events_file) == 0


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
@pytest.mark.parametrize("name", ["run.lock", "events.jsonl", "log.txt", "weights", "private"])
def test_a_job_writes_through_no_link_out_of_its_run(run: RunDirectory, tmp_path: Path, name: str) -> None:
    mine = tmp_path / "mine"
    if (run.path / name).is_dir():
        (run.path / name).rmdir()
        mine.mkdir()
    else:
        (run.path / name).unlink(missing_ok=True)
        mine.write_text("thesis")
    (run.path / name).symlink_to(mine)
    with pytest.raises(EnvironmentFault, match=f"{name}.* is a link"), run.lock():
        run.log("hello")
        run.events.emit("stage", name="preparing")
    assert mine.is_dir() or mine.read_text() == "thesis"


def test_an_owner_that_is_nested_without_end_is_nobody(run: RunDirectory) -> None:
    run.lock_file.write_text("[" * 100_000)
    assert isinstance(run.taken(), SettingsError)
