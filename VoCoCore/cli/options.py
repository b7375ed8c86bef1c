"""Options of a command made from the settings' own descriptions, and the settings that they resolve to."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from VoCoCore.errors import SettingsError
from VoCoCore.fields import Group, Option, flatten

# Short words for the settings that nearly every call names.
SHORT = {
    "data.source": "--data",
    "data.store": "--store",
    "data.workers": "--workers",
    "data.skip_bad": "--skip-bad",
    "model.encoder": "--encoder",
    "optim.steps": "--steps",
    "optim.batch": "--batch",
    "run.seed": "--seed",
    "run.device": "--device",
}


def add_settings(parser: argparse.ArgumentParser, settings: type[Group], only: tuple[str, ...] = ()) -> None:
    """Add one option per setting of ``settings`` (those whose names begin with one of ``only``), by group."""
    groups: dict[str, Any] = {}
    for option in settings.options():
        if only and not option.name.startswith(only):
            continue
        head = option.name.rpartition(".")[0] or "main settings"
        if head not in groups:
            groups[head] = parser.add_argument_group(head)
        names = [SHORT[option.name]] if option.name in SHORT else []
        facts: dict[str, Any] = {
            "dest": option.name,
            "default": argparse.SUPPRESS,
            "metavar": _metavar(option),
        }
        if option.plain is bool:
            facts |= {"nargs": "?", "const": "true"}
        groups[head].add_argument(*names, "--" + option.name, help=_help(option), **facts)


def _metavar(option: Option) -> str:
    if option.facts["choices"]:
        return "|".join(option.facts["choices"])
    if option.plain is bool:
        return "true|false"
    kinds = getattr(option.plain, "__args__", (option.plain,))
    return ",".join("N" if kind is int else "X" if kind is float else "TEXT" for kind in kinds)


def _help(option: Option) -> str:
    unit = f" [{option.facts['unit']}]" if option.facts["unit"] else ""
    return (option.facts["help"] + unit).replace("%", "%%")


def given_settings(arguments: argparse.Namespace, settings: type[Group]) -> dict[str, Any]:
    """The settings that were named on the command line, by dotted name."""
    names = {option.name for option in settings.options()}
    return {name: value for name, value in vars(arguments).items() if name in names}


def read_config(path: str | None) -> dict[str, Any]:
    """Values of a YAML or JSON file by dotted name; raises SettingsError naming the file."""
    if path is None:
        return {}
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"cannot read the settings file {path}: {error}", "give a YAML or JSON file"
        ) from None
    try:
        values = json.loads(text) if path.lower().endswith(".json") else _yaml(text)
    except ValueError as error:
        raise SettingsError(
            f"{path} is neither YAML nor JSON: {error}", "mend the line that is named"
        ) from None
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise SettingsError(f"{path} must hold names and values", "for example 'optim: {steps: 1000}'")
    return dict(flatten(values))


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
