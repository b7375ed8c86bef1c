"""events.jsonl: one JSON object a line, only ever added to, readable while it grows and after any crash.

Every event has ``v`` (1), ``time`` (seconds since 1970) and ``type``. Numbers that JSON does not know are
written as the strings "nan", "inf" and "-inf"; reading turns those of a metrics event back into numbers.

Size: the first events of each kind are all kept, so a short run keeps everything; after those, and for progress
from the start, one each few seconds (``RULES``), always with the last one. ``started``, ``error`` and
``finished`` are always kept; text is cut after 2000 characters. Whatever the settings, one day of an attempt
comes to at most 52 000 lines and 20 MB with 15 metrics a line, each further day to 14 MB. Attempts that
start when the file has more than 8 MB already have no first events that are all kept.

Resuming goes back to a checkpoint, so an earlier attempt may have gone further than the later one started:
what it said about steps beyond that point no longer holds, and readers drop it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from VoCoCore.errors import EnvironmentFault
from VoCoCore.runs import files
from VoCoCore.runs.thinning import Stream

Event = dict[str, Any]
TYPES = ("started", "stage", "progress", "metrics", "image", "checkpoint", "warning", "error", "finished")
_UNDONE = ("progress", "metrics", "image", "checkpoint")  # what going back to a checkpoint takes back
_CHUNK = 1 << 19  # bytes read at a time: some 10 ms of parsing, on a busy computer 30

# For each stream of events: how many at first are all kept, and the seconds between two of the later ones.
RULES = {
    "progress": (1, 5.0),
    "metrics of training": (5000, 10.0),
    "metrics": (1000, 60.0),
    "image": (1000, 60.0),
    "checkpoint": (1000, 60.0),
    "warning": (200, 60.0),
    "stage": (500, 60.0),
    "stage under way": (500, 10.0),
}
FREE_BYTES = 8_000_000  # a file that has more when an attempt starts keeps no first events
TEXT = 2000  # characters


class EventWriter:
    """Adds events to a file, whole lines only; one writer at a time (the holder of the run's lock)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        with files.writing(path):
            self._file = files.open_end(path)  # open as long as the writer
            files.end_torn_line(self._file, path)
        roomy = os.fstat(self._file.fileno()).st_size <= FREE_BYTES
        self._streams: dict[str, Stream[Event]] = {
            name: Stream(free if roomy else 1, interval) for name, (free, interval) in RULES.items()
        }

    def emit(self, type_: str, /, **values: Any) -> bool:
        """Add one event; False where it is held back to keep the file small.

        Values may be numbers, text, paths, lists, dicts, and NumPy or torch scalars. Raises EnvironmentFault
        where the disk takes no more; the file then still ends with a whole line.
        """
        if type_ not in TYPES:
            raise ValueError(f"not a type of event: {type_!r}")
        event = {"v": 1, "time": round(time.time(), 3), "type": type_, **values}
        stream = self._streams.get(_stream_of(event))
        with self._guard:
            passes = stream is None or stream.admits(event, _ends(event))
            # The end says how far it came, so what led there comes before it.
            self._let_go(each.overdue() if stream else each.take() for each in self._streams.values())
            if passes:
                self._write(event)
        return passes

    def _let_go(self, held: Iterable[Event | None]) -> None:
        for event in sorted((one for one in held if one), key=lambda one: one["time"]):
            self._write(event)

    def _write(self, event: Event) -> None:
        line = json.dumps(strict(_cut(event)), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        with files.writing(self._path):
            files.write_or_nothing(self._file, line)

    def close(self) -> None:
        """Write what is held back, and close the file."""
        with self._guard:
            if self._file.closed:
                return
            with suppress(EnvironmentFault, TypeError):  # the job has ended, and has said how
                self._let_go(stream.take() for stream in self._streams.values())
            self._file.close()


def _stream_of(event: Event) -> str:
    """Name of the stream in RULES that ``event`` belongs to; its type where it belongs to none."""
    if event["type"] == "metrics" and event.get("split") == "train":
        return "metrics of training"
    return "stage under way" if event["type"] == "stage" and "done" in event else event["type"]


def _ends(event: Event) -> bool:
    return "total" in event and event["total"] == event.get("step", event.get("done"))


def _cut(event: Event) -> Event:
    """``event`` with texts of a bearable length: a message may name a hundred thousand files."""
    long = {name: text for name, text in event.items() if isinstance(text, str) and len(text) > TEXT}
    return {**event, **{name: text[:TEXT] + " ..." for name, text in long.items()}} if long else event


class EventReader:
    """Reads a file of events while it grows; remembers how far it came."""

    def __init__(self, path: str | Path) -> None:
        self.restarts = 0  # how often the file was replaced by another one and read again from its start
        self._path = Path(path)
        self._offset = 0
        self._before = b""  # the last bytes already read: other bytes there mean another file

    def read(self) -> list[Event]:
        """Return the events added since the last call, at most half a megabyte's worth; an empty list if none.

        Nothing is dropped but what is not an event: call until the list is empty, then give it to `settled`.
        A last line still being written waits for the next call.
        """
        events: list[Event] = []
        try:
            with files.open_plain(self._path) as file:
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


def tail(path: Path, most: int) -> list[Event]:
    """Return the events in the last ``most`` bytes of ``path``, oldest first; an empty list where there is no file."""
    try:
        with files.open_plain(path) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - most))
            data = file.read(most)
    except OSError:
        return []
    return _parse(data if end <= most else data.partition(b"\n")[2])[0]


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
    step = finite(event.get("step"))
    return otherwise if step is None else step


def finite(value: Any) -> float | None:
    """Return ``value`` if it is a number that a float can hold, else None: a file may hold anything."""
    try:
        return value if isinstance(value, int | float) and math.isfinite(value) else None
    except OverflowError:
        return None


def last_attempt(path: Path) -> int:
    """Return the highest attempt that ``path`` tells of, 0 where none has started."""
    try:
        with files.open_plain(path) as file:
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
        # Readers keep them all, 240 000 of a month: with names of their own each would take twice the memory.
        event = {sys.intern(name): value for name, value in event.items()}
        event["values"] = {sys.intern(name): _number(value) for name, value in event["values"].items()}
    return event


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def strict(value: Any) -> Any:
    """Return ``value`` as what JSON knows; NaN and infinity as text. Raises TypeError for what it does not."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy's and torch's scalars and arrays
        return strict(value.tolist())
    raise TypeError(f"an event cannot hold {type(value).__name__}")
