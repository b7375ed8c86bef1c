"""What the reports of all jobs share: how the run stands, what went wrong, data, settings and environment."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from VoCoCore.data.private_names import names_in
from VoCoCore.evaluation import tables
from VoCoCore.evaluation.verdict import number
from VoCoCore.fields import flatten
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.events import read_events
from VoCoCore.runs.files import read_json
from VoCoCore.runs.narrate import duration
from VoCoCore.runs.privacy import without_names
from VoCoCore.runs.status import ACTIVE, Status

Event = Mapping[str, Any]
STATES = {
    "preparing": "preparing the volumes",
    "running": "running",
    "stopping": "stopping after this step",
    "stopped": "stopped on request; it can be resumed",
    "finished": "finished",
    "failed": "failed",
    "lost": "lost: the process ended without a word; it can be resumed",
}


@dataclass(frozen=True)
class RunPage:
    """A run as its report sees it. Raises SettingsError, on opening, where there is no run."""

    run: RunDirectory

    @classmethod
    def open(cls, folder: str | Path) -> RunPage:
        """The page of the run ``folder``."""
        return cls(RunDirectory.open(folder))

    @cached_property
    def events(self) -> list[Any]:
        """All events so far."""
        return read_events(self.run.events_file)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings by dotted name; empty where the file is damaged, for a report must still come."""
        found = read_json(self.run.settings_file)
        return dict(flatten(found)) if isinstance(found, dict) else {}

    @cached_property
    def environment(self) -> Any:
        """Content of environment.json."""
        return read_json(self.run.path / "environment.json")

    @cached_property
    def state(self) -> str:
        """How the run stands, see `RunDirectory.state`."""
        return self.run.state()

    @cached_property
    def _names(self) -> frozenset[str]:
        return names_in(self.run.private / "index.json")

    def _shown(self, text: object) -> str:
        """A text of the job as anyone may read it."""
        return without_names(text, self._names)

    @property
    def active(self) -> bool:
        """Whether the job is not over."""
        return self.state in ACTIVE

    def latest(self, split: str) -> Mapping[str, Any] | None:
        """The last metrics of a split."""
        return latest(self.events, split)

    def progress_facts(self) -> list[tuple[str, str, str]]:
        """State, step and time as (name, value, note)."""
        status = self.run.read_status()
        step, total = (status.step, status.total) if status else (0, 0)
        words = STATES[self.state]
        return [
            ("state", words.split(":")[0].split(";")[0], words.partition("; ")[2]),
            ("step", f"{step:,}", f"of {total:,}" if total else ""),
            ("time", duration(_worked(self.events)), _starts(self.events)),
        ]

    def work_facts(self) -> list[tuple[str, str, str]]:
        """Skipped steps and speed as (name, value, note)."""
        train = self.latest("train") or {}
        skipped, rate, memory = (number(train, name) for name in ("skipped_steps", "rate", "memory_mb"))
        return [
            ("skipped steps", f"{skipped:.0f}" if np.isfinite(skipped) else "unknown", "gradient not finite"),
            (
                "speed",
                f"{rate:.3g} steps/s" if np.isfinite(rate) else "unknown",
                f"{memory:,.0f} MB" if memory > 0 else "",
            ),
        ]

    def common(self) -> dict[str, Any]:
        """What `run_page.html.j2` needs beside title, words, verdict, facts, curves and pictures."""
        return {
            "active": self.active,
            "written": _moment(time.time()),
            "errors": _errors(self.events, self.run.read_status(), self._shown),
            "warnings": _warnings(self.events, self._shown),
            "data": tables.data_rows(self.events, self.environment),
            "settings": tables.settings_rows(self.settings),
            "environment": tables.environment_rows(self.events, self.environment),
        }


def latest(events: Iterable[Event], split: str) -> Mapping[str, Any] | None:
    """The values of the last ``metrics`` event of a split."""
    found = [
        e
        for e in events
        if e["type"] == "metrics" and e.get("split") == split and isinstance(e.get("values"), dict)
    ]
    return found[-1]["values"] if found else None


def _worked(events: Sequence[Event]) -> float:
    """Seconds of work in all attempts: gaps before a new attempt do not count."""
    seconds, before = 0.0, None
    for event in events:
        now = event.get("time")
        if not isinstance(now, int | float):
            continue
        if before is not None and event["type"] != "started":
            seconds += max(0.0, now - before)
        before = now
    return seconds


def _starts(events: Sequence[Event]) -> str:
    times = [e["time"] for e in events if isinstance(e.get("time"), int | float)]
    attempts = sum(e["type"] == "started" for e in events)
    if not times:
        return "not begun"
    return f"since {_moment(times[0])}" + (f", {attempts} attempts" if attempts > 1 else "")


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return "an unknown time"


def _errors(
    events: Sequence[Event], status: Status | None, shown: Callable[[object], str]
) -> list[dict[str, str]]:
    """The error that ended the run, if one did; earlier attempts' errors are history."""
    if status is None or status.state != "failed":
        return []
    said = {"kind": "", "message": status.message, "hint": "see log.txt in the run's folder"}
    last = next((e for e in reversed(events) if e["type"] in ("error", "started")), None)
    told = last if last is not None and last["type"] == "error" else said
    return [{key: shown(told.get(key, "")) for key in said}]


def _warnings(events: Sequence[Event], shown: Callable[[object], str]) -> list[tuple[str, str, int]]:
    """Warnings as (message, hint, how often), in the order of their first coming."""
    told = Counter(
        (shown(e.get("message", "")), shown(e.get("hint", ""))) for e in events if e["type"] == "warning"
    )
    return [(message, hint, times) for (message, hint), times in told.items()]
