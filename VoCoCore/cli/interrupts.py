"""Ctrl-C and a cluster's SIGTERM as wishes to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable


def interrupts() -> Callable[[], bool]:
    """Catch them from now on. Once: the returned function says so, which stops after the step; twice: stop now."""
    caught: list[int] = []

    def catch(number: int, _frame: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)
        print("\nstopping after this step, with a checkpoint; once more to stop at once", flush=True)

    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), catch)
    return lambda: bool(caught)
