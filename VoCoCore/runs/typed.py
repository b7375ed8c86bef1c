"""Records of our own read back from JSON: only what has the types that its dataclass names."""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def from_plain(cls: type[T], data: Any) -> T:
    """The dataclass ``cls`` from what `dataclasses.asdict` and JSON have made of it.

    Fields may be str, int, float, bool, such dataclasses and tuples of them. Raises TypeError for anything else, for
    a field that is missing without a default or that ``cls`` does not have: a file that was edited or cut.
    """
    if not isinstance(data, dict):
        raise TypeError(f"{cls.__name__} is not made of {type(data).__name__}")
    record: Any = cls
    kinds = _kinds(record)
    if strange := data.keys() - kinds.keys():
        raise TypeError(f"{cls.__name__} has no {sorted(map(str, strange))}")
    return record(**{name: _value(kinds[name], value) for name, value in data.items()})


@cache
def _kinds(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _value(kind: Any, value: Any) -> Any:
    if get_origin(kind) is tuple:
        return _items(get_args(kind), value)
    if is_dataclass(kind) and isinstance(kind, type):
        return from_plain(kind, value)
    if kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:  # false for NaN
        return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise TypeError(f"not of {kind}: {type(value).__name__}")


def _items(kinds: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise TypeError(f"not a list: {type(value).__name__}")
    each = kinds[:1] * len(value) if kinds[1:] == (...,) else kinds
    if len(each) != len(value):
        raise TypeError(f"{len(value)} items in place of {len(each)}")
    return tuple(_value(kind, item) for kind, item in zip(each, value, strict=True))
