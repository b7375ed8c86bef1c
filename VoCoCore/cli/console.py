"""A job's events on the terminal: a live bar where there is one, plain lines where there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from VoCoCore.runs.lines import PlainLines
from VoCoCore.runs.narrate import duration, narrate, number

Listener = Callable[[dict[str, Any]], None]


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
