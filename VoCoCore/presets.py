"""Recipes (which form of VoCo) and presets (how large), and how a job's settings are resolved from them.

Order: preset and recipe < config file < command line. No setting belongs to both tables. A preset's value may
depend on the recipe where the publications do: then it is written as a dictionary by recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from VoCoCore.errors import SettingsError
from VoCoCore.settings import (
    ENCODER_LIMITS,
    FEATURE_MULTIPLES,
    CropSettings,
    PrepareSettings,
    PretrainSettings,
    needed_size,
    suits,
)

MOST_VOXELS = 2**31  # of a prepared volume: far more than any scanner gives
_V1_DATA = {
    "prepare.window": (-175, 250),
    "prepare.by_body_part": False,
    "prepare.foreground": 0.3,
    "prepare.fit": "resize",
}
_V1_AUGMENT = {"augment.flip": 0.2, "augment.turn": 0.2, "augment.shift_range": 0.1}

RECIPES: dict[str, dict[str, Any]] = {
    "paper": {
        "crops.counts": (4, 4, 1),
        **_V1_DATA,
        **_V1_AUGMENT,
        "augment.shift": 0.1,
        "pretext.similarity": "cos",
        "pretext.teacher": "none",
        "pretext.both_directions": False,
        "pretext.detach": True,
        "pretext.prediction": "paper",
        "pretext.inter_volume": False,
        "pretext.regularisation": "abs",
        "pretext.pooling": "after",
        "pretext.epsilon": 1e-3,
        "pretext.drop_crops": 0.0,
        "optim.amsgrad": False,
        # The logarithm of Eq. 3 has a slope of up to 1 / epsilon: without this a few steps make all crops alike.
        "optim.clip": 1.0,
    },
    "v1": {
        "crops.counts": (4, 4, 1),
        **_V1_DATA,
        **_V1_AUGMENT,
        "augment.shift": 0.1,
        "pretext.similarity": "relu_cos",
        "pretext.teacher": "network",
        "pretext.both_directions": True,
        "pretext.detach": False,
        "pretext.prediction": "v1",
        "pretext.inter_volume": False,
        "pretext.regularisation": "squared",
        "pretext.pooling": "before",
        "pretext.epsilon": 1e-6,
        "pretext.drop_crops": 0.0,
        "optim.amsgrad": True,
        "optim.clip": None,
    },
    "v2": {
        "crops.counts": (3, 3, 1),
        "prepare.window": None,
        "prepare.by_body_part": True,
        "prepare.foreground": 0.0,
        "prepare.fit": "pad",
        **_V1_AUGMENT,
        "augment.shift": 0.5,
        "pretext.similarity": "relu_cos",
        "pretext.teacher": "projector",
        "pretext.both_directions": False,
        "pretext.detach": False,
        "pretext.prediction": "v2",
        "pretext.inter_volume": True,
        "pretext.regularisation": "squared",
        "pretext.pooling": "before",
        "pretext.epsilon": 1e-6,
        "pretext.drop_crops": 0.2,
        "optim.amsgrad": True,
        "optim.clip": None,
    },
}

_PUBLISHED_SIZES = {
    "crops.base_size": {"paper": (96, 96, 96), "v1": (96, 96, 96), "v2": (64, 64, 64)},
    "crops.input_size": (64, 64, 64),
    "model.projector_width": {"paper": 2048, "v1": 2048, "v2": 1024},
    "optim.batch": 2,
    "optim.steps": {"paper": 100_000, "v1": 250_000, "v2": 2_000_000},
    "optim.lr": 1e-4,
}

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "model.feature_size": 12,
        "crops.base_size": (32, 32, 32),
        "crops.input_size": (32, 32, 32),
        "model.projector_width": 256,
        "optim.batch": 2,
        "optim.steps": 1000,
        "optim.lr": 1e-3,
    },
    "base": {"model.feature_size": 48, **_PUBLISHED_SIZES},
    "large": {"model.feature_size": 96, **_PUBLISHED_SIZES},
    "huge": {"model.feature_size": 192, **_PUBLISHED_SIZES},
}

# `voco demo`: what a laptop's two cores do in four minutes, chosen for time, not for the best network.
DEMO: dict[str, Any] = {
    "recipe": "paper",
    "preset": "tiny",
    "model.encoder": "unet",
    "optim.steps": 240,
    "optim.batch": 1,
    "crops.random_crops": 4,
    "data.val_fraction": 0.25,
    "run.log_every": 10,
    "run.validate_every": 60,
}


def resolve_pretrain(
    config: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None
) -> PretrainSettings:
    """Settings of a pre-training job from a config file's values and the command line's, both by dotted name.

    Raises SettingsError for an unknown name, a wrong value, or values that do not fit together.
    """
    given = {**(config or {}), **(options or {})}
    start = PretrainSettings().with_values({k: given[k] for k in ("recipe", "preset") if k in given})
    sizes = {k: v[start.recipe] if isinstance(v, dict) else v for k, v in PRESETS[start.preset].items()}
    return complete(start.with_values({**RECIPES[start.recipe], **sizes, **given}), explicit=frozenset(given))


def complete(settings: PretrainSettings, explicit: frozenset[str] = frozenset()) -> PretrainSettings:
    """Fill every value that follows from others, and check that all fit together."""
    crops, optim, run = settings.crops, settings.optim, settings.run
    settings = replace(
        settings,
        crops=_complete_crops(crops, settings.model.encoder, "crops.input_size" in explicit),
        optim=replace(optim, warmup=min(5000, optim.steps // 20) if optim.warmup is None else optim.warmup),
        run=replace(
            run,
            validate_every=run.validate_every or max(1, optim.steps // 10),
            checkpoint_every=run.checkpoint_every or min(1000, max(1, optim.steps // 10)),
        ),
    )
    _check_together(settings)
    return settings


def _complete_crops(crops: CropSettings, encoder: str, explicit_input: bool) -> CropSettings:
    volume = crops.volume_size or _whole(n * b for n, b in zip(crops.counts, crops.base_size, strict=True))
    # With a volume size of the user's own, a base crop is what the grid makes of it.
    base = _whole(max(1, round(v / n)) for v, n in zip(volume, crops.counts, strict=True))
    low, step = ENCODER_LIMITS[encoder]
    wanted = crops.input_size or base
    if not explicit_input:
        wanted = _whole(max(low, -(-edge // step) * step) for edge in wanted)
    return replace(
        crops, volume_size=volume, base_size=base, random_size=crops.random_size or base, input_size=wanted
    )


def _whole(values: Iterable[int]) -> tuple[int, int, int]:
    x, y, z = values
    return x, y, z


def _check_together(settings: PretrainSettings) -> None:
    crops, pretext, encoder = settings.crops, settings.pretext, settings.model.encoder
    assert crops.volume_size and crops.random_size and crops.input_size
    check_encoder(encoder, "crops.input_size", crops.input_size, settings.model.feature_size)
    if prod(crops.volume_size) > MOST_VOXELS:
        raise SettingsError(
            f"crops.volume_size {crops.volume_size} has more than {MOST_VOXELS:,} voxels",
            "use fewer or smaller base crops (crops.counts, crops.base_size)",
        )
    if any(v < n for v, n in zip(crops.volume_size, crops.counts, strict=True)):
        raise SettingsError(
            f"crops.counts {crops.counts} does not fit crops.volume_size {crops.volume_size}",
            "use fewer base crops or a larger volume",
        )
    if any(r > v for r, v in zip(crops.random_size, crops.volume_size, strict=True)):
        raise SettingsError(
            f"crops.random_size {crops.random_size} is larger than crops.volume_size {crops.volume_size}",
            "use a smaller random crop or a larger volume",
        )
    if pretext.teacher == "none" and (pretext.both_directions or pretext.inter_volume):
        raise SettingsError(
            "pretext.both_directions and pretext.inter_volume need a teacher",
            "set pretext.teacher to network or projector, or switch them off",
        )
    check_warmup(settings.optim.warmup, settings.optim.steps)
    check_ranges(settings.prepare)


def check_encoder(
    encoder: str, name: str, size: tuple[int, int, int] | None, feature_size: int | None
) -> None:
    """Raise SettingsError where inputs of the setting ``name``, ``size``, or a feature size do not suit an encoder.

    None is open still.
    """
    if size is not None and not suits(encoder, size):
        raise SettingsError(
            f"{name} {size} does not suit {encoder}",
            f"it needs {needed_size(encoder)}; leave the setting out to have it chosen",
        )
    multiple = FEATURE_MULTIPLES[encoder]
    if feature_size is not None and feature_size % multiple:
        raise SettingsError(
            f"model.feature_size {feature_size} does not suit {encoder}", f"it needs a multiple of {multiple}"
        )


def check_warmup(warmup: int | None, steps: int | None) -> None:
    """Raise SettingsError where a warm-up takes all the steps."""
    if warmup is not None and steps is not None and warmup >= steps > 1:
        raise SettingsError(
            f"optim.warmup {warmup} leaves none of the {steps} steps", "use fewer warm-up steps or more steps"
        )


def check_ranges(prepare: PrepareSettings) -> None:
    """Raise SettingsError where a window or a pair of percentiles does not rise."""
    window, percentiles = prepare.window, prepare.percentiles
    for name, pair in (("prepare.window", window), ("prepare.percentiles", percentiles)):
        if pair is not None and pair[0] >= pair[1]:
            raise SettingsError(f"{name} must rise, not {pair[0]} to {pair[1]}", "give the lower value first")
