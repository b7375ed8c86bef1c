"""Following a run by reading its folder: late, during a resume, after the file was replaced."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from made_runs import make_run

from VoCoCore.runs import events
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.follow import Follower
from VoCoCore.runs.narrate import narrate


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", {}, {})


def train(run: RunDirectory, first: int, last: int, slope: float = 1.0) -> None:
    """What a job says of the steps from ``first`` to ``last``."""
    for step in range(first, last + 1):
        run.events.emit("metrics", step=step, split="train", values={"loss": slope * step})
        run.events.emit("progress", step=step, total=100, rate=2.0, eta_s=(100 - step) / 2)
    run.write_status("running", last, 100)


def begin(run: RunDirectory, step: int) -> None:
    run.events.emit("started", attempt=run.next_attempt(), step=step)


def test_a_follower_may_come_first_and_sees_everything_once(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "run")
    assert follower.poll() == []
    assert follower.summary().state == "lost"
    run = RunDirectory.create(tmp_path / "run", {}, {})
    with run.lock():
        begin(run, 0)
        run.events.emit("stage", name="training")
        assert [event["type"] for event in follower.poll()] == ["started", "stage"]
        train(run, 1, 4)
        run.events.emit("metrics", step=4, split="val", values={"loss": 9.0})
        assert len([event for event in follower.poll() if event["type"] == "metrics"]) == 5
        assert follower.poll() == []
        now = follower.summary()
        assert (now.state, now.step, now.total, now.attempt, now.stage) == ("running", 4, 100, 1, "training")
        assert (now.rate, now.eta_s) == (2.0, 49.5)
        assert (now.train, now.val) == ({"loss": 4.0}, {"loss": 9.0})
        run.write_status("finished", 100, message="well")
        done = follower.summary()
        assert (done.state, done.step, done.rate, done.eta_s, done.message) == (
            "finished",
            100,
            None,
            None,
            "well",
        )


def test_going_back_is_followed_live_and_late_alike(run: RunDirectory) -> None:
    live = Follower(run)
    with run.lock():
        begin(run, 0)
        train(run, 1, 8)
        live.poll()
        assert live.curve("loss") == ([*range(1, 9)], [float(x) for x in range(1, 9)])
    with run.lock():
        begin(run, 5)
        new = live.poll()
        assert [(event["type"], event["step"]) for event in new] == [("started", 5)]
        assert live.curve("loss")[0] == [1, 2, 3, 4, 5]
        assert live.summary().train == {"loss": 5.0}
        train(run, 6, 7, slope=-1)
    live.poll()
    late = Follower(run.path)
    late.poll()
    for follower in (live, late):
        assert follower.curve("loss") == ([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, -6, -7])
        assert follower.curve("loss", "val") == ([], [])
        assert follower.summary().attempt == 2
    assert late.metrics == live.metrics


def test_a_torn_last_line_waits_for_its_rest(run: RunDirectory) -> None:
    follower = Follower(run)
    line = b'{"v":1,"time":0,"type":"stage","name":"caf\xc3\xa9"}\n'
    for cut in range(len(line)):
        run.events_file.write_bytes(line)
        follower.poll()
        run.events_file.write_bytes(line + line[:cut])
        early = follower.poll()
        run.events_file.write_bytes(line + line)
        names = [event["name"] for event in early + follower.poll()]
        assert names == ["café"]
        run.events_file.unlink()
        assert follower.poll() == []
        follower = Follower(run)


def test_a_replaced_file_is_read_again_from_its_start(run: RunDirectory) -> None:
    with run.lock():
        begin(run, 0)
        train(run, 1, 3)
    follower = Follower(run)
    follower.poll()
    copied = run.events_file.read_bytes()
    run.events_file.unlink()
    run.events_file.write_bytes(copied + b'{"type":"stage","name":"synchronised"}\n')
    assert [event["type"] for event in follower.poll()] == ["stage"]

    run.events_file.unlink()
    with run.lock():
        begin(run, 0)
        train(run, 1, 2, slope=-1)
    assert follower.poll()[0]["type"] == "started"
    assert follower.curve("loss") == ([1, 2], [-1.0, -2.0])
    assert follower.summary().stage == ""


def test_a_long_history_comes_in_pieces(run: RunDirectory, monkeypatch) -> None:
    monkeypatch.setattr(events, "_CHUNK", 1000)
    with run.lock():
        begin(run, 0)
        train(run, 1, 20)
    with open(run.events_file, "ab") as file:
        file.write(b"#" * 5000 + b"\n" + b'{"type":"stage","name":"end"}\n')
    follower, pieces = Follower(run), 0
    while new := follower.poll():
        pieces += 1
        assert sum(len(str(event)) for event in new) < 3000
    assert pieces > 3
    assert follower.curve("loss")[0] == [*range(1, 21)]
    assert follower.summary().stage == "end"


def test_odd_numbers_are_no_obstacle(run: RunDirectory) -> None:
    with run.lock():
        begin(run, 0)
        run.events.emit("metrics", step=1, split="train", values={"loss": math.nan})
        run.events.emit("metrics", step=2, split="train", values={"other": 1.0})
        run.events.emit("progress", step=math.inf, total=None, eta_s=math.nan)
        run.events.emit("metrics", split="train", values={"loss": 2.0})
        run.write_status("running", 2)
        follower = Follower(run)
        follower.poll()
        steps, losses = follower.curve("loss")
        assert steps == [1, 0]
        assert math.isnan(losses[0])
        assert follower.summary().eta_s is None


def test_the_step_is_that_of_the_last_checkpoint_where_nothing_newer_was_said(tmp_path):
    """Counters are read every so many steps, and a checkpoint may lie between."""
    events = [
        {"type": "started", "attempt": 1, "step": 0},
        {"type": "progress", "step": 40, "total": 60},
        {"type": "checkpoint", "step": 45},
    ]
    follower = Follower(make_run(tmp_path / "run", state="stopped", step=40, events=events))
    follower.poll()
    assert follower.summary().step == 45


def test_of_a_run_that_has_ended_all_is_told_however_long_it_was(run: RunDirectory) -> None:
    with run.lock():
        lines = (f'{{"v":1,"time":1.0,"type":"progress","step":{n},"total":9000}}\n' for n in range(1, 9001))
        run.events_file.write_text("".join(lines))
        assert len(Follower(run).poll()) < 9000, "more than one look reads"
        run.write_status("finished", 9000)
    told: list[int] = []
    assert Follower(run).until_ended(lambda event: told.append(event["step"]), pause=60) == "finished"
    assert told == [*range(1, 9001)]


@pytest.mark.parametrize(
    ("volumes", "said"), [(1.0, "(of one volume, chance"), (2.0, "(95 % 0.2 to 0.8, chance")]
)
def test_the_interval_of_one_volume_is_none(volumes: float, said: str) -> None:
    values = {
        "position_accuracy": 0.5,
        "accuracy_low": 0.2,
        "accuracy_high": 0.8,
        "chance": 0.1,
        "volumes": volumes,
    }
    line = narrate({"type": "metrics", "step": 3, "split": "val", "values": values})
    assert line is not None and said in line
