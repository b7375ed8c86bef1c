"""A job's events as plain lines, few enough to be read: on a terminal, in log.txt, for a script of Slicer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from VoCoCore.runs.narrate import narrate
from VoCoCore.runs.thinning import Stream

# Seconds between plain progress lines: a log of a day stays readable.
PLAIN_EVERY = 10.0
FREE = 200  # lines of each seldom kind that are all written
LONGEST = 2000  # characters of a line


class PlainLines:
    """Writes one line for each event that matters: progress, training metrics and how far a stage is at most every
    ``every`` seconds, all else likewise after its first 200 lines; the last of each kind is always written.

    With ``every`` 60, as for log.txt, a day comes to at most 13 000 lines and 2 MB, whatever the settings.
    """

    def __init__(self, write: Callable[[str], None] = print, every: float = PLAIN_EVERY) -> None:
        self.write, self.every = write, every
        self.streams: dict[str, Stream[str]] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        if (line := narrate(event)) is None:
            return
        kind = str(event["type"])
        if kind in ("started", "error", "finished"):
            self.flush()
            self._write(line)
            return
        stream = self._stream(kind, event)
        if stream.admits(line, self._ends(event)):
            self._write(line)

    def flush(self) -> None:
        """Write what is held back: nothing comes after it."""
        for stream in self.streams.values():
            self._write(stream.take())

    def _stream(self, kind: str, event: dict[str, Any]) -> Stream[str]:
        often = kind == "progress" or event.get("split") == "train" or "done" in event
        name = f"{kind} {'often' if often else 'seldom'}"
        if name not in self.streams:
            self.streams[name] = Stream(1 if often else FREE, self.every)
        return self.streams[name]

    def _write(self, line: str | None) -> None:
        if line is not None:
            self.write(line[:LONGEST])

    @staticmethod
    def _ends(event: dict[str, Any]) -> bool:
        return event.get("step", event.get("done", 0)) == event.get("total", -1)
