"""Fields that know their help, unit, range and choices; groups of them that check themselves."""

from __future__ import annotations

import math
import reprlib
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

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


_FAR = 1e5  # an upper limit beyond is there for slips of the finger, and not worth telling to others


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
            raise SettingsError(f"{self.name} needs a value", self._what())
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
                f"{self.name} needs {len(kinds)} numbers, not {_short(value)}",
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
            return _READERS[kind](value)
        except (TypeError, ValueError, OverflowError):
            words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
            raise SettingsError(f"{self.name} needs {words}, not {_short(value)}", self._what()) from None

    def _what(self) -> str:
        unit = f" [{self.facts['unit']}]" if self.facts["unit"] else ""
        return f"it is: {self.facts['help']}{unit}"

    def _in_range(self, value: Any) -> Any:
        low, high, choices = self.facts["low"], self.facts["high"], self.facts["choices"]
        if choices and value not in choices:
            raise SettingsError(
                f"{self.name} cannot be {_short(value)}.{nearest(value, choices)}",
                "one of " + ", ".join(choices),
            )
        if (low is not None and value < low) or (high is not None and value > high):
            raise SettingsError(
                f"{self.name} must be {self._limits(value)}, not {_short(value)}", self._what()
            )
        return value

    def _limits(self, value: Any) -> str:
        low, high = self.facts["low"], self.facts["high"]
        if high is None or (low is not None and value < low and high > _FAR):
            return f"at least {low}"
        return f"at most {high}" if low is None else f"from {low} to {high}"


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
    if str(value).strip().lower() not in words:
        raise ValueError
    return words[str(value).strip().lower()]


def _as_int(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError
    if isinstance(value, int):
        return value  # not by way of a float, which holds 53 bits
    text = str(value).strip()
    if text[text[:1] in ("+", "-") :].isdecimal():
        return int(text)
    if int(float(value)) != float(value):
        raise ValueError
    return int(float(value))


def _as_float(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _as_text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


_READERS: dict[type, Callable[[Any], Any]] = {bool: _as_bool, int: _as_int, float: _as_float, str: _as_text}


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60


def _short(value: Any) -> str:
    """How a message shows a value that somebody gave, which may be long."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python prints no whole number of more than 4300 digits
        return "a number of thousands of digits"


class Group:
    """Base of all settings dataclasses: checks on construction, reads and writes plain dictionaries.

    ``command``: whose help lists the settings.
    """

    command: ClassVar[str] = "voco pretrain"

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
                    f"there is no setting {_short(name)}.{nearest(name, known)}",
                    f"{self.command} --help lists all",
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


def as_typed(value: Any) -> str:
    """A value as it is typed: ``4,4,1``, ``true``, ``0.001``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(map(as_typed, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _option(cls: type, item: Field, name: str) -> Option:
    return Option(name, _hints(cls)[item.name], item.default, item.metadata)


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls)
    return _HINTS[cls]
