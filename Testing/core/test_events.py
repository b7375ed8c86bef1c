"""events.jsonl: what is written can be read, whatever the file was cut to, filled with or read beside."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from VoCoCore.errors import EnvironmentFault
from VoCoCore.runs import events
from VoCoCore.runs.events import EventReader, EventWriter, last_attempt, read_events

ROOT = Path(__file__).resolve().parents[2]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
event_lists = st.lists(st.dictionaries(st.sampled_from("abc"), json_values), min_size=1, max_size=6)


def write(path: Path, *lines: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"v": 1, "time": 0, **line}) + "\n" for line in lines)


def test_every_event_is_a_line_of_strict_json(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "e")
    values = {"loss": math.nan, "up": np.float32(math.inf), "down": -math.inf, "n": np.int64(3), "x": 0.5}
    writer.emit("metrics", step=np.int64(1), split="train", values=values)
    writer.emit("image", file=Path("images") / "a.png", box=np.zeros((1, 2)), kind="Größe")
    first, second = (tmp_path / "e").read_text(encoding="ascii").splitlines()

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is not JSON")

    assert json.loads(second, parse_constant=refuse)["box"] == [[0.0, 0.0]]
    assert json.loads(first, parse_constant=refuse)["values"]["loss"] == "nan"
    metrics, image = read_events(tmp_path / "e")
    assert str(metrics["values"]) == str(
        {"loss": math.nan, "up": math.inf, "down": -math.inf, "n": 3, "x": 0.5}
    )
    assert (image["type"], image["file"], image["kind"]) == (
        "image",
        os.path.join("images", "a.png"),
        "Größe",
    )
    assert image["v"] == 1
    assert abs(image["time"] - time.time()) < 60


def test_types_and_values_are_checked_when_written(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "e")
    with pytest.raises(ValueError, match="progres"):
        writer.emit("progres", step=1)
    with pytest.raises(TypeError, match="object"):
        writer.emit("stage", name=object())
    assert (tmp_path / "e").read_bytes() == b""


@given(values=event_lists, cut=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_every_complete_event_survives_a_cut_at_any_byte(tmp_path_factory, values, cut) -> None:
    path = tmp_path_factory.mktemp("cut") / "e"
    writer = EventWriter(path)
    for number, value in enumerate(values):
        writer.emit("stage", number=number, value=value)
    writer.close()
    whole = path.read_bytes()
    cut = cut % (len(whole) + 1)
    path.write_bytes(whole[:cut])
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    complete = sum(cut >= end for end in ends)  # also without the end of its line
    assert [event["number"] for event in read_events(path)] == list(range(complete))

    late = EventReader(path)
    seen = late.read()
    resumed = EventWriter(path)
    resumed.emit("stage", number=99, value=None)
    resumed.close()
    expected = [*range(complete), 99]
    assert [event["number"] for event in read_events(path)] == expected
    assert [event["number"] for event in seen + late.read()] == expected
    assert [event["value"] for event in read_events(path)][:complete] == values[:complete]


@given(st.lists(st.binary(max_size=30), max_size=8))
@settings(max_examples=60, deadline=None)
def test_garbage_between_events_is_passed_over(tmp_path_factory, garbage) -> None:
    path = tmp_path_factory.mktemp("garbage") / "e"
    good = b'{"v":1,"time":0,"type":"stage","name":"good"}'
    path.write_bytes(b"\n".join([good, *(piece + b"\n" + good for piece in garbage)]))
    names = [event.get("name") for event in read_events(path) if event.get("name") == "good"]
    assert len(names) == len(garbage) + 1


def test_what_a_reader_does_not_know_does_not_stop_it(tmp_path: Path) -> None:
    path = tmp_path / "e"
    write(
        path,
        {"type": "from the future", "v": 9},
        {"type": "metrics", "step": "seven", "values": 3},
        {"type": "metrics", "step": 5, "values": {"loss": [1]}},
        {"type": "started", "step": None},
        {"type": 7},
    )
    with open(path, "ab") as file:
        file.write(b"[" * 100_000 + b"\n" + b'{"type":"stage","step":Infinity}\n')
    assert [event["type"] for event in read_events(path)] == [
        "from the future",
        "metrics",
        "metrics",
        "started",
        "stage",
    ]


def test_metrics_of_a_long_run_share_their_names(tmp_path: Path) -> None:
    """A month has 240 000 of them, which whoever draws curves keeps."""
    line = json.dumps({"v": 1, "type": "metrics", "step": 1, "values": {"loss_prediction": 1.5}})
    (tmp_path / "events.jsonl").write_text(f"{line}\n{line}\n")
    first, second = read_events(tmp_path / "events.jsonl")
    for a, b in ((first, second), (first["values"], second["values"])):
        assert all(one is other for one, other in zip(a, b, strict=True))


def test_a_missing_file_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "none") == []
    assert last_attempt(tmp_path / "none") == 0


def test_going_back_to_a_checkpoint_takes_back_what_came_after_it(tmp_path: Path) -> None:
    path = tmp_path / "e"
    write(
        path,
        {"type": "started", "attempt": 1, "step": 0},
        {"type": "metrics", "step": 10, "values": {"loss": 1.0}},
        {"type": "checkpoint", "step": 10},
        {"type": "metrics", "step": 20, "values": {"loss": 2.0}},
        {"type": "progress", "step": 25},
        {"type": "warning", "step": 25, "message": "hot"},
        {"type": "started", "attempt": 2, "step": 10},
        {"type": "metrics", "step": 20, "values": {"loss": 3.0}},
        {"type": "started", "attempt": 3, "step": 20},
    )
    kept = [(event["type"], event.get("step")) for event in read_events(path)]
    assert kept == [
        ("started", 0),
        ("metrics", 10),
        ("checkpoint", 10),
        ("warning", 25),
        ("started", 10),
        ("metrics", 20),
        ("started", 20),
    ]
    assert [e["values"]["loss"] for e in read_events(path) if e["type"] == "metrics"] == [1.0, 3.0]
    assert last_attempt(path) == 3


def test_long_runs_are_thinned_and_short_ones_are_not(tmp_path: Path, monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr(events.time, "monotonic", lambda: now)
    monkeypatch.setitem(events.RULES, "metrics of training", (50, 10.0))
    writer = EventWriter(tmp_path / "e")
    for step in range(1, 1001):  # ten steps a second
        now += 0.1
        writer.emit("progress", step=step, total=1000)
        writer.emit("metrics", step=step, split="train", values={"loss": 1.0})
        if step % 100 == 0:
            writer.emit("metrics", step=step, split="val", values={"loss": 1.0})
    kept = read_events(tmp_path / "e")
    progress = [event["step"] for event in kept if event["type"] == "progress"]
    train = [event["step"] for event in kept if event.get("split") == "train"]
    assert progress[0] == 1
    assert progress[-1] == 1000
    assert 15 <= len(progress) <= 22
    assert train[:50] == list(range(1, 51))
    assert 8 <= len(train[50:]) <= 10
    assert sum(event.get("split") == "val" for event in kept) == 10


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch) -> None:
    writer = EventWriter(tmp_path / "e")
    writer.emit("stage", name="one")
    raw = writer._file

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(raw, name)

        def write(self, data: bytes) -> int:
            if len(data) <= 20:
                raise OSError(errno.ENOSPC, "No space left on device")
            return raw.write(bytes(data)[:10]) or 0

    monkeypatch.setattr(writer, "_file", Full())
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        writer.emit("stage", name="two")
    monkeypatch.setattr(writer, "_file", raw)
    writer.emit("stage", name="three")
    assert [event["name"] for event in read_events(tmp_path / "e")] == ["one", "three"]
    assert len((tmp_path / "e").read_bytes().splitlines()) == 2


@pytest.mark.skipif(os.name != "posix", reason="file-size limits are POSIX")
def test_a_real_limit_on_the_files_size_is_survived(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from VoCoCore.errors import EnvironmentFault
from VoCoCore.runs.events import EventWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
writer = EventWriter(Path(sys.argv[1]))
try:
    for number in range(100): writer.emit("stage", number=number)
except EnvironmentFault as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "e")], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert "the disk is full" in done.stdout
    numbers = [event["number"] for event in read_events(tmp_path / "e")]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 10
    assert (tmp_path / "e").read_bytes().endswith(b"\n")


def test_readers_beside_a_writer_that_is_killed_and_resumed_see_every_event_once(tmp_path: Path) -> None:
    code = """
import itertools, sys, time
from pathlib import Path
from VoCoCore.runs.events import EventWriter
writer = EventWriter(Path(sys.argv[1]))
for number in itertools.count(int(sys.argv[2])):
    writer.emit("stage", number=number, filling="x" * 500)
    time.sleep(0.0005)
"""
    path = tmp_path / "e"
    readers = [EventReader(path) for _ in range(10)]
    seen: list[list[int]] = [[] for _ in readers]

    def read() -> None:
        for reader, numbers in zip(readers, seen, strict=True):
            numbers += [event["number"] for event in reader.read()]

    for _ in range(2):
        begin = str(len(read_events(path)))
        child = subprocess.Popen([sys.executable, "-c", code, str(path), begin], cwd=ROOT)
        give_up = time.monotonic() + 20
        while len(seen[0]) < int(begin) + 300 and time.monotonic() < give_up:
            read()
        child.kill()
        child.wait()
    while len(seen[0]) < len(read_events(path)):
        read()
    assert all(numbers == list(range(len(numbers))) for numbers in seen)
    assert len({len(numbers) for numbers in seen}) == 1
    assert len(seen[0]) >= 600
