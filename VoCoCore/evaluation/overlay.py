"""Reference and prediction side by side on the slices where they differ most, over the image where it is known.

Slices are displayed as radiologists expect them: the patient's right on the left of the picture, anterior up on axial
slices, superior up on coronal ones. Matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from VoCoCore.errors import SettingsError
from VoCoCore.evaluation.metrics import Labels
from VoCoCore.evaluation.pages import styled
from VoCoCore.geometry import Triple
from VoCoCore.models.card import Colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARGIN = 15.0  # mm of surroundings beside what is marked
_SHOWN = 80.0  # mm: at least so much of the body is seen
_FILL = 0.35
_LINE = 1.2
_PER_ROW = 6  # names in the legend
# (axis that is cut, axis that goes up, its letters)
_VIEWS = {"axial": (2, 1, "AP"), "coronal": (1, 2, "SI")}


@dataclass(frozen=True)
class Overlay:
    """A case to be drawn.

    ``reference``, ``prediction`` and ``image`` (None: not known): (X, Y, Z) along R, A, S; the image in [0, 1].
    ``spacing`` (3,) in mm. ``labels``: name -> values; ``colours``: name -> RGB from 0 to 255. Raises SettingsError
    where the shapes differ.
    """

    reference: np.ndarray
    prediction: np.ndarray
    image: np.ndarray | None
    spacing: Triple
    labels: Labels
    colours: dict[str, Colour]

    def __post_init__(self) -> None:
        for array in (self.prediction, self.image):
            if array is not None and array.shape != self.reference.shape:
                raise SettingsError(
                    f"arrays of {array.shape} and {self.reference.shape} voxels cannot be drawn together"
                )


def overlay_figure(overlay: Overlay) -> Figure:
    """Four pictures: reference and prediction on an axial slice, and on a coronal one; names in a legend."""
    from matplotlib.figure import Figure

    window = _window(overlay)
    ratios = [_extent(window, overlay.spacing, view) for view in _VIEWS]
    widths = [across for across, _ in ratios for _ in range(2)]
    scale = 10.6 / sum(widths)
    height = float(np.clip(max(up for _, up in ratios) * scale, 1.6, 4.6))
    cuts = {view: worst_slice(overlay, axis) for view, (axis, _, _) in _VIEWS.items()}
    names = _seen(overlay, cuts)
    rows = -(-len(names) // _PER_ROW)
    with styled():
        figure = Figure(figsize=(11, height + 0.55 + 0.18 * rows))
        whole = height + 0.55 + 0.18 * rows
        grid = figure.subplots(1, 4, width_ratios=widths)
        figure.subplots_adjust(0.012, (0.16 + 0.18 * rows) / whole, 0.988, 1 - 0.36 / whole, 0.06)
        for place, view in enumerate(_VIEWS):
            for column, what in enumerate(("reference", "prediction")):
                _draw(grid[2 * place + column], overlay, view, what, cuts[view], window)
        _legend(figure, overlay, names)
    return figure


def worst_slice(overlay: Overlay, axis: int) -> int:
    """The slice across ``axis`` with the most voxels on which the two disagree; else the one with most labels."""
    others = tuple(other for other in range(3) if other != axis)
    wrong = np.count_nonzero(overlay.reference != overlay.prediction, axis=others)
    marked = np.count_nonzero(overlay.reference, axis=others)
    counts = wrong if wrong.any() else marked
    return int(counts.argmax()) if counts.any() else len(counts) // 2


def _plane(array: np.ndarray, axis: int, at: int) -> np.ndarray:
    """One slice, as a view: ``take`` would copy the whole array first where it is not contiguous."""
    return np.moveaxis(array, axis, 0)[at]


def _seen(overlay: Overlay, cuts: Mapping[str, int]) -> list[str]:
    """Names that have a voxel on one of the slices drawn."""
    present: set[int] = set()
    for view, at in cuts.items():
        for array in (overlay.reference, overlay.prediction):
            present |= set(np.unique(_plane(array, _VIEWS[view][0], at)).tolist())
    return [name for name, values in overlay.labels.items() if present & set(values)]


def _window(overlay: Overlay) -> list[tuple[int, int]]:
    """First and last voxel shown along each axis: what is marked, with surroundings."""
    found = []
    marked = (overlay.reference > 0) | (overlay.prediction > 0)
    for axis, (size, mm) in enumerate(zip(marked.shape, overlay.spacing, strict=True)):
        along = np.flatnonzero(marked.any(axis=tuple(other for other in range(3) if other != axis)))
        first, last = (int(along[0]), int(along[-1]) + 1) if len(along) else (0, size)
        least = max(0.0, _SHOWN - (last - first) * mm) / 2
        more = int(np.ceil(max(_MARGIN, least) / mm))
        found.append((max(0, first - more), min(size, last + more)))
    return found


def _extent(window: Sequence[tuple[int, int]], spacing: Sequence[float], view: str) -> tuple[float, float]:
    """Width and height in mm of what a view shows."""
    up = _VIEWS[view][1]
    return tuple((window[axis][1] - window[axis][0]) * spacing[axis] for axis in (0, up))  # type: ignore[return-value]


def _draw(
    axes: Axes, overlay: Overlay, view: str, what: str, at: int, window: Sequence[tuple[int, int]]
) -> None:
    cut, up, letters = _VIEWS[view]
    extent = (0, overlay.reference.shape[0], 0, overlay.reference.shape[up])
    show: dict[str, Any] = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
    labels = _plane(overlay.reference if what == "reference" else overlay.prediction, cut, at)
    grey = np.full(labels.shape, 0.12) if overlay.image is None else _plane(overlay.image, cut, at)
    first, last = window[up]
    axes.imshow(_coloured(grey, labels, overlay).swapaxes(0, 1), **show)
    _outline(axes, labels, overlay)
    axes.set_aspect(overlay.spacing[up] / overlay.spacing[0])
    axes.set_xlim(window[0][1], window[0][0])  # the patient's right on the left
    axes.set_ylim(first, last)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_anchor("N")
    axes.set_title(f"{what}, {view} {at + 1}/{overlay.reference.shape[cut]}")
    _letters(axes, letters)


def _coloured(grey: np.ndarray, labels: np.ndarray, overlay: Overlay) -> np.ndarray:
    """The slice (A, B, 3) with its labels laid over it, seen through."""
    picture = np.repeat(np.clip(grey, 0, 1)[..., None], 3, axis=-1).astype(np.float32)
    for name, values in overlay.labels.items():
        inside = np.isin(labels, values)
        colour = np.array(overlay.colours[name], np.float32) / 255
        picture[inside] = (1 - _FILL) * picture[inside] + _FILL * colour
    return picture


def _outline(axes: Axes, labels: np.ndarray, overlay: Overlay) -> None:
    """The borders of each label along the voxels' edges."""
    from matplotlib.collections import LineCollection

    for name, values in overlay.labels.items():
        lines = voxel_borders(np.isin(labels, values))
        if len(lines):
            colour = _share(overlay.colours[name])
            axes.add_collection(
                LineCollection(list(lines), colors=[colour], linewidths=_LINE, capstyle="round")
            )


def voxel_borders(mask: np.ndarray) -> np.ndarray:
    """Edges between voxels inside and outside ``mask`` (A, B), as lines (n, 2, 2) in box coordinates."""
    padded = np.pad(mask, 1).astype(np.int8)
    lines = []
    for axis in (0, 1):
        # A change between voxel i - 1 and i lies on face i, which runs one voxel along the other axis.
        face, along = np.nonzero(np.diff(padded, axis=axis) if axis == 0 else np.diff(padded, axis=axis).T)
        ends = np.stack([along - 1, along], axis=1)
        points = np.stack([np.repeat(face[:, None], 2, axis=1), ends], axis=2)
        lines.append(points if axis == 0 else points[..., ::-1])
    return np.concatenate(lines).astype(float)


def _letters(axes: Axes, letters: str) -> None:
    from matplotlib.patheffects import withStroke

    places = (
        (0.02, 0.5, "R", "left", "center"),
        (0.98, 0.5, "L", "right", "center"),
        (0.5, 0.98, letters[0], "center", "top"),
        (0.5, 0.02, letters[1], "center", "bottom"),
    )
    for x, y, letter, ha, va in places:
        text = axes.text(
            x, y, letter, transform=axes.transAxes, weight="bold", color="#ffd166", ha=ha, va=va, fontsize=8
        )
        text.set_path_effects([withStroke(linewidth=1.5, foreground="black")])


def _legend(figure: Figure, overlay: Overlay, names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=_share(overlay.colours[name]), label=name) for name in names]
    if patches:
        figure.legend(handles=patches, loc="lower center", ncols=_PER_ROW)


def _share(colour: Colour) -> tuple[float, float, float]:
    """A colour as matplotlib takes it."""
    red, green, blue = (channel / 255 for channel in colour)
    return red, green, blue
