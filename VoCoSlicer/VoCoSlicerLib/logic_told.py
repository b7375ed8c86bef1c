"""What a script that waits for a job is told of it: lines for its ``progress``, as few as a person reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from VoCoCore.runs.lines import PlainLines

Told = Callable[[str], Any] | None  # None: nobody listens


def changes(progress: Told) -> Callable[[str], Any]:
    """What hands a line on to ``progress`` where it differs from the one before."""
    said = ""

    def tell(line: str) -> None:
        nonlocal said
        if progress is not None and line != said:
            progress(line)
        said = line

    return tell


def prefixed(progress: Told, name: str) -> Told:
    """``progress`` with ``name`` before each line."""
    return None if progress is None else lambda line: progress(f"{name}: {line}")


def eventLines(progress: Told) -> PlainLines:
    """What writes the events of a run as lines, as a terminal shows them."""
    return PlainLines(progress or (lambda line: None))
