"""Ctrl-C, a closed terminal and a cluster's signals as wishes to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


def _numbers(*names: str) -> set[int]:
    """Those of the signals that this system has."""
    return {getattr(signal, name) for name in names if hasattr(signal, name)}


# SIGUSR1 is what SLURM sends before the time is up, SIGHUP what a closed terminal leaves behind.
_CAUGHT = _numbers("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
# These may come again and again; only a person at a keyboard means "at once" by the second one.
_PATIENT = _numbers("SIGUSR1", "SIGHUP")
_TERMINAL = _numbers("SIGINT", "SIGHUP")


def end_tidily() -> None:
    """Have SIGTERM (a time limit, a shutdown) end this process as Ctrl-C does: nothing half-written, and code 5."""
    owner = os.getpid()

    def end(number: int, _frame: object) -> None:
        if os.getpid() == owner:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)  # a process forked meanwhile ends as it would have
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)


@contextmanager
def interrupts(after: str = "this step, with a checkpoint") -> Iterator[Callable[[], bool]]:
    """Catch them for the length of the block; ``after`` says when a wish is met.

    Once: the function given says so; twice: KeyboardInterrupt at once. One of the terminal's that was ignored before
    (``nohup``) stays ignored; a cluster's may have been, while Python was starting, and counts from now on.
    """
    caught: list[int] = []
    owner = os.getpid()

    def catch(number: int, _frame: object) -> None:
        if os.getpid() != owner:
            return  # a process forked meanwhile, told together with its parent, which decides
        if caught and number not in _PATIENT:
            raise KeyboardInterrupt
        caught.append(number)
        if len(caught) == 1:
            # The terminal may be gone, or the block in the middle of printing (RuntimeError): it counts all the same.
            with suppress(OSError, ValueError, RuntimeError):
                print(f"\nstopping after {after}; once more to stop at once", flush=True)

    ignored = {number for number in _TERMINAL if signal.getsignal(number) is signal.SIG_IGN}
    before = {number: signal.signal(number, catch) for number in _CAUGHT - ignored}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
