"""Ctrl-C and a cluster's SIGTERM as wishes to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Catch them for the length of the block. Once: the function given says so; twice: KeyboardInterrupt at once.

    Processes forked meanwhile (loader workers) keep to what the system does by default, so that they can be ended.
    """
    caught: list[int] = []
    owner = os.getpid()

    def catch(number: int, _frame: object) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if caught:
            raise KeyboardInterrupt
        caught.append(number)
        print("\nstopping after this step, with a checkpoint; once more to stop at once", flush=True)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
