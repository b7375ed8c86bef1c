"""Draw the icon of the extension and of its module: a body cut into base crops, and one random crop.

.venv/bin/python docs/make_icon.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyBboxPatch, Rectangle

ROOT = Path(__file__).resolve().parents[1]
ICONS = (ROOT / "VoCo.png", ROOT / "VoCoSlicer" / "Resources" / "Icons" / "VoCoSlicer.png")
PIXELS, CELLS, CELL, FIRST = 128, 4, 26.0, 12.0  # four by four cells of 26 pixels
CROP = (30.0, 46.0)  # lower left corner of the random crop, pixels; it has the size of a cell and a half
GROUND, BODY, LINES, CROP_COLOUR = "#0f3d4c", "#e9d8b4", "#0f3d4c", "#ff7f3f"


def overlap(column: int, row: int) -> float:
    """Share of a cell that the random crop covers."""
    size = 1.5 * CELL
    sides = []
    for start, index in zip(CROP, (column, row), strict=True):
        low = FIRST + index * CELL
        sides.append(max(0.0, min(low + CELL, start + size) - max(low, start)) / CELL)
    return sides[0] * sides[1]


def draw() -> Figure:
    """The icon at 128 dots an inch and one inch wide: 128 x 128 pixels."""
    figure = Figure(figsize=(1, 1), dpi=PIXELS)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, PIXELS), ylim=(0, PIXELS))
    axes.axis("off")
    figure.patch.set_alpha(0)
    axes.add_patch(
        FancyBboxPatch((6, 6), 116, 116, boxstyle="round,pad=0,rounding_size=16", fc=GROUND, ec="none")
    )
    body = Ellipse((64, 64), 104, 84, fc=BODY, ec="none")
    axes.add_patch(body)
    for column in range(CELLS):
        for row in range(CELLS):
            corner = (FIRST + column * CELL, FIRST + row * CELL)
            axes.add_patch(
                Rectangle(corner, CELL, CELL, fc=CROP_COLOUR, ec="none", alpha=0.55 * overlap(column, row))
            )
            axes.add_patch(Rectangle(corner, CELL, CELL, fc="none", ec=LINES, lw=1.4, alpha=0.75))
    axes.add_patch(Rectangle(CROP, 1.5 * CELL, 1.5 * CELL, fc="none", ec=CROP_COLOUR, lw=4))
    return figure


if __name__ == "__main__":
    for path in ICONS:
        draw().savefig(path, dpi=PIXELS, transparent=True, metadata={"Software": None})
