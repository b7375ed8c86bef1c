"""What a script that waits for a job is told of it: lines for its ``progress``, as few as a person reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from VoCoCore.runs.lines import PlainLines

Told = Callable[[str], Any] | None  # None: nobody listens
_RECENT = 60.0  # seconds: what was said longer before the script began to wait is in log.txt


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


def eventLines(progress: Told) -> Callable[[Mapping[str, Any]], None]:
    """What turns the events of a run into lines: those from now on, and the newest before.

    Errors are passed over: they come with their hint at the end.
    """
    speak, since = PlainLines(progress or (lambda line: None)), time.time() - _RECENT

    def tell(event: Mapping[str, Any]) -> None:
        when = event.get("time")
        if event["type"] != "error" and isinstance(when, int | float) and when >= since:
            speak(dict(event))

    return tell
