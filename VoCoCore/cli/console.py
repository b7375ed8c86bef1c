"""A job's events on the terminal: a live bar where there is one, plain lines where there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from VoCoCore.runs.narrate import duration, narrate, number
from VoCoCore.runs.thinning import Stream

Listener = Callable[[dict[str, Any]], None]
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
            for stream in self.streams.values():
                self._write(stream.take())
            self._write(line)
            return
        stream = self._stream(kind, event)
        if stream.admits(line, self._ends(event)):
            self._write(line)

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


class LiveBar:
    """A rich progress bar with rate, time left, loss terms and memory; other events scroll above it."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
        )
        self.tasks: dict[str, Any] = {}
        self.words = {"rate": "", "metrics": ""}

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "stage" and "done" in event:
            self._move(event["name"], event["done"], event["total"], event.get("text", ""))
        elif kind == "progress":
            self.words["rate"] = f"{number(event['rate'], 3)} steps/s, {duration(event['eta_s'])} left"
            self._move("training", event["step"], event["total"], " ".join(self.words.values()))
        elif kind == "metrics" and event["split"] == "train":
            values = event["values"]
            terms = " ".join(
                f"{k[5:][:4]} {number(v, 3)}" for k, v in sorted(values.items()) if k.startswith("loss_")
            )
            self.words["metrics"] = (
                f" loss {number(values['loss'], 3)} ({terms}) {number(values['memory_mb'], 4)} MB"
            )
        elif (line := narrate(event)) is not None:
            self.bar.console.print(line, highlight=False, markup=False)
        if kind == "finished":
            self.close()

    def _move(self, name: str, done: int, total: int, words: str) -> None:
        if name not in self.tasks:
            self.bar.start()
            self.tasks[name] = self.bar.add_task(name, total=total, words=words)
        self.bar.update(self.tasks[name], completed=done, total=total, words=words)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.bar.stop()


def listener() -> Listener:
    """The one that suits standard output."""
    return LiveBar() if sys.stdout.isatty() else PlainLines(lambda line: print(line, flush=True))
