"""A hand at the controls: finds them by name, presses, types, chooses, waits with the events running."""

from __future__ import annotations

import time
from pathlib import Path

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "slicer"


class Hand:
    """Drives the widgets below ``root``. A control that is hidden or switched off cannot be touched."""

    def __init__(self, root, host) -> None:
        self.root, self.host = root, host

    def find(self, control):
        """The widget with that object name, or the widget itself."""
        if not isinstance(control, str):
            return control
        import qt

        found = [one for one in self.root.findChildren(qt.QObject) if one.objectName == control]
        if not found:
            names = sorted({one.objectName for one in self.root.findChildren(qt.QObject) if one.objectName})
            raise LookupError(f"no control {control!r}; there are {', '.join(names)}")
        return found[-1]

    def _reach(self, control):
        widget = self.find(control)
        name = widget.objectName or type(widget).__name__
        assert widget.isVisible(), f"{name} is hidden: a hand cannot reach it"
        assert widget.isEnabled(), f"{name} is switched off"
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
        if widget.checked != on:
            widget.click()
        assert widget.checked == on, f"{widget.objectName} did not change"
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
        self.settle()

    def type(self, control, text: str) -> None:
        """Replace the text of a line, spin box, path or text field, and leave the field."""
        widget = self._reach(control)
        if hasattr(widget, "setCurrentPath"):
            widget.setCurrentPath(text)
        elif hasattr(widget, "lineEdit") and widget.lineEdit() is not None:
            self._keys(widget.lineEdit(), text)
        elif hasattr(widget, "setPlainText"):
            widget.setPlainText(text)
        else:
            self._keys(widget, text)
        self.settle()

    def _keys(self, line, text: str) -> None:
        import qt
        from PySide6 import QtTest

        line.setFocus()
        line.selectAll()
        if text:
            QtTest.QTest.keyClicks(line, text)
        else:
            QtTest.QTest.keyClick(line, qt.Qt.Key_Delete)
        QtTest.QTest.keyClick(line, qt.Qt.Key_Return)

    def choose(self, control, text: str) -> None:
        """Choose the item of a combo box with that text, or the node with that name."""
        widget = self._reach(control)
        combo = getattr(widget, "_hostCombo", widget)
        index = combo.findText(text)
        items = [combo.itemText(number) for number in range(combo.count)]
        assert index >= 0, f"{widget.objectName} does not offer {text!r} but {items}"
        combo.setCurrentIndex(index)
        self.settle()

    def pick(self, control, node) -> None:
        """Choose a node in a node selector (None: the entry for none)."""
        widget = self._reach(control)
        widget.setCurrentNode(node)
        assert widget.currentNode() is node, f"{widget.objectName} does not offer {node}"
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
        """The texts of a table's rows."""
        widget = self.find(table)
        model = widget.model()
        return [
            [str(model.index(row, column).data() or "") for column in range(model.columnCount())]
            for row in range(model.rowCount())
        ]

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

    def until(self, happened, seconds: float = 10.0, what: str = ""):
        """Run the events until ``happened()`` is true, and return it; errors in slots and time out fail."""
        end = time.monotonic() + seconds
        while True:
            self.host.app.processEvents()
            self.host.failures.check()
            result = happened()
            if result:
                return result
            assert time.monotonic() < end, f"not within {seconds} s: {what or happened}"
            time.sleep(0.01)

    def screenshot(self, name: str, widget=None, folder: Path = PICTURES) -> Path:
        """Save a picture of a widget (all of it by default) as ``name``.png and return its path."""
        self.settle()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        assert (widget or self.root).grab().save(str(path)), f"cannot write {path}"
        return path
