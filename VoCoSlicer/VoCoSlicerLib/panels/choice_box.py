"""A combo box whose items stand for values: a run's folder, a file, a word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from VoCoSlicerLib import adapter


class ChoiceBox:
    """Drives a combo box that offers ``value`` as ``text`` from the first; ``changed(value)`` tells a user's choice."""

    def __init__(self, combo: Any, value: str, text: str, changed: Callable[[str], Any]) -> None:
        self._combo, self._changed = combo, changed
        self._values: list[str] = []
        self.offer(value, text)
        adapter.connect(combo, "currentIndexChanged(int)", self._onPicked)

    @property
    def value(self) -> str:
        """What is chosen."""
        return self._values[max(0, adapter.read(self._combo, "currentIndex"))]

    def offer(self, value: str, text: str) -> None:
        """Offer another value, once; what is chosen stays chosen."""
        if value not in self._values:
            self._values.append(value)
            with adapter.blocked(self._combo):
                self._combo.addItem(text)

    def show(self, value: str, text: str) -> None:
        """Show ``value`` as chosen, offered as ``text`` where it was not yet; tells nobody."""
        self.offer(value, text)
        with adapter.blocked(self._combo):
            self._combo.setCurrentIndex(self._values.index(value))

    def _onPicked(self, index: int) -> None:
        if 0 <= index < len(self._values):
            self._changed(self._values[index])
