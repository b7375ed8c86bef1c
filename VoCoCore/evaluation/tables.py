"""Tables of a report: looks at held-out volumes, data, settings, environment; nothing that names anyone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from VoCoCore.errors import SettingsError
from VoCoCore.evaluation.verdict import number
from VoCoCore.fields import flatten
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.presets import resolve_pretrain
from VoCoCore.protocols import resolve_finetune
from VoCoCore.runs.privacy import without_names
from VoCoCore.settings import PretrainSettings

Event = Mapping[str, Any]
CHECK_COLUMNS = {
    "loss": "loss",
    "position_accuracy": "position accuracy",
    "accuracy_low": "95 % from",
    "accuracy_high": "to",
    "chance": "chance",
    "shuffled_accuracy": "shuffled",
    "base_similarity": "similarity",
    "effective_rank": "effective rank",
}
DATA_WORDS = {
    "cases": "volumes used",
    "train": "volumes to train on",
    "held_out": "volumes held out",
    "test": "volumes kept for the end",
    "twins": "held-out volumes with the images of another split",
    "unlabelled": "left aside without a label",
    "skipped": "left out as unusable",
    "channels": "channels per volume",
    "fingerprint": "fingerprint of the content (SHA-256)",
}
MOST_CHECKS = 40
# Never shown, whatever they hold.
_PRIVATE = {
    "host",
    "hostname",
    "user",
    "cwd",
    "executable",
    "argv",
    "command",
    "path",
    "folder",
    "home",
    "source",
    "store",
}


def checks_table(events: Sequence[Event]) -> dict[str, Any]:
    """Looks at held-out volumes, at most MOST_CHECKS rows, evenly picked, first and last among them."""
    found = [
        e
        for e in events
        if e["type"] == "metrics" and e.get("split") == "val" and isinstance(e.get("values"), dict)
    ]
    picked = (
        sorted(set(np.linspace(0, len(found) - 1, min(len(found), MOST_CHECKS)).round().astype(int)))
        if found
        else []
    )
    rows = []
    for event in (found[i] for i in picked):
        numbers = (number(event["values"], name) for name in CHECK_COLUMNS)
        rows.append([str(event.get("step", "")), *(f"{v:.3f}" if np.isfinite(v) else "–" for v in numbers)])
    return {"header": ["step", *CHECK_COLUMNS.values()], "rows": rows, "all": len(found)}


def data_rows(events: Sequence[Event], environment: Any) -> list[tuple[str, str]]:
    """What is known of the cohort: counts and a fingerprint, from the last start or from environment.json."""
    found: Any = next((e["data"] for e in reversed(events) if isinstance(e.get("data"), dict)), None)
    if found is None and isinstance(environment, dict):
        found = environment.get("data")
    return (
        [(DATA_WORDS.get(n, n.replace("_", " ")), v) for n, v in _shown(found)]
        if isinstance(found, dict)
        else []
    )


def environment_rows(events: Sequence[Event], environment: Any) -> list[tuple[str, str]]:
    """Versions and device, from environment.json and the last start."""
    rows = (
        _shown({k: v for k, v in environment.items() if k != "data"}) if isinstance(environment, dict) else []
    )
    device = next((e["device"] for e in reversed(events) if isinstance(e.get("device"), str)), None)
    if device and all(name != "device" for name, _ in rows):
        rows.insert(0, ("device", without_names(device)))
    return rows


def _shown(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flat rows (name, value) of a dictionary, without what is private."""
    rows = []
    for name, value in flatten(values):
        if name.rpartition(".")[2].lower() not in _PRIVATE:
            rows.append(
                (name.removeprefix("packages."), "not installed" if value is None else without_names(value))
            )
    return rows


def settings_rows(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every setting with its meaning, marked where recipe and preset (or protocol) alone would give another value."""
    kind = PretrainSettings if "recipe" in settings else FinetuneSettings
    known = {option.name: option.facts for option in kind.options()}
    usual = _usual(settings)
    rows = []
    for name, value in settings.items():
        facts = known.get(name, {})
        if facts.get("private") or name.rpartition(".")[2] in _PRIVATE:
            continue
        changed = name in usual and _text(usual[name]) != _text(value)
        shown, unit = without_names(_text(value)), facts.get("unit", "") if value is not None else ""
        rows.append(
            {"name": name, "value": shown, "unit": unit, "help": facts.get("help", ""), "changed": changed}
        )
    return rows


def _usual(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the names of recipe and preset, or of the protocol, stand for; what they leave open is not among it."""
    try:
        if "recipe" in settings:
            return resolve_pretrain({n: settings[n] for n in ("recipe", "preset", "model.encoder")}).flat()
        usual = resolve_finetune({n: settings[n] for n in ("task", "protocol")}).flat()
    except (SettingsError, KeyError):
        return {}
    return {name: value for name, value in usual.items() if value is not None}


def _text(value: Any) -> str:
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return (" to " if len(value) == 2 else " × ").join(_text(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
