"""A job's events on the terminal: a live bar where there is one, plain lines where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from VoCoCore.runs.narrate import duration, narrate, number

Listener = Callable[[dict[str, Any]], None]
# Seconds between plain progress lines: a log of a day stays readable.
PLAIN_EVERY = 10.0


class PlainLines:
    """Prints one line per event that matters; progress and training metrics at most every ten seconds."""

    def __init__(self, write: Callable[[str], None] = print, every: float = PLAIN_EVERY) -> None:
        self.write, self.every = write, every
        self.shown: dict[str, float] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["type"] + str(event.get("split", ""))
        often = kind in ("progress", "metricstrain", "stage") and not self._ends(event)
        now = time.monotonic()
        if often and now - self.shown.get(kind, -1e9) < self.every:
            return
        self.shown[kind] = now
        if (line := narrate(event)) is not None:
            self.write(line)

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
