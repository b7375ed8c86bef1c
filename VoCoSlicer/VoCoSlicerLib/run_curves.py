"""The curves of a run that a person looks at, kept up to date at the cost of what is new."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from VoCoCore.runs.events import finite
from VoCoCore.runs.follow import Follower
from VoCoSlicerLib.job_rows import SCORES

MOST = 2000  # points of a drawn curve
_AT_ONCE = 16_000  # events taken in one call: some 12 ms
LOSS, HELD_OUT, CHANCE = ("train", "loss"), ("val", "loss"), ("val", "chance")
_KEPT = {"train": ("loss",), "val": ("loss", "chance", *SCORES)}

Points = tuple[list[float], list[float]]  # steps and values


class RunCurves:
    """What ``follower`` has polled of one run: losses, the score on held-out volumes, and what chance would reach."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self._forget()

    def update(self) -> bool:
        """Take what is new; False where nothing is. Points beyond a checkpoint that the run went back to vanish.

        One call takes a part of a long history: `behind` says whether there is more.
        """
        metrics = self.follower.metrics
        taken = self._taken
        if taken and (len(metrics) < taken or metrics[taken - 1] is not self._last):
            self._forget()
        new = metrics[self._taken : self._taken + _AT_ONCE]
        for event in new:
            self._take(event)
        self._taken += len(new)
        self._last = metrics[self._taken - 1] if self._taken else None
        changed, self._changed = self._changed, False
        return changed

    @property
    def behind(self) -> bool:
        """Whether the follower has polled more than `update` has taken."""
        return self._taken < len(self.follower.metrics)

    @property
    def score(self) -> str:
        """The name of the score by which this run's states are compared; "" where it has said none yet."""
        return next((name for name in SCORES if self._points["val"][name][0]), "")

    def drawn(self, split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of a curve to be drawn: float64, at most MOST of each, NaN for a value that is none."""
        points = self._points[split].get(name, ([], []))
        steps, values = (np.array(numbers, np.float64) for numbers in points)
        kept = thinned(values)
        return steps[kept], values[kept]

    def _forget(self) -> None:
        self._points: dict[str, dict[str, Points]] = {
            split: {name: ([], []) for name in names} for split, names in _KEPT.items()
        }
        self._taken, self._last, self._changed = 0, None, True

    def _take(self, event: dict[str, Any]) -> None:
        step, split = finite(event.get("step")), event.get("split")
        if step is None or split not in ("train", "val"):  # of any kind: a file may hold anything
            return
        values = event["values"]
        for name, (steps, numbers) in self._points[split].items():
            if name not in values:
                continue
            number = finite(values[name])
            steps.append(float(step))
            numbers.append(math.nan if number is None else float(number))
            self._changed = True


def thinned(values: np.ndarray) -> np.ndarray:
    """Which of ``values`` (n,) to draw: all, or the smallest and the largest of each stretch, so that no spike is lost.

    Stretches are powers of two long: a growing curve then stays as it is drawn, and only grows.
    """
    count = len(values)
    if count <= MOST:
        return np.arange(count)
    length = 1 << math.ceil(math.log2(count / (MOST // 2 - 1)))
    starts = np.arange(0, count - length + 1, length)
    rows = values[: len(starts) * length].reshape(-1, length)
    kept = np.zeros(count, bool)  # np.unique imports half of numpy at its first call
    kept[0] = kept[-1] = True
    bad = np.isnan(rows)  # a gap where a whole stretch is so; else the others count
    kept[starts + np.where(bad, np.inf, rows).argmin(1)] = True
    kept[starts + np.where(bad, -np.inf, rows).argmax(1)] = True
    return np.flatnonzero(kept)
