"""A hand at the controls: finds them by name, presses, types, chooses, waits with the events running.

It uses nothing but what Slicer's own qt has too, so that the same steps run in the host and in a real Slicer.
"""

from __future__ import annotations

import time
from pathlib import Path

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "slicer"


class Hand:
    """Drives the widgets below ``root``. A control that is hidden or switched off cannot be touched.

    ``host`` has ``app`` (processEvents) and ``failures`` (check, raising what went wrong in slots).
    """

    def __init__(self, root, host) -> None:
        self.root, self.host = root, host

    def find(self, control):
        """The widget with that object name, or the widget itself."""
        if not isinstance(control, str):
            return control
        import slicer

        found = slicer.util.findChildren(self.root, name=control)
        if not found:
            named = sorted(
                {one.name for one in slicer.util.findChildren(self.root) if getattr(one, "name", "")}
            )
            raise LookupError(f"no control {control!r}; there are {', '.join(named)}")
        shown = [one for one in found if one.isWidgetType() and one.isVisible()]
        assert len(shown) < 2, f"{len(shown)} controls are called {control}: use the Hand of one panel"
        return (shown or found)[0]

    def _reach(self, control):
        widget = self.find(control)
        assert widget.isVisible(), f"{widget.objectName} is hidden: a hand cannot reach it"
        assert widget.isEnabled(), f"{widget.objectName} is switched off: {widget.toolTip}"
        return widget

    def settle(self) -> None:
        """Let everything that is waiting in Qt happen; errors in slots fail here."""
        for _ in range(3):
            self.host.app.processEvents()
        self.host.failures.check()

    def click(self, control) -> None:
        """Press a button, check box or radio button."""
        self._reach(control).click()
        self.settle()

    def check(self, control, on: bool = True) -> None:
        """Bring a check box or checkable button into a state, by pressing it where it is in the other."""
        widget = self._reach(control)
        if widget.isChecked() != on:
            widget.click()
        assert widget.isChecked() == on, f"{widget.objectName} did not change"
        self.settle()

    def open(self, section) -> None:
        """Open a collapsible section by its bar."""
        widget = self._reach(section)
        if widget.collapsed:
            widget.click()
        assert not widget.collapsed
        self.settle()

    def fold(self, section) -> None:
        """Close a collapsible section by its bar."""
        widget = self._reach(section)
        if not widget.collapsed:
            widget.click()
        assert widget.collapsed
        self.settle()

    def type(self, control, text: str) -> None:
        """Replace the text of a line, spin box or editable combo box, key by key, and press Return."""
        widget = self._reach(control)
        line = widget.lineEdit() if hasattr(widget, "lineEdit") else widget
        line.selectAll()
        self._key(line, "Delete")
        for letter in text:
            self._key(line, letter)
        self._key(line, "Return")
        self.settle()

    def insert(self, control, text: str, position: int) -> None:
        """Put the cursor of a line after so many letters, and type."""
        line = self._reach(control)
        line.setCursorPosition(position)
        for letter in text:
            self._key(line, letter)
        self.settle()

    def _key(self, widget, key: str) -> None:
        import qt

        code, letter = (getattr(qt.Qt, f"Key_{key}"), "") if len(key) > 1 else (0, key)
        for kind in (qt.QEvent.KeyPress, qt.QEvent.KeyRelease):
            event = qt.QKeyEvent(kind, code, qt.Qt.NoModifier, letter)
            qt.QCoreApplication.sendEvent(widget, event)

    def choose(self, control, text: str) -> None:
        """Choose the item of a combo box with that text."""
        combo = self._reach(control)
        items = [combo.itemText(number) for number in range(combo.count)]
        assert text in items, f"{combo.objectName} does not offer {text!r} but {items}"
        combo.setCurrentIndex(items.index(text))
        self.settle()

    def pick(self, control, node) -> None:
        """Choose a node in a node selector (None: the entry for none)."""
        widget = self._reach(control)
        widget.setCurrentNode(node)
        assert widget.currentNode() == node, f"{widget.objectName} does not offer {node}"
        self.settle()

    def set(self, control, value) -> None:
        """Set a spin box or slider to a value that it allows."""
        widget = self._reach(control)
        assert widget.minimum <= value <= widget.maximum, f"{value} is outside of {widget.objectName}'s range"
        widget.setValue(value)
        self.settle()

    def drag(self, control, values) -> None:
        """Move a slider through several values, with the events running in between."""
        for value in values:
            self.set(control, value)

    def rows(self, table) -> list[list[str]]:
        """The texts of a QTableWidget's rows."""
        widget = self.find(table)
        items = [
            [widget.item(row, column) for column in range(widget.columnCount)]
            for row in range(widget.rowCount)
        ]
        return [["" if item is None else item.text() for item in line] for line in items]

    def checkRow(self, table, row: int, column: int = 0, on: bool = True) -> None:
        """Set the check mark of a table's cell."""
        import qt

        item = self._reach(table).item(row, column)
        assert item is not None and item.flags() & qt.Qt.ItemIsUserCheckable, f"row {row} has no check box"
        item.setCheckState(qt.Qt.Checked if on else qt.Qt.Unchecked)
        self.settle()

    def selectRow(self, table, row: int) -> None:
        """Click on a row."""
        self._reach(table).selectRow(row)
        self.settle()

    def until(self, happened, seconds: float = 60.0, what: str = ""):
        """Run the events until ``happened()`` is true, and return it; errors in slots and too long a wait fail."""
        end = time.monotonic() + seconds
        while True:
            self.host.app.processEvents()
            self.host.failures.check()
            result = happened()
            if result:
                return result
            assert time.monotonic() < end, f"not within {seconds} s: {what or happened}"
            time.sleep(0.01)

    def readWindow(self) -> tuple[str, str]:
        """The title and the plain text of the window with a long text, which is closed then."""
        import qt
        import slicer

        windows = [one for one in qt.QApplication.topLevelWidgets() if one.objectName == "VoCoTextWindow"]
        (window,) = [one for one in windows if one.isVisible()]
        (box,) = [one for one in slicer.util.findChildren(window) if isinstance(one, qt.QPlainTextEdit)]
        found = window.windowTitle, box.toPlainText()
        window.close()
        self.settle()
        return found

    def screenshot(self, name: str, widget=None, folder: Path = PICTURES) -> Path:
        """Save a picture of a widget (all of it by default) as ``name``.png and return its path."""
        self.settle()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        assert (widget or self.root).grab().save(str(path)), f"cannot write {path}"
        return path
