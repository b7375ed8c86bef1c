"""Follow a run by reading its folder: no threads, and no waiting but in `until_ended`: a timer of a window polls.

A follower may start before the job or a day later, on this machine or on another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.events import Event, EventReader, finite, is_undone, settled, step_of
from VoCoCore.runs.status import ACTIVE


@dataclass(frozen=True)
class Summary:
    """How a run stands. ``rate`` (steps/s) and ``eta_s`` (seconds left) are None unless it is running;
    ``train`` and ``val`` hold the newest metrics by name.
    """

    state: str
    step: int
    total: int
    attempt: int
    stage: str = ""
    message: str = ""
    rate: float | None = None
    eta_s: float | None = None
    train: dict[str, float] = field(default_factory=dict)
    val: dict[str, float] = field(default_factory=dict)


class Follower:
    """Collects a run's events as they come. Call `poll` now and then, `summary` after it."""

    def __init__(self, run: RunDirectory | str | Path) -> None:
        self.run = run if isinstance(run, RunDirectory) else RunDirectory(run)
        self.metrics: list[Event] = []  # all metrics events that still hold, in order
        self._reader = EventReader(self.run.events_file)
        self._restarts = 0
        self._newest: dict[str, Event] = {}  # the last event of each type that still holds

    def poll(self) -> list[Event]:
        """Return the events that are new since the last call and still hold; an empty list if none.

        A ``started`` event among them takes back what this follower returned earlier about steps beyond its
        step (see `VoCoCore.runs.events`); `metrics` has already forgotten those. One call reads half a
        megabyte at most: a long history comes in several calls.
        """
        new = settled(self._reader.read())
        if self._reader.restarts != self._restarts:  # another file lies there now
            self._restarts = self._reader.restarts
            self.metrics, self._newest = [], {}
        for event in new:
            if event["type"] == "started":
                self._go_back(step_of(event))
            if event["type"] == "metrics" and isinstance(event.get("values"), dict):
                self.metrics.append(event)
            self._newest[event["type"]] = event
        return new

    def curve(self, name: str, split: str = "train") -> tuple[list[int], list[float]]:
        """Return the steps and values of one metric, as far as polled."""
        points = [
            (int(step_of(event, 0)), event["values"][name])
            for event in self.metrics
            if event.get("split") == split and name in event["values"]
        ]
        return [step for step, _ in points], [value for _, value in points]

    def summary(self) -> Summary:
        """Return how the run stands, from its status and the events polled so far."""
        status, state = self.run.read_status(), self.run.state()
        progress = self._newest.get("progress", {})
        running = state in ("running", "stopping")
        return Summary(
            state=state,
            step=max(status.step if status else 0, *(int(step) for step in self._steps())),
            total=status.total if status and status.total else int(_number(progress, "total") or 0),
            attempt=status.attempt if status else 0,
            stage=str(self._newest.get("stage", {}).get("name", "")),
            message=status.message if status else "",
            rate=_number(progress, "rate") if running else None,
            eta_s=_number(progress, "eta_s") if running else None,
            train=self._latest("train"),
            val=self._latest("val"),
        )

    def newest(self, type_: str) -> Event | None:
        """Return the last event of a type that still holds, as far as polled."""
        return self._newest.get(type_)

    def until_ended(self, tell: Callable[[Event], object], pause: float) -> str:
        """Tell each event, those that were there before too, until the run has ended; returns its state then.

        It is asked again after ``pause`` seconds without an event.
        """
        while True:
            state = self.run.state()  # before the events, so that what a job says last is among them
            new = self.poll()
            for event in new:
                tell(event)
            if not new and state not in ACTIVE:
                return state
            if not new:
                time.sleep(pause)

    def read_all(self) -> None:
        """Poll until nothing new is there."""
        while self.poll():
            pass

    def _go_back(self, start: float) -> None:
        self.metrics = [event for event in self.metrics if not is_undone(event, start)]
        self._newest = {t: event for t, event in self._newest.items() if not is_undone(event, start)}

    def _steps(self) -> Iterable[float]:
        events = (self._newest.get(name, {}) for name in ("started", "progress", "metrics", "checkpoint"))
        return [step_of(event, 0) for event in events]

    def _latest(self, split: str) -> dict[str, float]:
        found = (event["values"] for event in reversed(self.metrics) if event.get("split") == split)
        return dict(next(found, {}))


def _number(event: dict[str, Any], name: str) -> float | None:
    value = finite(event.get(name))
    return None if value is None else float(value)
