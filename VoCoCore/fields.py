"""Fields that know their help, unit, range and choices; groups of them that check themselves."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from VoCoCore.errors import SettingsError, nearest


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    private: bool = False,
    name: str = "",
) -> Any:
    """A dataclass field with its description; ``name`` is what users write where Python forbids the word."""
    facts = {
        "help": help,
        "unit": unit,
        "low": low,
        "high": high,
        "choices": choices,
        "private": private,
        "name": name,
    }
    return field(default=default, metadata=facts)


@dataclass(frozen=True)
class Option:
    """One setting as a user sees it: dotted name, type, default and description."""

    name: str
    kind: Any
    default: Any
    facts: Mapping[str, Any]

    @property
    def optional(self) -> bool:
        """Whether None (``auto``) is a value."""
        return type(None) in get_args(self.kind)

    @property
    def plain(self) -> Any:
        """The type without None."""
        if get_origin(self.kind) in (Union, types.UnionType):
            return next(part for part in get_args(self.kind) if part is not type(None))
        return self.kind

    def check(self, value: Any) -> Any:
        """Return ``value`` in the field's own type; raises SettingsError naming the setting."""
        if value is None or (
            self.optional and value in ("", "none", "auto") and value not in self.facts["choices"]
        ):
            if self.optional:
                return None
            raise SettingsError(f"{self.name} needs a value")
        if get_origin(self.plain) is tuple:
            return self._check_tuple(value)
        return self._in_range(self._one(value, self.plain))

    def _check_tuple(self, value: Any) -> tuple:
        kinds = get_args(self.plain)
        parts = value.replace("x", ",").split(",") if isinstance(value, str) else value
        if isinstance(parts, int | float):
            parts = [parts] * len(kinds)
        if not isinstance(parts, list | tuple) or len(parts) != len(kinds):
            raise SettingsError(
                f"{self.name} needs {len(kinds)} numbers, not {value!r}",
                "for example " + self._example(kinds),
            )
        return tuple(self._in_range(self._one(part, kind)) for part, kind in zip(parts, kinds, strict=True))

    @staticmethod
    def _example(kinds: tuple) -> str:
        return ",".join(
            ("4", "4", "1")[: len(kinds)] if kinds[0] is int else ("1.5", "1.5", "3.0")[: len(kinds)]
        )

    def _one(self, value: Any, kind: type) -> Any:
        try:
            if kind is bool:
                return _as_bool(value)
            if kind is int and (isinstance(value, bool) or int(float(value)) != float(value)):
                raise ValueError
            if kind is int:
                return (
                    int(value)
                    if isinstance(value, str) and value.strip("+-").isdigit()
                    else int(float(value))
                )
            if kind is float and (isinstance(value, bool) or not math.isfinite(float(value))):
                raise ValueError
            if kind is str and not isinstance(value, str):
                raise ValueError
            return kind(value)
        except (TypeError, ValueError, OverflowError):
            words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
            raise SettingsError(f"{self.name} needs {words}, not {value!r}") from None

    def _in_range(self, value: Any) -> Any:
        low, high, choices = self.facts["low"], self.facts["high"], self.facts["choices"]
        if choices and value not in choices:
            raise SettingsError(
                f"{self.name} cannot be {value!r}.{nearest(value, choices)}", "one of " + ", ".join(choices)
            )
        if (low is not None and value < low) or (high is not None and value > high):
            limits = f"from {low} to {high}" if high is not None and low is not None else f"at least {low}"
            raise SettingsError(f"{self.name} must be {limits}, not {value}", self.facts["help"])
        return value


def _as_bool(value: Any) -> bool:
    words = {
        "true": True,
        "yes": True,
        "1": True,
        "on": True,
        "false": False,
        "no": False,
        "0": False,
        "off": False,
    }
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError
    return words[str(value).lower()]


class Group:
    """Base of all settings dataclasses: checks on construction, reads and writes plain dictionaries."""

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            if not is_dataclass(getattr(self, item.name)):
                option = _option(type(self), item, item.metadata.get("name") or item.name)
                object.__setattr__(self, item.name, option.check(getattr(self, item.name)))

    @classmethod
    def options(cls, prefix: str = "") -> Iterator[Option]:
        """All settings of this group and the groups in it, by dotted name."""
        for item in fields(cls):  # type: ignore[arg-type]
            name = prefix + (item.metadata.get("name") or item.name)
            if item.default_factory is not MISSING:
                yield from item.default_factory().options(name + ".")
            else:
                yield _option(cls, item, name)

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionary of plain values, ready for JSON."""
        return {
            name: value.to_dict() if isinstance(value, Group) else _plain(value)
            for name, value in self._items()
        }

    def flat(self) -> dict[str, Any]:
        """Dictionary from dotted names to plain values."""
        return dict(flatten(self.to_dict()))

    def with_values(self, changes: Mapping[str, Any]) -> Self:
        """A copy with some settings changed, by dotted name; raises SettingsError for one that does not exist."""
        known = {option.name: option for option in self.options()}
        nested: dict[str, Any] = {}
        for name, value in changes.items():
            if name not in known:
                raise SettingsError(
                    f"there is no setting '{name}'.{nearest(name, known)}", "voco pretrain --help lists all"
                )
            checked = known[name].check(value)
            head, _, rest = name.partition(".")
            if rest:
                nested.setdefault(head, {})[rest] = checked
            else:
                nested[head] = checked
        return self._replaced(nested)

    def _replaced(self, nested: Mapping[str, Any]) -> Self:
        new = {}
        for item in fields(self):  # type: ignore[arg-type]
            word = item.metadata.get("name") or item.name
            if word in nested:
                value, old = nested[word], getattr(self, item.name)
                new[item.name] = old._replaced(value) if isinstance(old, Group) else value
        return replace(self, **new)  # type: ignore[type-var]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Settings from a nested dictionary (what `to_dict` gave, or a part of it)."""
        if not isinstance(values, Mapping):
            raise SettingsError(f"settings need names and values, not {type(values).__name__}")
        return cls().with_values(dict(flatten(values)))

    def _items(self) -> Iterator[tuple[str, Any]]:
        for item in fields(self):  # type: ignore[arg-type]
            yield item.metadata.get("name") or item.name, getattr(self, item.name)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a nested dictionary."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _option(cls: type, item: Field, name: str) -> Option:
    return Option(name, _hints(cls)[item.name], item.default, item.metadata)


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls)
    return _HINTS[cls]
