"""The module's height in Slicer's panel, which Slicer computes only once after the user has come back."""

from __future__ import annotations

from typing import Any

import qt

_OTHERS = 8  # Qt keeps three, so far


class HeightKeeper(qt.QObject):
    """Lets the panel around the module's widget follow when texts in it need more or fewer lines.

    When a module is left, Slicer forgets the layout's item of its widget without deleting it, and the item of the next
    time is never told that heights have changed. Qt keeps the heights of the last few widths: others push them out.
    """

    def __init__(self, widget: Any) -> None:
        super().__init__()
        self._widget = widget
        widget.installEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Qt's call for every event of the widget; before it is laid out anew the height has to be known."""
        if event.type() == qt.QEvent.LayoutRequest:
            refreshHeight(watched)
        return False

    def cleanup(self) -> None:
        """Listen no more."""
        self._widget.removeEventFilter(self)


def refreshHeight(widget: Any) -> None:
    """Make the layout around ``widget`` forget a height that is no longer the one that ``widget`` has."""
    around, inner, width = widget.parentWidget(), widget.layout(), widget.rect.width()
    outer: Any = None if around is None else around.layout()
    if outer is None or outer.indexOf(widget) < 0 or inner is None or not inner.hasHeightForWidth():
        return
    item = outer.itemAt(outer.indexOf(widget))
    if item.heightForWidth(width) != inner.totalHeightForWidth(width):
        for other in range(width + 1, width + 1 + _OTHERS):
            item.heightForWidth(other)
