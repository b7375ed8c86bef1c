"""The module `qt`: the classes of PySide6's modules in one place, made strict, without what Slicer's qt lacks."""

from __future__ import annotations

import types

# what PySide6 has and PythonQt lacks, or breaks in it
REFUSED = {
    "Signal": "qt.Signal crashes PythonQt: use a plain Python class",
    "Slot": "PythonQt has no decorator Slot",
    "Property": "PythonQt has no Property",
    "SIGNAL": "PythonQt connects by w.connect('clicked(bool)', f)",
    "SLOT": "PythonQt connects by w.connect('clicked(bool)', f)",
    "ClassInfo": "PySide6 only",
    "QtMsgType": "PySide6 only",
    "qInstallMessageHandler": "PySide6 only",
    "QStringConverter": "Qt 6 only",
    "QStringDecoder": "Qt 6 only",
    "QStringEncoder": "Qt 6 only",
    "QPermission": "Qt 6 only",
}


class QtModule(types.ModuleType):
    """`qt` of the host; an attribute that Slicer's `qt` lacks is refused with the reason."""

    def __getattr__(self, name: str):
        from PySide6 import QtCore, QtGui, QtWidgets

        if name in REFUSED or name.startswith("__"):
            raise AttributeError(f"qt.{name}: {REFUSED.get(name, 'not there')}")
        for module in (QtWidgets, QtGui, QtCore):
            if hasattr(module, name):
                value = getattr(module, name)
                setattr(self, name, value)
                return value
        raise AttributeError(f"qt has no {name!r} in every Qt that Slicer is built with")


def make() -> QtModule:
    """The module, with PySide6 made strict and dialogs answered by the test."""
    from . import answers, strict
    from .uiloader import HostUiLoader

    strict.install()
    answers.install()
    module = QtModule("qt")
    module.QUiLoader = HostUiLoader
    return module


_MADE: list[QtModule] = []


def shared() -> QtModule:
    """The one module of this process."""
    if not _MADE:
        _MADE.append(make())
    return _MADE[0]
