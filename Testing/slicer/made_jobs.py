"""Runs as jobs leave them, made by writing their files, and a small real job; torch stays out of this process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from VoCoCore.runs import known
from VoCoCore.runs.process import host_name, process_start

# A network of seconds that has no end of its own within a test.
SMALL = {
    "preset": "tiny",
    "recipe": "paper",
    "model.encoder": "unet",
    "model.feature_size": 4,
    "model.projector_width": 16,
    "crops.counts": [2, 2, 1],
    "optim.steps": 100_000,
    "data.val_fraction": 0.3,
    "run.log_every": 1,
    "run.validate_every": 50_000,
    "run.checkpoint_every": 50_000,
    "run.threads": 1,
    "data.workers": 0,
}
# A fine-tuning that one core does in three minutes.
FINETUNING = {
    "optim.steps": 160,
    "patches.size": (32, 32, 32),
    "patches.per_case": 1,
    "data.val_fraction": 0.17,
    "data.test_fraction": 0.0,
    "run.validate_every": 20,
}


def makeRun(folder: Path, state="finished", step=500, events=(), message="", pid=None, **status) -> Path:
    """Write a run's files. ``pid``: the process that works on it (None: one that is gone)."""
    folder.mkdir(parents=True)
    alive = (
        {"pid": pid, "process_start": process_start(pid)} if pid else {"pid": 2**22 - 3, "process_start": "x"}
    )
    told = {
        "v": 1,
        "state": state,
        "step": step,
        "total": 1000,
        "heartbeat": time.time(),
        "host": host_name(),
    }
    told |= {"attempt": 1, "message": message, **alive, **status}
    (folder / "settings.json").write_text(json.dumps({"recipe": "paper", "crops": {}}))
    (folder / "status.json").write_text(json.dumps(told))
    write(folder, events)
    return folder


def runKnown(tmp_path, name="one", state="finished", **facts):
    """A run that the table of jobs shows."""
    events = facts.pop("events", [started(), train(10, 1.25), val(10, dice=0.5)])
    run = makeRun(tmp_path / "runs" / name, state, events=events, **facts)
    known.remember(run)
    return run


def choose(hand, panel, name):
    """Select a run in the table of jobs."""
    panel.poll()
    (place,) = [n for n, row in enumerate(hand.rows("runsTable")) if row[0] == name]
    hand.selectRow("runsTable", place)


def write(folder: Path, events, mode="w") -> None:
    """Write (or with ``mode`` "a" add) events of a run."""
    with open(folder / "events.jsonl", mode) as file:
        file.writelines(json.dumps({"v": 1, "time": 1e9, **event}) + "\n" for event in events)


def started(step=0, attempt=1, **more):
    return {"type": "started", "attempt": attempt, "step": step, "device": "CPU, 2 threads", **more}


def train(step, loss):
    return {"type": "metrics", "step": step, "split": "train", "values": {"loss": loss, "rate": 3.0}}


def val(step, **values):
    return {"type": "metrics", "step": step, "split": "val", "values": values}


def progress(step, rate=2.0, eta=100.0):
    return {"type": "progress", "step": step, "total": 1000, "rate": rate, "eta_s": eta}


def makeCohort(folder: Path, cases=4) -> Path:
    """A few synthetic volumes, written by another process."""
    text = (
        "import sys; from pathlib import Path; from VoCoCore.data.phantom import make_cohort;"
        f"make_cohort(Path(sys.argv[1]), cases={cases}, size=(40, 40, 24), labels=False)"
    )
    subprocess.run([sys.executable, "-c", text, str(folder)], check=True, cwd=Path(__file__).parents[2])
    return folder


def until(condition, patience=60.0, pause=0.05):
    """Wait for ``condition`` and return what it gave; fails after ``patience`` seconds."""
    end = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(pause)
    return found
