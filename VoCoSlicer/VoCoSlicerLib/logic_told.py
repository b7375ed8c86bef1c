"""What a script that waits for a job is told of it: lines for its ``progress``, as few as a person reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Told = Callable[[str], Any]


def silent(line: str) -> None:
    """The ``progress`` of a script that does not listen."""


def changes(progress: Told) -> Told:
    """What hands a line on to ``progress`` where it differs from the one before."""
    said = ""

    def tell(line: str) -> None:
        nonlocal said
        if line != said:
            progress(line)
        said = line

    return tell


def prefixed(progress: Told, name: str) -> Told:
    """``progress`` with ``name`` before each line."""
    return lambda line: progress(f"{name}: {line}")
