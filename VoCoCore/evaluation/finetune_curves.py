"""The course of a fine-tuning as four charts: losses, scores on validation cases, each class, learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from VoCoCore.evaluation.curves import Line, charts, metrics_of, series
from VoCoCore.evaluation.pages import COLOURS, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Event = Mapping[str, Any]
DESCRIPTION = (
    "Charts over training steps: loss, scores on validation cases, scores of each class, learning rate"
)
MOST_CLASSES = 20
_ORANGE, _BLUE, _GREEN, _PINK, _RED = COLOURS[:5]
_LOSSES = (
    Line("train", "loss", "all terms", INK),
    Line("train", "loss_dice", "Dice", _ORANGE),
    Line("train", "loss_tversky", "Tversky", _ORANGE),
    Line("train", "loss_cross_entropy", "cross-entropy", _GREEN),
    Line("train", "loss_focal", "focal", _GREEN),
)
_SCORES = (
    Line("train", "dice", "Dice, training crops", _BLUE),
    Line("val", "dice", "Dice, validation, 95 %", _RED, "o-"),
    Line("train", "accuracy", "accuracy, training", _BLUE),
    Line("val", "accuracy", "accuracy, validation", _GREEN, "o-"),
    Line("val", "balanced_accuracy", "balanced accuracy", _RED, "o-"),
    Line("val", "auroc", "AUROC", _PINK, "o-"),
)
_BOUNDS = ("dice_low", "dice_high")
_STYLES = ("o-", "s--", "^:", "d-.")


def class_names(events: Sequence[Event]) -> list[str]:
    """Names of the classes that looks at validation cases scored, in their order."""
    names: dict[str, None] = {}
    for event in events:
        if event.get("type") == "metrics" and event.get("split") == "val":
            found = event.get("values", {})
            for prefix in ("dice_", "auroc_"):
                scores = (n for n in found if n.startswith(prefix) and n not in _BOUNDS)
                names |= {name[len(prefix) :]: None for name in scores}
    return list(names)


def finetune_figure(events: Sequence[Event]) -> Figure | None:
    """The charts of a fine-tuning's ``metrics`` events; None before the first."""
    metrics = metrics_of(events)
    if not metrics:
        return None
    panels = (
        ("loss", _LOSSES),
        ("scores", _SCORES),
        ("validation, each class", _class_lines(metrics)),
        ("learning rate", (Line("train", "learning_rate", "", INK),)),
    )
    figure, grid = charts(metrics, panels, interval="dice")
    for axes in (grid[0, 1], grid[1, 0]):
        axes.set_ylim(0, 1)
    return figure


def _class_lines(metrics: Sequence[Event]) -> tuple[Line, ...]:
    prefix = "dice_" if len(series(metrics, "val", "dice")[0]) else "auroc_"
    names = class_names(metrics)[:MOST_CLASSES]
    return tuple(
        Line("val", prefix + name, name, COLOURS[n % 5], _STYLES[n // 5 % len(_STYLES)])
        for n, name in enumerate(names)
    )
