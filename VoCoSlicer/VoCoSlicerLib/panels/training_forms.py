"""Which settings a training panel shows first, and how the others are grouped under "Advanced"."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from VoCoSlicerLib.logic_settings import CLASSES

MAIN = {
    "pretrain": (
        "preset",
        "recipe",
        "model.encoder",
        "crops.counts",
        "crops.base_size",
        "optim.steps",
        "optim.batch",
        "run.seed",
        "run.device",
    ),
    "finetune": (
        "task",
        "protocol",
        "model.encoder",
        "data.fold",
        "data.folds",
        "data.labels",
        "optim.steps",
        "run.hours",
        "run.seed",
        "run.device",
    ),
}
ELSEWHERE = ("data.source", "init")  # chosen by controls of their own


def mainLabels() -> dict[str, str]:
    """What settings are called whose own names say too little alone."""
    return {
        "crops.counts": _("Base crops along x, y, z"),
        "crops.base_size": _("Size of a base crop [voxels]"),
        "crops.random_size": _("Size of a random crop [voxels]"),
        "optim.batch": _("Volumes per step"),
        "data.fold": _("Fold (number, or all)"),
        "data.folds": _("Number of folds"),
        "data.labels": _("Labelled cases to use"),
        "run.hours": _("Time [h]"),
    }


def advancedGroups(kind: str) -> dict[str, list[str]]:
    """Title -> dotted names of all settings that are not shown first, by the settings' own groups."""
    groups: dict[str, list[str]] = {}
    for option in CLASSES[kind].options():
        if option.name in MAIN[kind] or option.name in ELSEWHERE:
            continue
        head = option.name.partition(".")[0]
        groups.setdefault(_titles().get(head, head), []).append(option.name)
    return groups


def _titles() -> dict[str, Any]:
    return {
        "data": _("Data"),
        "prepare": _("Preparing volumes"),
        "crops": _("Crops"),
        "patches": _("Crops"),
        "model": _("Network"),
        "pretext": _("Pre-training task"),
        "loss": _("Loss"),
        "augment": _("Augmentation"),
        "optim": _("Optimiser"),
        "run": _("Running"),
    }
