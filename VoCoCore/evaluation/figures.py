"""Pictures of crops: base crops, random crops and their labels on slices, as PNG or as one HTML file.

Slices are displayed as radiologists expect them: the patient's right on the left side of the picture,
anterior up on axial slices, superior up on coronal ones; letters beside the slices say so. Matplotlib is
imported when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from VoCoCore.errors import SettingsError
from VoCoCore.evaluation.pages import COLOURS, INK, png_bytes, render, styled, svg_text, write_whole
from VoCoCore.geometry import Box, Grid, Triple, triple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MOST_DRAWN = 6


@dataclass(frozen=True)
class CropView:
    """One region with its crops.

    Middle slices axial (X, Y) and coronal (X, Z) in [0, 1]; labels (k, n) in [0, 1] and predicted (k, n)
    or None; spacing (3,) in millimetres. Raises SettingsError where they do not fit the grid.
    """

    axial: np.ndarray
    coronal: np.ndarray
    grid: Grid
    boxes: tuple[Box, ...]
    labels: np.ndarray
    predicted: np.ndarray | None
    spacing: Triple

    def __post_init__(self) -> None:
        x, y, z = self.grid.volume_size
        if self.axial.shape != (x, y) or self.coronal.shape != (x, z):
            raise SettingsError(
                f"slices {self.axial.shape}, {self.coronal.shape} do not fit a grid of {x}x{y}x{z} voxels"
            )
        for name in ("labels", "predicted"):
            values = getattr(self, name)
            if values is not None and np.shape(values) != (len(self.boxes), self.grid.n):
                raise SettingsError(
                    f"{name} of {len(self.boxes)} crops on {self.grid.n} bases cannot be {np.shape(values)}"
                )


def draw_crops(
    volume: np.ndarray,
    grid: Grid,
    boxes: Sequence[Box],
    labels: np.ndarray,
    path: str | Path,
    predicted: np.ndarray | None = None,
    spacing: Sequence[float] | np.ndarray = (1.0, 1.0, 1.0),
) -> Path:
    """Draw crops and their labels on the middle slices of ``volume``: (X, Y, Z) in R A S order, in [0, 1].

    ``labels`` and ``predicted`` (k, n): y and l of each crop for each base. ``spacing`` in mm sets the
    proportions. ``path`` ends in .png or .html (one file, with a table of the values). Returns the path.
    Raises SettingsError for shapes that do not fit or another ending.
    """
    target = Path(path)
    if target.suffix.lower() not in (".png", ".html"):
        raise SettingsError(f"pictures of crops are written as .png or .html, not '{target.suffix}'")
    view = crop_view(volume, grid, boxes, labels, predicted, spacing)
    figure = crops_figure(view)
    if target.suffix.lower() == ".png":
        content = png_bytes(figure)
    else:
        picture = svg_text(
            figure, "crops", "Base crops and random crops on an axial and a coronal slice, with labels"
        )
        content = render("crops.html.j2", picture=picture, **crop_table(view), counts=grid.counts).encode()
    return write_whole(target, content)


def crop_view(
    volume: np.ndarray,
    grid: Grid,
    boxes: Sequence[Box],
    labels: np.ndarray,
    predicted: np.ndarray | None,
    spacing: Sequence[float] | np.ndarray,
) -> CropView:
    """The middle slices of ``volume`` (X, Y, Z) with what is to be drawn on them."""
    volume = np.asarray(volume)
    if volume.shape != grid.volume_size:
        raise SettingsError(
            f"a grid for {grid.volume_size} voxels cannot be drawn on a volume of {volume.shape}"
        )
    return CropView(
        volume[:, :, volume.shape[2] // 2],
        volume[:, volume.shape[1] // 2, :],
        grid,
        tuple(boxes),
        np.asarray(labels, float),
        None if predicted is None else np.asarray(predicted, float),
        triple(spacing, "the spacing of a volume"),
    )


def crop_table(view: CropView) -> dict[str, Any]:
    """What the table beside a picture needs: a row a base, y (and l) of each crop."""
    header, columns = ["base"], [[str(i) for i in range(view.grid.n)]]
    for crop, letter in enumerate(_letters(view)):
        header.append(f"{letter}: y")
        columns.append([f"{value:.3f}" for value in view.labels[crop]])
        if view.predicted is not None:
            header.append(f"{letter}: l")
            columns.append([f"{value:.3f}" for value in view.predicted[crop]])
    rows = list(zip(*columns, strict=True))
    return {
        "header": header,
        "rows": rows,
        "crops": len(view.boxes),
        "drawn": MOST_DRAWN,
        "predicted": view.predicted is not None,
    }


def crops_figure(view: CropView) -> Figure:
    """Both slices with grid and crops, and a chart of y (and l) for each of the first MOST_DRAWN crops."""
    from matplotlib.figure import Figure

    shown = min(len(view.boxes), MOST_DRAWN)
    with styled():
        figure = Figure(figsize=(11, _height(view, shown)), layout="constrained")
        if shown <= 3:
            columns = figure.add_gridspec(1, 3, width_ratios=(1, 1, 1.35))
            places = [columns[0], columns[1], columns[2]]
        else:  # many charts are tall: the slices share one column beside them
            columns = figure.add_gridspec(2, 2, width_ratios=(1, 1.5))
            places = [columns[0, 0], columns[1, 0], columns[:, 1]]
        for place, across in zip(places, (1, 2), strict=False):
            _draw_slice(figure.add_subplot(place), view, across, shown)
        charts = places[2].subgridspec(max(shown, 1), 1)
        for crop in range(shown):
            _draw_labels(figure.add_subplot(charts[crop]), view, crop, last=crop == shown - 1)
    return figure


def _height(view: CropView, shown: int) -> float:
    """Inches that slices of equal width and ``shown`` charts need on a picture 11 inches wide."""
    x, y, z = np.multiply(view.grid.volume_size, view.spacing)
    if shown <= 3:
        return float(max(np.clip(max(y, z) / x * 3.1, 2.2, 4.6), 1.2 * shown) + 0.45)
    return float(max(np.clip((y + z) / x * 4.0, 4.5, 7.0) + 0.7, 1.15 * shown))


def _letters(view: CropView) -> list[str]:
    return [chr(ord("A") + i) if i < 26 else f"crop {i}" for i in range(len(view.boxes))]


def _draw_slice(axes: Axes, view: CropView, across: int, shown: int) -> None:
    """Draw the axial (``across`` 1: x, y) or the coronal slice (``across`` 2: x, z) in box coordinates."""
    image, through = (view.axial, 2) if across == 1 else (view.coronal, 1)
    size, middle = view.grid.volume_size, view.grid.volume_size[through] // 2
    extent = (0, size[0], 0, size[across])
    pixels = np.asarray(image, float).T
    # "none" keeps every voxel in an SVG, whatever the picture's size.
    axes.imshow(pixels, "gray", vmin=0, vmax=1, origin="lower", extent=extent, interpolation="none")
    axes.set_aspect(view.spacing[across] / view.spacing[0])
    axes.set_xlim(size[0], 0)  # the patient's right on the left
    axes.set_anchor("N")
    axes.set_axis_off()
    axes.set_title(f"{'axial' if across == 1 else 'coronal'} {middle + 1}/{size[through]}")
    _draw_grid(axes, view, across, through, middle)
    for crop, letter in list(enumerate(_letters(view)))[:shown]:
        colour = COLOURS[crop % len(COLOURS)]
        _draw_box(axes, view.boxes[crop], colour, letter, across, through, middle)
    above, below = ("A", "P") if across == 1 else ("S", "I")
    sides = ((-0.01, 0.5, "R", "right", "center"), (1.01, 0.5, "L", "left", "center"))
    ends = ((0.5, 1.01, above, "center", "bottom"), (0.5, -0.01, below, "center", "top"))
    for h, v, letter, ha, va in sides + ends:
        axes.text(h, v, letter, transform=axes.transAxes, weight="bold", ha=ha, va=va)


def _draw_grid(axes: Axes, view: CropView, across: int, through: int, middle: int) -> None:
    """Draw the cells that the slice ``middle`` of axis ``through`` meets, with their class numbers."""
    from matplotlib.patheffects import AbstractPathEffect, withStroke

    halo: list[AbstractPathEffect] = [withStroke(linewidth=2, foreground="black")]
    starts, sizes = view.grid.starts_and_sizes
    for colour, width in (("black", 1.8), ("white", 0.7)):  # seen on lung and on bone
        for edge in view.grid.edges[0]:
            axes.axvline(edge, color=colour, lw=width, alpha=0.7)
        for edge in view.grid.edges[across]:
            axes.axhline(edge, color=colour, lw=width, alpha=0.7)
    met = (starts[:, through] <= middle) & (middle < (starts + sizes)[:, through])
    for number in np.flatnonzero(met):
        at = starts[number] + sizes[number] / 2
        text = axes.text(
            at[0], at[across], str(number), color="white", ha="center", va="center", fontsize=7.5
        )
        text.set_path_effects(halo)


def _draw_box(axes: Axes, box: Box, colour: str, letter: str, across: int, through: int, middle: int) -> None:
    """Draw a crop's outline, dashed where the slice does not meet it, its letter in the upper left corner."""
    from matplotlib.patches import Rectangle

    met = box.start[through] < middle + 1 and box.stop[through] > middle
    corner, lengths = (box.start[0], box.start[across]), (box.size[0], box.size[across])
    style: Any = "-" if met else (0, (3, 2))
    axes.add_patch(Rectangle(corner, *lengths, fill=False, ec="black", lw=3.2, ls=style, alpha=0.5))
    axes.add_patch(Rectangle(corner, *lengths, fill=False, ec=colour, lw=2, ls=style))
    axes.annotate(
        letter,
        (box.stop[0], box.stop[across]),
        xytext=(5, -6),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=7,
        weight="bold",
        color="black",
        bbox={"boxstyle": "square,pad=0.2", "fc": colour, "ec": "none"},
    )


def _draw_labels(axes: Axes, view: CropView, crop: int, last: bool) -> None:
    """Draw y (bars) and l (diamonds) of one crop for all bases, its base and the guess in the title."""
    y, n, at = view.labels[crop], view.grid.n, np.arange(view.grid.n)
    title, lowest = f"crop {_letters(view)[crop]}: most of it in base {y.argmax()}", 0.0
    legend = "base crop\nbars: position label y, share of the crop's volume"
    inside = np.flatnonzero(y > 0)
    axes.bar(inside, y[inside], 0.8, color=COLOURS[crop % len(COLOURS)])
    tops = y.copy()
    if view.predicted is not None:
        guess = view.predicted[crop]
        lowest = float(np.nanmin([0.0, *guess]))
        best = int(np.nan_to_num(guess, nan=-np.inf).argmax())
        axes.plot(at, guess, "D", ms=4, mfc="none", mec=INK, mew=0.9, clip_on=False)
        tops = np.where(np.abs(guess - y) < 0.12, np.fmax(y, guess) + 0.04, y)  # clear of the diamond
        title += f"; predicted {best}, a {'hit' if best == y.argmax() else 'miss'}"
        legend += "\ndiamonds: l, as the network predicts y"
    for base in inside[y[inside] > (0.005 if n <= 18 else 0.15)]:
        axes.text(base, tops[base] + 0.02, f"{y[base]:.2f}", ha="center", va="bottom", fontsize=6.5)
    axes.set_title(title)
    axes.axhline(0, color=INK, lw=0.6)
    axes.set_ylim(min(0.0, lowest * 1.1 - 0.05), 1.18)
    axes.set_yticks([0, 0.5, 1])
    axes.set_xlim(-0.6, n - 0.4)
    axes.set_xticks(at, [str(i) for i in at], fontsize=7.5 if n <= 18 else 6)
    axes.grid(True, axis="y")
    if last:
        axes.set_xlabel(legend)
