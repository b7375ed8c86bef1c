"""Pictures of segmented cases: an axial slice with the true and the predicted labels beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from VoCoCore.evaluation.pages import styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 0.45  # how much of a label's colour is seen over the image


def case_figure(
    image: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    colours: np.ndarray,
    spacing: Sequence[float] | np.ndarray,
) -> Figure:
    """An axial slice ``image`` (X, Y) in [0, 1] alone, with true and with predicted class numbers (X, Y).

    ``colours`` (K, 3) uint8 by class number, ``spacing`` (2,) in mm. The patient's right is on the left.
    """
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(11, 3.9), layout="constrained")
        panels = figure.subplots(1, 3)
        for axes, title, labels in zip(
            panels, ("image", "reference", "prediction"), (None, true, predicted), strict=True
        ):
            _draw(axes, image, labels, colours, spacing)
            axes.set_title(title)
    return figure


def _draw(
    axes: Axes,
    image: np.ndarray,
    labels: np.ndarray | None,
    colours: np.ndarray,
    spacing: Sequence[float] | np.ndarray,
) -> None:
    shown = np.repeat(np.clip(image, 0, 1)[..., None], 3, axis=2)
    if labels is not None:
        over = colours[np.minimum(labels, len(colours) - 1)] / 255.0
        inside = (labels > 0)[..., None]
        shown = np.where(inside, (1 - _SHOWN) * shown + _SHOWN * over, shown)
    # Columns run to the patient's left, rows to the back.
    axes.imshow(np.flip(shown, (0, 1)).transpose(1, 0, 2), interpolation="nearest")
    axes.set_aspect(float(spacing[1] / spacing[0]))
    axes.set_axis_off()
    for x, y, letter, ha, va in (
        (-0.01, 0.5, "R", "right", "center"),
        (1.01, 0.5, "L", "left", "center"),
        (0.5, 1.0, "A", "center", "bottom"),
        (0.5, -0.01, "P", "center", "top"),
    ):
        if letter != "A" or labels is None:
            axes.text(x, y, letter, transform=axes.transAxes, weight="bold", ha=ha, va=va, fontsize=7)


def kept_pictures(kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a look at validation cases kept: the worst, median and best case, each with its Dice and its figure."""
    colours = np.asarray(kept["colours"])
    if str(kept["activation"]) == "sigmoid":
        colours = np.concatenate([np.zeros((1, 3), np.uint8), colours])
    scores = np.asarray(kept["scores"])
    words = {1: ("the only case",), 2: ("worst", "best")}.get(len(scores), ("worst", "median", "best"))
    shown = []
    for place, (word, score) in enumerate(zip(words, scores, strict=True)):
        image, true, predicted = (kept[f"{name}_{place}"] for name in ("image", "true", "predicted"))
        figure = case_figure(image, true, predicted, colours, kept[f"spacing_{place}"])
        shown.append({"word": word, "score": float(score), "figure": figure})
    return shown


def legend(kept: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and colours (as in a style sheet) of the classes, background left out."""
    rows = zip(kept["names"], kept["colours"], strict=True)
    return [(str(name), "#" + "".join(f"{int(v):02x}" for v in rgb)) for name, rgb in rows if any(rgb)]
