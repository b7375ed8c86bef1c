"""How a thread gets on while Slicer's window waits for its user, and what becomes of its errors.

In Slicer the window's thread keeps Python's lock between events, so a thread runs only while some Python code on the
window's thread lets it: each poll gives it a turn, and while any thread is at work the window itself gives one every
EVERY milliseconds (`adapter.ThreadTurns`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from VoCoCore.errors import VocoError, of_the_machine
from VoCoSlicerLib.signals import Signal

TURN = 0.002  # seconds, of a poll
# Milliseconds between two turns that the window gives, and the seconds that each lasts.
EVERY, SHARE = 16, 0.008

began = Signal()  # some thread is at work now
_working: set[threading.Thread] = set()


def begin(work: Callable[[], Any], name: str) -> threading.Thread:
    """Do ``work`` in a thread that does not outlive Slicer."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    _working.add(thread)
    began.emit()
    return thread


def giveTurns() -> bool:
    """Let all threads have Python's lock for SHARE seconds; False where none is at work any more."""
    _working.difference_update([thread for thread in _working if not thread.is_alive()])
    for thread in list(_working)[:1]:  # while one may have the lock, any may
        giveTurn(thread, SHARE)
    return bool(_working)


def giveTurn(thread: threading.Thread, seconds: float = TURN) -> None:
    """Let a thread have Python's lock, again and again, for at most ``seconds``; returns at once where it has ended."""
    until = time.perf_counter() + seconds
    while thread.is_alive() and time.perf_counter() < until:
        time.sleep(TURN / 10)


def inThread(action: Callable[[], Any], what: str):
    """Do ``action`` in a thread, yielding until it is done; returns its result, and raises what it raises."""
    box: dict[str, Any] = {}

    def work() -> None:
        try:
            box["result"] = action()
        except Exception as error:  # a thread has nobody to raise to
            box["error"] = asVocoError(error, what)

    thread = begin(work, f"VoCo: {what}")
    while thread.is_alive():
        giveTurn(thread)
        yield
    if "error" in box:
        raise box["error"]
    return box["result"]


def asVocoError(error: Exception, what: str) -> VocoError:
    """An error for whoever shows it, of a thread or a timer, which have nobody to raise to; ``what`` went wrong."""
    if isinstance(error, VocoError):
        return error
    if fault := of_the_machine(error, what):
        return fault
    logging.error("VoCo: unexpected error", exc_info=error)
    return VocoError(f"{what} failed: {type(error).__name__}: {error}", "this is a defect of ours")
