"""What all stand-ins for Slicer's and CTK's widget classes are made with."""

from __future__ import annotations

from PySide6 import QtCore

from .uiloader import STAND_INS


def hostProperty(kind, name: str, default, apply: str = ""):
    """A Q_PROPERTY of a stand-in: a stored value; ``apply`` names the method that hears of changes.

    As in the C++ classes of CTK and MRML there is no Python setter method unless the stand-in defines one as a slot.
    """

    def read(owner):
        return owner.__dict__.setdefault("_hostValues", {}).get(name, default)

    def write(owner, value):
        value = type(default)(value) if isinstance(default, (list, float)) else value
        if value == read(owner):
            return
        owner.__dict__["_hostValues"][name] = value
        if apply:
            getattr(owner, apply)()

    return QtCore.Property(kind, read, write)


def standIn(kind: type) -> type:
    """Class decorator: registers the class for .ui files, and closes it to unknown attributes."""
    kind.hostStandIn = kind.__qualname__
    STAND_INS[kind.__name__] = kind
    return kind
