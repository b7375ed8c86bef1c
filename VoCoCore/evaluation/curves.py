"""The course of training as six small charts, drawn from a run's ``metrics`` events.

Long runs are thinned: a line then shows the mean of each stretch of reports, the band behind it their
smallest and largest value, so that no spike is lost. Values that are not numbers leave a gap and a cross
on the step axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from VoCoCore.evaluation.pages import COLOURS, INK, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Event = Mapping[str, Any]
MOST_LINES = 9  # of a legend above each other: more do not fit into a chart
MOST_POINTS = 300
DESCRIPTION = (
    "Six charts over training steps: loss terms, position accuracy beside chance, similarity of base crops, "
    "effective rank, learning rate, skipped steps"
)


@dataclass(frozen=True)
class Line:
    """One curve: which metric of which split, what the legend calls it, how it looks."""

    split: str
    name: str
    label: str
    colour: str
    style: str = "-"


Panels = Sequence[tuple[str, Sequence[Line]]]  # title and curves of each chart
_ORANGE, _BLUE, _GREEN, _PINK, _RED = COLOURS[:5]
PANELS: Panels = (
    (
        "loss",
        (
            Line("train", "loss", "all terms", INK),
            Line("train", "loss_prediction", "prediction", _ORANGE),
            Line("train", "loss_regularisation", "regularisation", _GREEN),
            Line("train", "loss_inter", "between volumes", _PINK),
            Line("val", "loss", "all terms, held out", INK, "o--"),
        ),
    ),
    (
        "position accuracy",
        (
            Line("train", "position_accuracy", "training", _BLUE),
            Line("val", "position_accuracy", "held out, 95 %", _RED, "o-"),
            Line("val", "chance", "chance", INK, "--"),
            Line("val", "shuffled_accuracy", "labels shuffled", INK, "x:"),
        ),
    ),
    (
        "similarity of base crops (near 1: collapse)",
        (
            Line("train", "base_similarity", "training", _BLUE),
            Line("val", "base_similarity", "held out", _RED, "o-"),
        ),
    ),
    (
        "effective rank of base crops (near 1: collapse)",
        (
            Line("train", "effective_rank", "training", _BLUE),
            Line("val", "effective_rank", "held out", _RED, "o-"),
        ),
    ),
    ("learning rate", (Line("train", "learning_rate", "", INK),)),
    ("skipped steps, in all", (Line("train", "skipped_steps", "", INK),)),
)


def series(events: Iterable[Event], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values (float64, NaN for anything that is not a finite number) of one metric."""
    steps, values = [], []
    for event in events:
        found = event.get("values")
        if event.get("type") == "metrics" and event.get("split") == split and isinstance(found, Mapping):
            step = event.get("step")
            if name in found and isinstance(step, int | float):
                steps.append(step)
                values.append(found[name])
    numbers = [v if isinstance(v, int | float) and np.isfinite(v) else np.nan for v in values]
    return np.asarray(steps, float), np.asarray(numbers, float)


def thinned(steps: np.ndarray, values: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, ...]:
    """Steps, means, smallest and largest values of at most ``most`` stretches (NaN: no numbers there)."""
    if len(steps) <= most:
        return steps, values, values, values
    starts = np.linspace(0, len(steps), most + 1).astype(int)[:-1]
    fine = np.isfinite(values)
    count = np.add.reduceat(fine, starts, dtype=float)
    count[count == 0] = np.nan
    lengths = np.diff(np.append(starts, len(steps)))
    return (
        np.add.reduceat(steps, starts) / lengths,
        np.add.reduceat(np.where(fine, values, 0), starts) / count,
        np.where(np.isnan(count), np.nan, np.minimum.reduceat(np.where(fine, values, np.inf), starts)),
        np.where(np.isnan(count), np.nan, np.maximum.reduceat(np.where(fine, values, -np.inf), starts)),
    )


def curves_figure(events: Iterable[Event]) -> Figure | None:
    """The charts of ``events`` (as `runs.events.read_events` gives them), None before the first metrics."""
    metrics = metrics_of(events)
    if not metrics:
        return None
    figure, grid = charts(metrics, PANELS, interval="accuracy")
    grid[0, 1].set_ylim(0, 1)
    grid[0, 2].set_ylim(min(0.0, grid[0, 2].get_ylim()[0]), 1)
    grid[1, 0].set_ylim(bottom=0)
    grid[1, 2].set_ylim(bottom=0, top=max(1.0, grid[1, 2].get_ylim()[1]))
    return figure


def metrics_of(events: Iterable[Event]) -> list[Event]:
    """The ``metrics`` events among ``events``."""
    return [event for event in events if event.get("type") == "metrics"]


def charts(metrics: Sequence[Event], panels: Panels, interval: str) -> tuple[Figure, np.ndarray]:
    """A figure with a chart for each panel in two rows, and its axes (2, n).

    Behind the second chart lies the band from the validation metric ``interval`` + "_low" to "_high".
    """
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(11, 5.2))
        figure.subplots_adjust(0.045, 0.085, 0.99, 0.95, 0.2, 0.3)
        grid = figure.subplots(2, len(panels) // 2)
        for axes, (title, lines) in zip(grid.flat, panels, strict=True):
            for line in lines:
                _draw_line(axes, line, *series(metrics, line.split, line.name))
            _finish(axes, title)
        _draw_interval(grid[0, 1], metrics, interval)
        for axes in grid[1]:
            axes.set_xlabel("step")
    return figure, grid


def _draw_line(axes: Axes, line: Line, steps: np.ndarray, values: np.ndarray) -> None:
    if not len(steps):
        return
    x, mean, low, high = thinned(steps, values)
    alone = "o" if np.isfinite(mean).sum() == 1 and line.style[0] in "-:" else ""
    width, size = (1.3, 3.5 if len(x) <= 60 else 0) if line.split == "val" else (1.0, 2.5)
    axes.plot(x, mean, alone + line.style, color=line.colour, lw=width, ms=size, label=line.label or None)
    if low is not high:
        axes.fill_between(x, low, high, color=line.colour, alpha=0.18, lw=0)
    lost = steps[np.isnan(values)]
    if len(lost):
        axes.plot(
            lost[:MOST_POINTS],
            np.zeros(len(lost[:MOST_POINTS])),
            "x",
            color=_RED,
            ms=5,
            clip_on=False,
            transform=axes.get_xaxis_transform(),
        )


def _draw_interval(axes: Axes, metrics: Sequence[Event], name: str) -> None:
    steps, low = series(metrics, "val", f"{name}_low")
    others, high = series(metrics, "val", f"{name}_high")
    if len(steps) and np.array_equal(steps, others):
        axes.fill_between(steps, low, high, color=_RED, alpha=0.2, lw=0)
        if len(steps) == 1:
            axes.vlines(steps, low, high, color=_RED, lw=1)


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.grid(True, axis="y")
    axes.yaxis.set_major_formatter("{x:.4g}")
    axes.locator_params(axis="x", integer=True, nbins=5)
    if lines := len(axes.get_legend_handles_labels()[0]):
        columns = -(-lines // MOST_LINES)
        axes.legend(loc="best", ncols=columns, handlelength=1.8, labelspacing=0.3)
    elif not axes.lines:
        axes.text(0.5, 0.5, "no values yet", transform=axes.transAxes, ha="center", va="center", fontsize=8)
