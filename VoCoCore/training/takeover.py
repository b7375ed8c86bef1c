"""What a fine-tuning takes over from a fine-tuned network that it starts from: how cases are prepared for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.models.card import CARD_KEY
from VoCoCore.runs.narrate import setting

# What is open in these settings says the same as their defaults.
_TAKEN = ("prepare.spacing", "prepare.intensity", "prepare.window", "prepare.percentiles")


def card_preparation(source: Mapping[str, str]) -> dict[str, Any]:
    """The preparation on the card in metadata ``source``, by dotted name; empty where there is no usable card."""
    try:
        found = json.loads(source.get(CARD_KEY, "{}")).get("prepare", {})
        values = {name: found.get(name.removeprefix("prepare.")) for name in _TAKEN}
    except (ValueError, AttributeError, RecursionError):
        return {}
    return {name: value for name, value in values.items() if value is not None}


def with_card(settings: FinetuneSettings, source: Mapping[str, str]) -> tuple[FinetuneSettings, list[str]]:
    """The settings with the preparation of the fine-tuned network that ``source`` describes, and that this was done.

    What was given by hand, and the values of a published protocol, stay.
    """
    if settings.protocol != "auto":
        return settings, []
    flat, usual = settings.flat(), FinetuneSettings().flat()
    changes = {n: v for n, v in card_preparation(source).items() if flat[n] == usual[n] and v != usual[n]}
    if settings.task != "segmentation":
        changes.pop("prepare.spacing", None)  # each case is brought to one size
    if not changes:
        return settings, []
    taken = settings.with_values(changes)
    shown = ", ".join(f"{name} {setting(taken.flat()[name])}" for name in changes)
    return taken, [f"{shown}: as the fine-tuned network that it starts from was trained"]
