"""Cells of CSV files: names are text, also to the spreadsheet that opens the file.

A spreadsheet computes a cell that begins with ``=``, ``+``, ``-`` or ``@``; such a name gets an apostrophe before it.
"""

from __future__ import annotations

from typing import Any

_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r")


def as_cell(value: Any) -> Any:
    """``value`` as it stands in a CSV; `from_cell` makes a text the one that it was."""
    return f"'{value}" if isinstance(value, str) and _would_be_computed(value) else value


def from_cell(text: str) -> str:
    """The text that a cell stands for."""
    return text[1:] if text.startswith("'") and _would_be_computed(text) else text


def readable(name: str) -> str:
    """``name`` as text that a table can hold: an old archive may hold file names that are no Unicode."""
    return name.encode(errors="replace").decode()


def _would_be_computed(text: str) -> bool:
    bare = text.lstrip("'")
    if not bare.startswith(_BEGINNINGS):
        return False
    try:
        float(bare)
    except ValueError:
        return True
    return False
