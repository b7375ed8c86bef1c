"""Draw the ratios of bench.json beside the baseline's 1 and their goals: draw_ratios.py bench.json"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

GOOD, BAD, NAME_WIDTH, EQUAL = "#2a7f62", "#c2622d", 72, 0.95
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def main() -> None:
    """Write bench.png beside the file."""
    path = Path(sys.argv[1])
    rows = [row for row in json.loads(path.read_text(encoding="utf-8")) if row["ratio"]]
    names = ["\n".join(textwrap.wrap(row["name"], NAME_WIDTH)) for row in rows]
    lines = sum(1 + 0.75 * name.count("\n") for name in names)
    figure, axes = plt.subplots(figsize=(12, 1.4 + 0.27 * lines), layout="constrained")
    places = bars(axes, rows, names)
    scale(axes, rows)
    axes.set_yticks(places, names, fontsize=8)
    axes.tick_params(axis="y", length=0)
    devices = ", ".join(sorted({row["device"] for row in rows if row["device"]}))
    axes.set_title(f"How many times as fast, or as small, as the baseline ({devices})", fontsize=10)
    figure.savefig(path.with_suffix(".png"), dpi=110)


def goal_of(row: dict[str, Any]) -> float | None:
    """The ratio that a goal like "ratio >= 1.4" asks for; None where it asks for something else."""
    found = re.search(r"ratio >= ([\d.]+)", row["goal"] or "")
    return float(found[1]) if found else None


def bars(axes: Axes, rows: list[dict[str, Any]], names: list[str]) -> list[float]:
    """A bar from 1 to each ratio, as high as its name has lines; returns their places."""
    places, below = [], 0.0
    for row, name in zip(rows, names, strict=True):
        height, ratio, goal = 1 + 0.75 * name.count("\n"), row["ratio"], goal_of(row)
        place = below + height / 2
        places.append(place)
        below += height
        enough = ratio >= (EQUAL if goal is None else goal)
        # Beside the goal's mark where that would strike through the number.
        at = goal if goal is not None and ratio < goal < 1.5 * ratio else ratio
        axes.barh(place, ratio - 1, 0.66, left=1, color=GOOD if enough else BAD)
        away, side = (4, "left") if ratio >= 1 or at > 1 else (-4, "right")
        axes.annotate(
            f"{ratio:.3g}",
            (at, place),
            xytext=(away, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=8,
        )
        if goal is not None:
            axes.vlines(goal, place - 0.45, place + 0.45, color="black", linewidth=1.5)
    axes.set_ylim(below, 0)
    return places


def scale(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """A logarithmic axis with plain numbers, the baseline's line, and what the colours mean."""
    least, most = (pick(row["ratio"] for row in rows) for pick in (min, max))
    axes.set_xscale("log")
    axes.set_xlim(min(0.8, least / 2), max(1.5, most * 1.5))
    axes.set_xticks([tick for tick in TICKS if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.axvline(1, color="0.3", linewidth=0.8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("baseline / ours (1: equal; to the right, ours is better)")
    handles = [
        Patch(color=GOOD, label="goal met, or equal where there is none"),
        Patch(color=BAD, label="below"),
        Line2D([], [], color="black", marker="|", linestyle="", markersize=9, label="goal"),
    ]
    axes.figure.legend(handles=handles, fontsize=8, loc="outside lower right", ncols=3, frameon=False)


if __name__ == "__main__":
    main()
