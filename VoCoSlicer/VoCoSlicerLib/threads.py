"""How a thread gets on while Slicer's window waits for its user, and what becomes of its errors.

In Slicer the window's thread keeps Python's lock between events, so a thread runs only while some Python code on the
window's thread lets it: each poll gives it a turn.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from VoCoCore.errors import DataError, VocoError

TURN = 0.002  # seconds


def giveTurn(thread: threading.Thread, seconds: float = TURN) -> None:
    """Let a thread have Python's lock, again and again, for at most ``seconds``; returns at once where it has ended."""
    until = time.perf_counter() + seconds
    while thread.is_alive() and time.perf_counter() < until:
        time.sleep(seconds / 10)


def inThread(action: Callable[[], Any], what: str):
    """Do ``action`` in a thread, yielding until it is done; returns its result, and raises what it raises."""
    box: dict[str, Any] = {}

    def work() -> None:
        try:
            box["result"] = action()
        except Exception as error:  # a thread has nobody to raise to
            box["error"] = asVocoError(error, what)

    thread = threading.Thread(target=work, name=f"VoCo: {what}", daemon=True)
    thread.start()
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
    if isinstance(error, MemoryError):
        return DataError(f"there is not enough memory for {what}", "close other programs")
    logging.error("VoCo: unexpected error", exc_info=error)
    return VocoError(f"{what} failed: {type(error).__name__}: {error}", "this is a defect of ours")
