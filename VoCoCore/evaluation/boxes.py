"""Box plots of the scores of all cases, label by label, with every case as a point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from VoCoCore.evaluation.cases_table import BY_NAME
from VoCoCore.evaluation.pages import COLOURS, INK, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = ("dice", "surface_dice", "hd95")
_MOST_POINTS = 200


def boxes_figure(tables: Mapping[str, np.ndarray], labels: Sequence[str]) -> Figure:
    """One panel for each measure of SHOWN: ``tables`` has each as (cases, labels), NaN where there is none."""
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(11, 0.75 + 0.34 * len(labels)), layout="constrained")
        grid = figure.subplots(1, len(SHOWN), sharey=True, squeeze=False)[0]
        for axes, name in zip(grid, SHOWN, strict=True):
            measure = BY_NAME[name]
            _draw(axes, tables[name] * measure.scale)
            axes.set_title(
                f"{measure.title} [{measure.unit}], {'more' if measure.better > 0 else 'less'} is better"
            )
            if measure.unit == "%":  # to 100, whatever the cases reach
                low = min(90.0, np.floor(np.nanmin(tables[name], initial=1.0) * 10) * 10)
                axes.set_xlim(low - 0.02 * (100 - low), 100 + 0.02 * (100 - low))
            else:
                axes.set_xlim(left=0)
        grid[0].set_yticks(np.arange(len(labels)), [_short(name) for name in labels])
        grid[0].set_ylim(len(labels) - 0.4, -0.6)
    return figure


def _draw(axes: Axes, table: np.ndarray) -> None:
    """Box, whiskers to the farthest case within 1.5 box lengths, median and the cases of each column."""
    axes.grid(True, axis="x")
    axes.tick_params(axis="y", length=0)
    for place in range(table.shape[1]):
        values = table[np.isfinite(table[:, place]), place]
        if not len(values):
            axes.annotate(
                "none", (0.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=7.5
            )
            continue
        _box(axes, place, values)
        # The same cases always get the same places.
        away = np.random.default_rng(0).uniform(-0.17, 0.17, len(values))
        shown = slice(None, None, -(-len(values) // _MOST_POINTS))
        axes.plot(values[shown], place + away[shown], "o", ms=3.2, mfc=COLOURS[1], mec="none", alpha=0.8)


def _box(axes: Axes, place: int, values: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    low, middle, high = np.percentile(values, [25, 50, 75])
    near = values[(values >= low - 1.5 * (high - low)) & (values <= high + 1.5 * (high - low))]
    # The box's ends lie between cases, the one within the fences may be short of them.
    first, last = min(near.min(), low), max(near.max(), high)
    axes.hlines([place, place], [first, high], [low, last], color=INK, lw=0.8)
    axes.vlines([first, last], place - 0.12, place + 0.12, color=INK, lw=0.8)
    axes.add_patch(Rectangle((low, place - 0.28), high - low, 0.56, fill=False, ec=INK, lw=0.9))
    axes.vlines([middle], place - 0.28, place + 0.28, color=COLOURS[4], lw=2, zorder=4)


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
