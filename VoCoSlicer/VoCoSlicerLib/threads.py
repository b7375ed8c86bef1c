"""How a thread gets on while Slicer's window waits for its user.

In Slicer the window's thread keeps Python's lock between events, so a thread runs only while some Python code on the
window's thread lets it: each poll gives it a turn.
"""

from __future__ import annotations

import threading
import time

TURN = 0.002  # seconds


def giveTurn(thread: threading.Thread, seconds: float = TURN) -> None:
    """Let a thread have Python's lock, again and again, for at most ``seconds``; returns at once where it has ended."""
    until = time.perf_counter() + seconds
    while thread.is_alive() and time.perf_counter() < until:
        time.sleep(seconds / 10)
