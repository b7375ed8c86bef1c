"""Protocols of fine-tuning: the published ones by name, and what ``auto`` starts from; how settings are resolved.

Order: protocol < config file < command line. What is open then is chosen from the cases and the machine when the job
starts (`training.planning`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from VoCoCore.errors import SettingsError
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.presets import check_encoder, check_ranges, check_warmup

# As the published fine-tuning code has it: Swin-UNETR, Dice without background + cross-entropy, AdamW.
_PUBLISHED: dict[str, Any] = {
    "task": "segmentation",
    "model.encoder": "swin_unetr",
    "model.feature_size": 48,
    "prepare.spacing": (1.5, 1.5, 1.5),
    "prepare.intensity": "ct",
    "prepare.foreground": 0.0,
    "prepare.fit": "pad",
    "patches.balance": "voxels",
    "augment.flip": (0.2, 0.2, 0.2),
    "augment.turn": 0.2,
    "augment.scale": 0.1,
    "augment.shift": 0.1,
    "optim.clip": None,
    "optim.encoder_lr": 1.0,
    "run.overlap": 0.75,
}
_CT = {"prepare.window": (-175, 250), "patches.size": (96, 96, 96), "optim.lr": 3e-4}
# Where the publication says "nnU-Net's plans": their spacing and crops; loss, network and optimiser are ours.
_PLANS: dict[str, Any] = {
    **_PUBLISHED,
    "patches.balance": "classes",
    "patches.per_case": 1,
    "patches.positive": 0.33,
    "optim.batch": 2,
    "optim.steps": 250_000,
    "optim.lr": 3e-4,
    "optim.weight_decay": 1e-5,
    "model.deep_supervision": True,
    "augment.rotate": 0.2,
    "augment.zoom": 0.2,
    "augment.gamma": 0.3,
    "augment.noise": 0.1,
    "augment.blur": 0.2,
    "run.overlap": 0.5,
}


def _epochs(epochs: float, warmup: float) -> dict[str, Any]:
    return {"optim.epochs": epochs, "optim.warmup_share": warmup / epochs}


def _crops(cases: int, each: int, positive: float, negative: float) -> dict[str, Any]:
    return {
        "optim.batch": cases,
        "patches.per_case": each,
        "patches.positive": positive / (positive + negative),
    }


PROTOCOLS: dict[str, dict[str, Any]] = {
    "auto": {
        "prepare.foreground": 0.0,
        "prepare.fit": "pad",
        "patches.balance": "classes",
        "patches.positive": 0.75,
        "augment.turn": 0.0,
        "augment.rotate": 0.3,
        "augment.zoom": 0.3,
        "augment.scale": 0.3,
        "augment.shift": 0.3,
        "augment.gamma": 0.2,
        "augment.noise": 0.1,
        "augment.blur": 0.1,
        "optim.weight_decay": 1e-5,
    },
    "btcv": {**_PUBLISHED, **_CT, **_crops(4, 4, 3, 1), **_epochs(3000, 100), "optim.weight_decay": 1e-5},
    "mmwhs": {
        **_PUBLISHED,
        **_crops(1, 4, 9, 1),
        **_epochs(1000, 50),
        "prepare.window": (0, 1700),
        "patches.size": (64, 64, 64),
        "optim.lr": 1e-3,
        "optim.weight_decay": 0.01,
        "optim.amsgrad": True,
    },
    "amos": {**_PUBLISHED, **_CT, **_crops(4, 4, 9, 1), **_epochs(1000, 50), "optim.weight_decay": 0.005},
    "flare22": {**_PUBLISHED, **_CT, **_crops(4, 4, 9, 1), **_epochs(3000, 100), "optim.weight_decay": 0.005},
    "word": {**_PUBLISHED, **_CT, **_crops(1, 4, 9, 1), **_epochs(200, 5), "optim.weight_decay": 1e-5},
    "lits": {
        **_PLANS,
        "prepare.window": (-175, 250),
        "prepare.spacing": (0.77, 0.77, 1.0),
        "patches.size": (128, 128, 128),
    },
    "spleen": {
        **_PLANS,
        "prepare.window": (-175, 250),
        "prepare.spacing": (0.79, 0.79, 1.6),
        "patches.size": (160, 192, 64),
    },
    "brats21": {
        **_PLANS,
        "prepare.intensity": "mr",
        "prepare.spacing": (1.0, 1.0, 1.0),
        "patches.size": (128, 128, 128),
    },
    "ccii": {
        "task": "classification",
        "model.encoder": "swin_unetr",
        "model.feature_size": 48,
        "prepare.intensity": "ct",
        "prepare.window": (0, 255),
        "prepare.foreground": 0.0,
        "prepare.fit": "resize",
        "patches.size": (256, 256, 64),
        "augment.flip": (0.2, 0.2, 0.2),
        "optim.batch": 4,
        "optim.lr": 3e-4,
        "optim.encoder_lr": 1.0,
        "optim.weight_decay": 0.01,
        "optim.amsgrad": True,
        "data.folds": 3,
        **_epochs(100, 5),
    },
}


def resolve_finetune(
    config: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None
) -> FinetuneSettings:
    """Settings of a fine-tuning from a config file's values and the command line's, both by dotted name.

    What the protocol leaves open stays None. Raises SettingsError for an unknown name, a wrong value, or values that do
    not fit together.
    """
    layers = [_with_words(layer or {}) for layer in (config, options)]
    given = {**layers[0], **layers[1]}
    start = FinetuneSettings().with_values({k: given[k] for k in ("task", "protocol") if k in given})
    values = PROTOCOLS[start.protocol]
    if given.get("task", values.get("task", start.task)) != values.get("task", start.task):
        raise SettingsError(
            f"protocol {start.protocol} is for {values['task']}, not {start.task}",
            "leave --task out, or use --protocol auto",
        )
    made = start.with_values(_over_each_other(values, *layers))
    if made.task == "classification" and "prepare.fit" not in given:
        made = made.with_values({"prepare.fit": "resize", "patches.per_case": 1})
    check_finetune(made)
    return made


# Each of them says how long a job is.
_LENGTHS = ("optim.steps", "optim.epochs", "run.hours")


def _over_each_other(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Values of all layers, later ones first; a length given anew makes an earlier one void, whatever its unit."""
    made: dict[str, Any] = {}
    for layer in layers:
        if any(layer.get(name) is not None for name in _LENGTHS):
            made = {name: value for name, value in made.items() if name not in _LENGTHS}
        made |= layer
    return made


def _with_words(layer: Mapping[str, Any]) -> dict[str, Any]:
    """A settings file may give the number of a fold as a number."""
    fold = layer.get("data.fold")
    return {**layer, "data.fold": str(fold)} if type(fold) is int else dict(layer)


def check_finetune(settings: FinetuneSettings) -> None:
    """Raise SettingsError where values do not fit together."""
    model = settings.model
    if model.encoder is not None:
        check_encoder(model.encoder, "patches.size", settings.patches.size, model.feature_size)
    _check_cases(settings)
    check_warmup(settings.optim.warmup, settings.optim.steps)
    check_ranges(settings.prepare)
    if settings.task == "segmentation" and (settings.prepare.fit != "pad" or settings.prepare.by_body_part):
        raise SettingsError(
            "a segmentation is trained at one voxel size: prepare.fit must be pad, without prepare.by_body_part",
            "leave both out; prepare.spacing sets the voxel size",
        )
    if settings.task == "classification" and settings.prepare.fit != "resize":
        raise SettingsError(
            "a classification sees each case whole, at one size: prepare.fit must be resize",
            "leave it out; patches.size sets the size",
        )


def _check_cases(settings: FinetuneSettings) -> None:
    data = settings.data
    if data.labels is not None and (data.labels == 0 or (data.labels >= 1 and data.labels % 1)):
        raise SettingsError(
            f"data.labels cannot be {data.labels:g}",
            "give a share between 0 and 1, or a whole number of cases",
        )
    fold = data.fold
    if fold not in (None, "all") and not (str(fold).isdecimal() and int(str(fold)) < data.folds):
        raise SettingsError(f"data.fold cannot be {fold}", f"a number from 0 to {data.folds - 1}, or all")
    if data.val_fraction + data.test_fraction >= 1:
        raise SettingsError(
            f"data.val_fraction {data.val_fraction:g} and data.test_fraction {data.test_fraction:g} leave no case "
            "to train on",
            "use smaller shares",
        )
