"""Options of a command made from the settings' own descriptions, and the settings that they resolve to."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from VoCoCore.cli.defaults import defaults_of
from VoCoCore.cli.main import at_home
from VoCoCore.errors import SettingsError
from VoCoCore.fields import Group, Option, flatten

# Short words for the settings that nearly every call names.
SHORT = {
    "data.source": "--data",
    "data.store": "--store",
    "data.workers": "--workers",
    "data.labels": "--labels",
    "data.fold": "--fold",
    "data.skip_bad": "--skip-bad",
    "model.encoder": "--encoder",
    "model.allow_partial": "--allow-partial",
    "optim.steps": "--steps",
    "optim.batch": "--batch",
    "optim.freeze": "--freeze",
    "run.hours": "--hours",
    "run.seed": "--seed",
    "run.device": "--device",
}


# What the values of settings that are any text stand for.
PLACES = {"init": "RUN|FILE|scratch", "data.source": "SOURCE", "data.store": "FOLDER", "data.fold": "N|all"}


def add_settings(
    parser: argparse.ArgumentParser,
    settings: type[Group],
    only: tuple[str, ...] = (),
    usual: Mapping[str, str] | None = None,
) -> None:
    """Add one option per setting of ``settings`` (those whose names begin with one of ``only``), by group.

    ``usual``: what the help tells to hold where nobody gives a setting, by dotted name; else what `defaults_of` tells.
    """
    groups: dict[str, Any] = {}
    usual = defaults_of(settings) if usual is None else usual
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
        groups[head].add_argument(
            *names, "--" + option.name, help=_help(option, usual.get(option.name, "")), **facts
        )


def _metavar(option: Option) -> str:
    if option.name in PLACES:
        return PLACES[option.name]
    if option.facts["choices"]:
        return "|".join(option.facts["choices"])
    if option.plain is bool:
        return "true|false"
    kinds = getattr(option.plain, "__args__", (option.plain,))
    return ",".join("N" if kind is int else "X" if kind is float else "TEXT" for kind in kinds)


def _help(option: Option, usual: str) -> str:
    text = option.facts["help"] + (f" [{option.facts['unit']}]" if option.facts["unit"] else "")
    told = f" ({usual})" if usual and "default" not in text else ""
    return (text + told).replace("%", "%%")


def given_settings(arguments: argparse.Namespace, settings: type[Group]) -> dict[str, Any]:
    """The settings that were named on the command line, by dotted name."""
    names = {option.name for option in settings.options()}
    return {name: value for name, value in vars(arguments).items() if name in names}


def read_config(path: str | None) -> dict[str, Any]:
    """Values of a YAML or JSON file by dotted name; raises SettingsError naming the file."""
    if path is None:
        return {}
    text = _text_of(path)
    try:
        values = json.loads(text, object_pairs_hook=_once) if path.lower().endswith(".json") else _yaml(text)
    except _TwiceError as twice:
        raise _twice(path, twice) from None
    except ValueError as error:
        raise SettingsError(
            f"the settings file {path} is neither YAML nor JSON: {error}", "mend the line that is named"
        ) from None
    except RecursionError:
        raise SettingsError(f"the settings file {path} is nested too deeply", _EXAMPLE) from None
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise SettingsError(f"the settings file {path} must hold names and values", _EXAMPLE)
    return _flat(values, path)


_EXAMPLE = "for example 'optim: {steps: 1000}'"
_MOST_NAMES = 1000


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        why = "it is not text in UTF-8"
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
    raise SettingsError(f"cannot read the settings file '{path}': {why}", "give a YAML or JSON file")


def _flat(values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The values by dotted name; one name may be written nested and dotted, but not both."""
    try:
        # Aliases of YAML can make a file of a few lines billions of names; so many are never all right.
        found = _once(list(islice(flatten(values), _MOST_NAMES)))
    except _TwiceError as twice:
        raise _twice(path, twice) from None
    except RecursionError:
        raise SettingsError(f"the settings file {path} holds itself", _EXAMPLE) from None
    return {name: at_home(value) if isinstance(value, str) else value for name, value in found.items()}


class _TwiceError(Exception):
    """A settings file gives one name two values."""


def _twice(path: str, name: Exception) -> SettingsError:
    return SettingsError(f"the settings file {path} names {name} twice", "name each setting once")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary; raises _TwiceError for a name that is there twice, of which one would be lost."""
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise _TwiceError(name)
        made[name] = value
    return made


def _yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses what YAML itself lets pass: a name that is there twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            _once([(str(key.value), None) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"])
            return super().construct_mapping(node, deep)

    try:
        return Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
