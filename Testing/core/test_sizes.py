"""A run of a day keeps its events and its log small, whatever its settings, and says all that matters."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from VoCoCore.runs import events, thinning
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.events import RULES, EventReader, EventWriter, read_events
from VoCoCore.runs.follow import Follower
from VoCoCore.runs.lines import FREE, PlainLines
from VoCoCore.runs.thinning import LASTS, Stream

ROOT = Path(__file__).resolve().parents[2]
DAY = 86_400.0
NAMES = [f"{kind}_{part}" for kind in ("loss", "similarity", "gradient") for part in "abcde"]


class Clock:
    """Time that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(thinning.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(events.time, "time", lambda: 1.78e9 + self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def a_day(clock: Clock, say, rate: float) -> int:
    """What a job says that logs, validates, warns and keeps a checkpoint at every step, ``rate`` a second."""
    draw = random.Random(0)
    total = int(DAY * rate)
    values = {name: draw.random() for name in NAMES}
    say("started", attempt=1, step=0, device="cuda (NVIDIA H100 80GB HBM3), bf16, chosen from cuda, cpu")
    for step in range(1, total + 1):
        clock.now += 1 / rate
        say("stage", name="preparing", done=step, total=total, text="about 3 h 20 min left")
        say("progress", step=step, total=total, rate=19.98765432109876, eta_s=12345.678901234567)
        say("metrics", step=step, split="train", values=values)
        say("metrics", step=step, split="val", values=values)
        say("image", file="validation/latest.npz", step=step)
        say("checkpoint", step=step)
        say(
            "warning",
            message=f"checkpoint {step} is odd in some way that is worth a sentence",
            hint="mend it",
        )
    say("finished", state="finished", step=total)
    return total


def test_a_stream_lets_pass_what_its_rule_says_however_much_comes(clock: Clock) -> None:
    for free, interval, rate in ((1, 5.0, 100.0), (50, 10.0, 20.0), (0, 60.0, 3.0)):
        stream: Stream[int] = Stream(free, interval)
        passed = 0
        for number in range(20_000):
            clock.now += 1 / rate
            passed += stream.admits(number, ends=number % 3 == 0)
            passed += stream.overdue() is not None
        assert passed <= free + LASTS + 1 + 20_000 / rate / interval


def test_what_is_held_back_comes_when_nothing_newer_does(clock: Clock) -> None:
    stream: Stream[str] = Stream(1, 10.0)
    assert stream.admits("a") and not stream.admits("b") and not stream.admits("c")
    assert stream.overdue() is None
    clock.now += 20
    assert stream.overdue() == "c" and stream.overdue() is None and stream.take() is None
    assert not stream.admits("d") and stream.take() == "d"


def test_a_day_of_events_is_bounded_and_keeps_the_first_and_the_last(clock: Clock, tmp_path: Path) -> None:
    # The bound does not depend on the rate: two steps a second stand for twenty, see the stream's own test.
    writer = EventWriter(tmp_path / "e")
    total = a_day(clock, writer.emit, rate=2.0)
    writer.close()
    kept = read_events(tmp_path / "e")
    streams = Counter(events._stream_of(event) for event in kept)
    for name, (free, interval) in RULES.items():
        assert streams[name] <= free + LASTS + 2 + DAY / interval
        assert name == "stage" or streams[name] >= free + 0.9 * DAY / interval
    assert len(kept) <= 52_000
    assert (tmp_path / "e").stat().st_size < 20e6
    last = {events._stream_of(event): event.get("step", event.get("done")) for event in kept}
    assert {step for name, step in last.items() if name not in ("warning", "started")} == {total}
    assert kept[-1]["type"] == "finished" and kept[-2]["message"].startswith(f"checkpoint {total} ")
    steps = [event["step"] for event in kept if event["type"] == "checkpoint"]
    assert steps[:1000] == list(range(1, 1001)) and steps == sorted(set(steps))


def test_by_the_rules_alone_no_file_of_a_day_is_larger(tmp_path: Path, clock: Clock) -> None:
    lines = sum(free + LASTS + 2 + DAY / interval for free, interval in RULES.values())
    assert lines < 52_000  # as events.py and developer.md say


def test_many_attempts_in_a_day_do_not_each_begin_anew(clock: Clock, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(events, "FREE_BYTES", 20_000)
    path = tmp_path / "e"
    for attempt in range(1, 51):
        writer = EventWriter(path)
        writer.emit("started", attempt=attempt, step=0)
        for step in range(1, 101):
            clock.now += 0.01
            writer.emit("metrics", step=step, split="train", values={"loss": 0.5})
        writer.close()
    assert path.stat().st_size < 20_000 + 100 * 120 + 50 * 4 * 120


def test_a_long_text_is_cut(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "e")
    writer.emit("warning", message="name of a file, " * 100_000, hint="short")
    assert (tmp_path / "e").stat().st_size < 2500
    assert read_events(tmp_path / "e")[0]["message"].endswith(" ...")


def test_errors_are_all_kept(clock: Clock, tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "e")
    for number in range(300):
        writer.emit("checkpoint", step=number)
        writer.emit("error", kind="DataError", message=str(number))
    assert sum(event["type"] == "error" for event in read_events(tmp_path / "e")) == 300


def test_a_day_of_log_lines_is_bounded_and_ends_with_the_last(clock: Clock) -> None:
    lines: list[str] = []
    speak = PlainLines(lines.append, every=60.0)
    total = a_day(clock, lambda kind, **fields: speak({"type": kind, **fields}), rate=2.0)
    assert len(lines) <= 13_000
    assert sum(len(f"2026-01-01 00:00:00  {line}\n") for line in lines) < 2e6
    assert lines[-1] == f"finished at step {total}"
    for words in (
        f"step {total}  held-out",
        f"step {total} of {total}",
        f"checkpoint of step {total} written",
    ):
        assert any(line.startswith(words) for line in lines[-8:]), words
    assert [line for line in lines if line.startswith("checkpoint of")][:FREE] == [
        f"checkpoint of step {step} written" for step in range(1, FREE + 1)
    ]


def test_a_short_run_keeps_everything(clock: Clock, tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "e")
    for step in range(1, 101):
        clock.now += 0.1
        writer.emit("metrics", step=step, split="train", values={"loss": 1.0})
        writer.emit("metrics", step=step, split="val", values={"loss": 1.0})
        writer.emit("checkpoint", step=step)
    assert len(read_events(tmp_path / "e")) == 300


# Followers


def test_a_follower_that_comes_at_the_end_of_a_day_sees_all_that_holds(clock: Clock, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {}, {})
    with run.lock():
        a_day(clock, run.events.emit, rate=0.1)
        begin = 4000
        run.events.emit("started", attempt=2, step=begin)
        run.events.emit("metrics", step=begin + 1, split="val", values={"loss": math.nan})
    with open(run.events_file, "ab") as file:
        file.write(b'{"v":1,"type":"metrics","step":4002,"split":"val","values":{"loss":1')  # torn
    late = Follower(run.path)
    late.read_all()
    steps, losses = late.curve("loss", "val")
    assert steps == [begin + 1] and math.isnan(losses[0])
    steps, _ = late.curve(NAMES[0], "val")
    assert steps[0] == 1 and steps[-1] <= begin and len(steps) > 1000
    assert late.poll() == []
    with open(run.events_file, "ab") as file:
        file.write(b".5}}\n")
    assert [event["values"]["loss"] for event in late.poll()] == [1.5]


FOLLOWER = """
import sys, time
from VoCoCore.runs.follow import Follower
follower, numbers, over = Follower(sys.argv[1]), [], False
give_up = time.monotonic() + 40
print("ready", flush=True)
while not over:
    assert time.monotonic() < give_up
    new = follower.poll()
    numbers += [event["number"] for event in new if event["type"] == "error"]
    over = any(event["type"] == "finished" for event in new)
    time.sleep(0.002)
print(numbers == list(range(int(sys.argv[2]))), len(numbers))
"""


@pytest.mark.slow
def test_ten_followers_at_once_see_every_event_of_a_writer_once(tmp_path: Path) -> None:
    run, many = RunDirectory.create(tmp_path / "run", {}, {}), 2000
    command = [sys.executable, "-c", FOLLOWER, str(run.path), str(many)]
    with run.lock():
        followers = [
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(10)
        ]
        assert {follower.stdout.readline() for follower in followers if follower.stdout} == {"ready\n"}
        for number in range(many):
            time.sleep(0.0005)
            run.events.emit("error", number=number, message="x" * (number % 700))
        run.events.emit("finished", state="finished")
    assert [follower.communicate(timeout=60)[0].strip() for follower in followers] == [f"True {many}"] * 10


def test_a_run_on_another_machines_disk_is_told_by_its_heartbeat_alone(clock: Clock, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {}, {})
    run.events.emit("started", attempt=1, step=0)

    def beat(number: int) -> None:
        status = json.loads(run.status_file.read_text())
        there = {"state": "running", "host": "ward7", "pid": 1, "heartbeat": 1.78e9 + number, "step": number}
        run.status_file.write_text(json.dumps({**status, **there}))

    beat(0)
    follower = Follower(run.path)
    for number in range(1, 4):
        clock.now += 50
        beat(number)
        assert (follower.summary().state, follower.summary().step) == ("running", number)
    clock.now += 59
    assert follower.summary().state == "running"
    clock.now += 2
    assert follower.summary().state == "lost"
    beat(9)
    assert follower.summary().state == "running"
    assert EventReader(run.events_file).read()[0]["type"] == "started"
