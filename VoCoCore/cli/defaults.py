"""What a setting is where nobody gives it, in the words of ``--help``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from VoCoCore.fields import Group, as_typed
from VoCoCore.presets import PRESETS, RECIPES
from VoCoCore.protocols import PROTOCOLS
from VoCoCore.settings import PretrainSettings


def defaults_of(settings: type[Group]) -> dict[str, str]:
    """Dotted name -> its value, or what decides it; without settings that are open until the job looks at the cases."""
    values = settings().flat()
    if issubclass(settings, PretrainSettings):
        decided = {
            **_decided(RECIPES.values(), "by the recipe"),
            **_decided(PRESETS.values(), "by the preset"),
        }
    else:
        values |= {**PROTOCOLS["auto"], "prepare.fit": None}  # which the task decides
        decided = {}
    plain = {name: as_typed(value) for name, value in values.items() if value not in (None, "")}
    return {**plain, **decided}


def _decided(tables: Iterable[Mapping[str, Any]], words: str) -> dict[str, str]:
    """``words`` for each setting of the tables, but for those on which all of them agree.

    A value that is a dictionary differs by the recipe as well.
    """
    found: dict[str, list[Any]] = {}
    for table in tables:
        for name, value in table.items():
            found.setdefault(name, []).append(value)
    return {
        name: f"{words} and the recipe" if any(isinstance(value, dict) for value in values) else words
        for name, values in found.items()
        if any(value != values[0] for value in values)
    }
