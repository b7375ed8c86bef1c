"""Keep what is told again and again small: the first ones all, later ones now and then, and always the last.

By construction one stream lets at most ``free + LASTS + 1`` messages pass, and one more each ``interval`` seconds,
however many there are.
"""

from __future__ import annotations

import math
import time
from typing import Generic, TypeVar

T = TypeVar("T")

LASTS = 100  # how often a message that ends something ("500 of 500") may pass out of turn


class Stream(Generic[T]):
    """One kind of message. The newest that did not pass is held back until a newer one passes, or it is due."""

    def __init__(self, free: int, interval: float) -> None:
        self.held: T | None = None
        self._free, self._interval, self._lasts = free, interval, LASTS
        self._passed = -math.inf

    def admits(self, message: T, ends: bool = False) -> bool:
        """Whether ``message`` may pass now; if not, it is the one held back. ``ends``: it finishes something."""
        now = time.monotonic()
        in_turn = self._free > 0 or now - self._passed >= self._interval
        if not in_turn and not (ends and self._lasts > 0):
            self.held = message
            return False
        self._free -= in_turn
        self._lasts -= not in_turn
        self._passed, self.held = now, None
        return True

    def overdue(self) -> T | None:
        """Return (once) what is held back, where nothing newer has come for two intervals."""
        if self.held is None or time.monotonic() - self._passed < 2 * self._interval:
            return None
        self._passed = time.monotonic()
        return self.take()

    def take(self) -> T | None:
        """Return (once) what is held back: the stream is at its end."""
        held, self.held = self.held, None
        return held
