"""The table of jobs where files are slow or cannot be read: nothing holds the window, and nothing wrong is said."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest
from made_jobs import makeRun, until

from VoCoCore.runs import known
from VoCoCore.runs.directory import RunDirectory
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
    monkeypatch.setattr(RunDirectory, "state", lambda run: awake.wait(60) and state(run))
    began = time.monotonic()
    assert len(logic.activeRuns()) == 3, "as they were at the last look"
    assert time.monotonic() - began < 5
    awake.set()
