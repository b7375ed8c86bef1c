"""Loads .ui files: custom widgets become the host's stand-ins, and their connections are made in Python."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from PySide6 import QtCore, QtUiTools

from . import strict
from .failures import FAILURES
from .signals import findSignal

STAND_INS: dict[str, type] = {}  # class name -> stand-in; filled by the modules that define them


class HostUiLoader(QtUiTools.QUiLoader):
    """`qt.QUiLoader`: load(file or path, parent=None) -> widget. A custom class without stand-in fails the test."""

    hostStandIn = "HostUiLoader"

    def createWidget(self, className: str, parent=None, name: str = ""):
        """Called by Qt for each widget of the file."""
        if className in STAND_INS:
            widget = STAND_INS[className](parent)
            widget.setObjectName(name)
            return widget
        if className not in self.availableWidgets():
            FAILURES.add(f"the .ui file wants {className}, for which the host has no stand-in")
        return super().createWidget(className, parent, name)

    def load(self, source, parent=None):
        """Load a `qt.QFile` that is open, or a path."""
        text = _read(source)
        root = ElementTree.fromstring(text)
        customs = {
            element.get("name") for element in root.iter("widget") if element.get("class") in STAND_INS
        }
        ours = []
        for holder in root.iter("connections"):
            for one in list(holder):
                parts = {part.tag: part.text for part in one}
                if parts["sender"] in customs or parts["receiver"] in customs:
                    holder.remove(one)
                    ours.append(parts)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(root, encoding="utf-8"))
        buffer.open(QtCore.QIODevice.ReadOnly)
        strict.LOADING.append(self)  # PySide6 makes each child an attribute of its form; PythonQt does not
        try:
            widget = super().load(buffer, parent)
        finally:
            strict.LOADING.clear()
        for parts in ours:
            _wire(widget, parts)
        return widget


def _read(source) -> bytes:
    if isinstance(source, str):
        source = QtCore.QFile(source)
        source.open(QtCore.QIODevice.ReadOnly)
    return bytes(source.readAll().data())


def _wire(root, parts: dict) -> None:
    ends = {}
    for end in ("sender", "receiver"):
        name = parts[end]
        found = root if root.objectName == name else root.findChild(QtCore.QObject, name)
        if found is None:
            FAILURES.add(f"a connection of the .ui file names {name!r}, which is not there")
            return
        ends[end] = found
    slot = parts["slot"].split("(")[0]
    findSignal(ends["sender"], parts["signal"])[0](ends["sender"], getattr(ends["receiver"], slot))
