"""Settings as scripts and forms give them: short words, dotted names, what they resolve to, what a command takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from VoCoCore.errors import SettingsError, nearest
from VoCoCore.fields import Group
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.presets import resolve_pretrain
from VoCoCore.protocols import resolve_finetune
from VoCoCore.settings import PretrainSettings

CLASSES: dict[str, type[Group]] = {"pretrain": PretrainSettings, "finetune": FinetuneSettings}
# The words of the command line's short options, for scripts: pretrain(..., steps=20).
_WORDS = {
    "store": "data.store",
    "workers": "data.workers",
    "labels": "data.labels",
    "fold": "data.fold",
    "folds": "data.folds",
    "skip_bad": "data.skip_bad",
    "encoder": "model.encoder",
    "steps": "optim.steps",
    "batch": "optim.batch",
    "freeze": "optim.freeze",
    "hours": "run.hours",
    "seed": "run.seed",
    "device": "run.device",
}


def resolve(kind: str, values: Mapping[str, Any]) -> Group:
    """The whole settings of a ``pretrain`` or ``finetune`` job that ``values`` (dotted names) lead to.

    Raises SettingsError for an unknown name, a wrong value, or values that do not fit together.
    """
    return (resolve_pretrain if kind == "pretrain" else resolve_finetune)(values)


def named(kind: str, words: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Values by dotted name from a script's ``words`` and its dictionary ``settings``, which goes first.

    Raises SettingsError, with the nearest word, for one that does not exist.
    """
    known = {option.name for option in CLASSES[kind].options()}
    short = {word: name for word, name in _WORDS.items() if name in known}
    plain = {name for name in known if "." not in name}
    made = {}
    for word, value in words.items():
        if word not in short and word not in plain:
            raise SettingsError(
                f"{kind} has no option {word!r}.{nearest(word, [*short, *plain])}",
                "others are given by their dotted names: settings={'crops.counts': (4, 4, 1)}",
            )
        made[short.get(word, word)] = value
    return {**made, **(settings or {})}


def asOptions(values: Mapping[str, Any]) -> list[str]:
    """Values by dotted name as options of a command, such as ``--crops.counts=4,4,1``; without those that are None."""
    return [f"--{name}={_word(value)}" for name, value in values.items() if value is not None]


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ",".join(map(_word, value))
    return repr(value) if isinstance(value, float) else str(value)
