"""events.jsonl: one JSON object a line, only ever added to, readable while it grows and after any crash.

Every event has ``v`` (1), ``time`` (seconds since 1970) and ``type``. Numbers that JSON does not know are
written as the strings "nan", "inf" and "-inf"; reading turns those of a metrics event back into numbers.

Size: every event is written, except that of ``progress`` at most one every 5 s is kept, and of the training
metrics, after the first 5000 of an attempt, at most one every 10 s. A day at full speed stays under 15 MB
with 15 metrics a line, and a short run keeps everything.

Resuming goes back to a checkpoint, so an earlier attempt may have gone further than the later one started:
what it said about steps beyond that point no longer holds, and readers drop it.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from VoCoCore.runs import files

Event = dict[str, Any]
TYPES = ("started", "stage", "progress", "metrics", "image", "checkpoint", "warning", "error", "finished")
_UNDONE = ("progress", "metrics", "image", "checkpoint")  # what going back to a checkpoint takes back
_CHUNK = 1 << 22  # bytes read at a time: some 30 ms of parsing

PROGRESS_EVERY = 5.0  # seconds
METRICS_FREE = 5000  # events
METRICS_EVERY = 10.0  # seconds


class EventWriter:
    """Adds events to a file, whole lines only; one writer at a time (the holder of the run's lock)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._thinning = {
            "progress": _Thinning(1, PROGRESS_EVERY),
            "metrics": _Thinning(METRICS_FREE, METRICS_EVERY),
        }
        with files.writing(path):
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115  open as long as the writer
            self._end_torn_line()

    def emit(self, type_: str, /, **values: Any) -> bool:
        """Add one event; False where it was left out to keep the file small.

        Values may be numbers, text, paths, lists, dicts, and NumPy or torch scalars. Raises EnvironmentFault
        where the disk takes no more; the file then still ends with a whole line.
        """
        if type_ not in TYPES:
            raise ValueError(f"not a type of event: {type_!r}")
        if self._is_left_out(type_, values):
            return False
        event = {"v": 1, "time": round(time.time(), 3), "type": type_, **values}
        line = json.dumps(_strict(event), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        with self._guard, files.writing(self._path):
            start = os.fstat(self._file.fileno()).st_size
            rest = memoryview(line)
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                self._file.truncate(start)
                raise
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _is_left_out(self, type_: str, values: Mapping[str, Any]) -> bool:
        last = type_ == "progress" and values.get("step") == values.get("total")
        rare = type_ == "metrics" and values.get("split") != "train"
        thinning = self._thinning.get(type_)
        return not (last or rare or thinning is None or thinning.admits())

    def _end_torn_line(self) -> None:
        if self._file.tell() == 0:
            return
        with open(self._path, "rb") as written:
            written.seek(-1, os.SEEK_END)
            torn = written.read(1) != b"\n"
        if torn:
            self._file.write(b"\n")


class _Thinning:
    """Lets the first ``free`` events pass, then one every ``interval`` seconds."""

    def __init__(self, free: int, interval: float) -> None:
        self._free, self._interval, self._last = free, interval, -math.inf

    def admits(self) -> bool:
        now = time.monotonic()
        if self._free <= 0 and now - self._last < self._interval:
            return False
        self._free, self._last = self._free - 1, now
        return True


class EventReader:
    """Reads a file of events while it grows; remembers how far it came."""

    def __init__(self, path: str | Path) -> None:
        self.restarts = 0  # how often the file was replaced by another one and read again from its start
        self._path = Path(path)
        self._offset = 0
        self._before = b""  # the last bytes already read: other bytes there mean another file

    def read(self) -> list[Event]:
        """Return the events added since the last call, at most some megabytes' worth; an empty list if none.

        Nothing is dropped but what is not an event: call until the list is empty, then give it to `settled`.
        A last line still being written waits for the next call.
        """
        events: list[Event] = []
        try:
            with open(self._path, "rb") as file:
                self._find_place(file)
                while not events and (data := file.read(_CHUNK)):
                    events, used = _parse(data)
                    if not used and len(data) < _CHUNK:
                        break
                    used = used or len(data)  # no event is that long
                    self._offset += used
                    self._before = (self._before + data[:used])[-64:]
                    file.seek(self._offset)
        except OSError:
            return []
        return events

    def _find_place(self, file: BinaryIO) -> None:
        """Move ``file`` to where the last call ended, to its start where it is not the same file any more."""
        file.seek(self._offset - len(self._before))
        if file.read(len(self._before)) != self._before:
            self.restarts += 1
            self._offset, self._before = 0, b""
            file.seek(0)


def read_events(path: str | Path) -> list[Event]:
    """Return all events in ``path`` that still hold (see `settled`); an empty list where there is no file."""
    reader, events = EventReader(path), []
    while new := reader.read():
        events += new
    return settled(events)


def settled(events: Iterable[Event]) -> list[Event]:
    """Return ``events`` without what later attempts took back.

    When an attempt starts at a step, earlier progress, metrics, images and checkpoints beyond it are dropped.
    """
    kept: list[Event] = []
    for event in events:
        if event["type"] == "started":
            start = step_of(event)
            kept = [other for other in kept if not is_undone(other, start)]
        kept.append(event)
    return kept


def is_undone(event: Event, start: float) -> bool:
    """Whether a later attempt that started at step ``start`` took ``event`` back."""
    return event["type"] in _UNDONE and step_of(event, 0) > start


def step_of(event: Event, otherwise: float = math.inf) -> float:
    """Return the event's step, ``otherwise`` where it names none."""
    step = event.get("step")
    return step if isinstance(step, int | float) and math.isfinite(step) else otherwise


def last_attempt(path: Path) -> int:
    """Return the highest attempt that ``path`` tells of, 0 where none has started."""
    try:
        with open(path, "rb") as file:
            started, _ = _parse(b"".join(line for line in file if b'"started"' in line))
    except OSError:
        return 0
    attempts = (event.get("attempt") for event in started if event["type"] == "started")
    return max((a for a in attempts if isinstance(a, int)), default=0)


def _parse(data: bytes) -> tuple[list[Event], int]:
    """Return the events in ``data`` and how many bytes are done with.

    A last line without its end counts as soon as it is a whole object, since no part of an object is one.
    """
    *lines, rest = data.split(b"\n")
    events = [event for line in lines if (event := _event(line)) is not None]
    last = _event(rest)
    if last is None:
        return events, len(data) - len(rest)
    return [*events, last], len(data)


def _event(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        return None
    if event["type"] == "metrics" and isinstance(event.get("values"), dict):
        event["values"] = {name: _number(value) for name, value in event["values"].items()}
    return event


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def _strict(value: Any) -> Any:
    """Return ``value`` as what JSON knows."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy's and torch's scalars and arrays
        return _strict(value.tolist())
    raise TypeError(f"an event cannot hold {type(value).__name__}")
