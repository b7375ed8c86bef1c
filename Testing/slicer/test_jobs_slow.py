"""The table of jobs where files are slow or cannot be read: nothing holds the window, and nothing wrong is said."""

from __future__ import annotations

import builtins
import io
import json
import os
import threading
import time
from contextlib import contextmanager

import pytest
from made_jobs import makeRun, progress, train, until, write

from VoCoCore.runs import known
from VoCoCore.runs.directory import RunDirectory
from VoCoSlicerLib import job_rows
from VoCoSlicerLib.logic import VoCoLogic


@pytest.fixture
def logic():
    return VoCoLogic(scene=object())


def manyKnown(folder, **states):
    """A known run for each name; returns their folders."""
    runs = [makeRun(folder / name, state, pid=os.getpid()) for name, state in states.items()]
    for run in runs:
        known.remember(run)
    return runs


@contextmanager
def slow(folder, seconds=0.01):
    """Each question to the disk about something below ``folder`` takes ``seconds``, as over a network; yields these."""
    asked = []

    def delayed(action):
        def later(path, *words, **more):
            if isinstance(path, str | os.PathLike) and str(path).startswith(str(folder)):
                asked.append(str(path))
                time.sleep(seconds)
            return action(path, *words, **more)

        return later

    with pytest.MonkeyPatch.context() as patch:
        for place, name in ((os, "stat"), (os, "open"), (os, "scandir"), (builtins, "open"), (io, "open")):
            patch.setattr(place, name, delayed(getattr(place, name)))
        yield asked


def test_a_slow_disk_holds_the_window_for_moments_and_every_run_has_its_turn(logic, tmp_path):
    going = manyKnown(tmp_path / "runs", one="running", two="running", three="running", done="finished")[:3]
    with slow(tmp_path / "runs") as asked:
        for _ in range(40):
            before = len(asked)
            logic.jobs.rows()
            assert len(asked) - before <= 4, "each takes longer than a call may"
        assert len(logic.jobs.rows()) == 4 and not logic.jobs.behind
        for run in going:
            write(run, [train(40, 0.125)], "a")
        losses = {}
        for _ in range(60):
            losses = {row.path: row.loss for row in logic.jobs.rows()}
        assert [losses[run] for run in going] == [0.125] * 3


def test_what_a_run_has_left_stands_in_its_row_and_is_not_asked_again(logic, tmp_path):
    runs = manyKnown(tmp_path, old="finished", new="running")
    until(lambda: len(logic.jobs.rows()) == 2, 60, 0.0)
    assert {(row.result, row.hasLog, row.hasReport) for row in logic.jobs.rows()} == {("", False, False)}
    for run, kind in zip(runs, ("encoder", "model"), strict=True):
        (run / "weights").mkdir()
        (run / "weights" / f"{kind}.safetensors").touch()
        (run / "log.txt").touch()
        (run / "report.html").touch()
    rows = until(lambda: all(row.result for row in logic.jobs.rows()) and logic.jobs.rows(), 60, 0.0)
    found = {row.name: (row.result, row.hasLog, row.hasReport) for row in rows}
    assert found == {"old": ("encoder", True, True), "new": ("model", True, True)}
    looks, listed = [], os.scandir
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", lambda folder: looks.append(folder) or listed(folder))
        for _ in range(5):
            logic.jobs.rows()
    assert looks == []


def refusing(monkeypatch, file):
    """Windows' answer to the second who opens ``file``, until this says otherwise: ``[True]``."""
    refused, opened = [True], builtins.open

    def open_(path, *words, **more):
        if refused[0] and str(path) == str(file):
            raise PermissionError(13, "The process cannot access the file", str(path))
        return opened(path, *words, **more)

    monkeypatch.setattr(builtins, "open", open_)
    monkeypatch.setattr("VoCoCore.runs.files.PATIENCE", 2.0)
    return refused


def test_a_status_that_another_process_has_open_is_not_waited_for_and_the_row_stays(
    logic, tmp_path, monkeypatch
):
    (run,) = manyKnown(tmp_path, one="running")
    (row,) = logic.jobs.rows()
    refused = refusing(monkeypatch, run / "status.json")
    write(run, [progress(40)], "a")
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", lambda _: pytest.fail("no patience in a window"))
        for _ in range(5):
            assert logic.jobs.rows() == [row]
    refused[0] = False
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "state": "finished", "step": 777}))
    assert until(lambda: logic.jobs.rows()[0].step == 777, 60)


def test_a_run_that_can_never_be_read_is_shown_and_asked_ever_more_rarely(logic, tmp_path, monkeypatch):
    (run,) = manyKnown(tmp_path, one="stopped")
    refusing(monkeypatch, run / "status.json")
    assert logic.jobs.rows() == [], "a moment later it may say how it stands"
    assert until(logic.jobs.rows, 60)[0].state == "lost"
    looks, glance = [], job_rows.glance_json
    monkeypatch.setattr(job_rows, "glance_json", lambda path: looks.append(path) or glance(path))
    now = time.monotonic()
    for second in range(1, 61):
        monkeypatch.setattr(job_rows.time, "monotonic", lambda second=second: now + second)
        logic.jobs.rows()
    assert 3 <= len(looks) <= 8


def test_closing_asks_only_the_jobs_that_were_under_way_and_waits_for_no_disk(logic, tmp_path, monkeypatch):
    """Of a thousand runs a window that closes cannot ask each, and one of them may lie on a disk that is away."""
    names = {f"going{number}": "running" for number in range(3)}
    going = manyKnown(tmp_path, **names, done="finished", held="stopped")[:3]
    until(lambda: len(logic.jobs.rows()) == 5, 60, 0.0)
    status = json.loads((going[0] / "status.json").read_text())
    (going[0] / "status.json").write_text(json.dumps({**status, "state": "finished"}))
    RunDirectory(going[1]).request_stop()
    looks, state, awake = [], RunDirectory.state, threading.Event()

    def noted(run):
        looks.append(run.path)
        return state(run)

    monkeypatch.setattr(RunDirectory, "state", noted)
    assert {row.path: row.state for row in logic.activeRuns()} == {going[1]: "stopping", going[2]: "running"}
    assert sorted(looks) == sorted(going), "the others are not asked"
    monkeypatch.setattr(RunDirectory, "state", lambda run: awake.wait(600) and state(run))
    assert len(logic.activeRuns()) == 3, "as they were at the last look, and before the disk is there again"
    awake.set()
