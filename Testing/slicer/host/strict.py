"""Makes PySide6's own classes behave as PythonQt's, or stricter: every object is strict, wherever it came from.

For each QObject class: its Q_PROPERTYs become Python properties (the getter of that name is gone, setters stay), its
signals become `QtSignal`s, and writing an attribute that is neither raises. Enumerators stand on the class alone, and
compare and convert as integers.
"""

from __future__ import annotations

import ctypes
import enum
import sys
import threading
import types

from PySide6 import QtCore, QtGui, QtWidgets

from . import signals

# Q_PROPERTYs that Qt 5 has as methods, or does not have: whoever reads them breaks in Slicer
ONLY_IN_QT6 = {
    ("QLayout", "contentsMargins"),
    ("QTimer", "timerId"),
    ("QWidget", "accessibleIdentifier"),
    ("QComboBox", "labelDrawingMode"),
}
# virtual getters that C++ calls by name on Python subclasses: they stay methods, and the module must not read them
LEFT_ALONE = ("sizeHint", "minimumSizeHint")
LOADING: list = []  # forms being loaded
_busy = threading.local()


def _reading(owner, name: str) -> bool:
    """True where C++ asks for an override of a virtual getter from within that very read."""
    held = getattr(_busy, "held", None)
    if held is None:
        held = _busy.held = set()
    return (id(owner), name) in held


def _getter(name: str, original):
    def read(owner):
        if _reading(owner, name):
            raise AttributeError(name)
        _busy.held.add((id(owner), name))
        try:
            return original(owner) if original else signals.ORIGINAL["property"](owner, name)
        finally:
            _busy.held.discard((id(owner), name))

    return read


def _setter(className: str, name: str, kind: str):
    wanted = {"QString": str, "bool": (bool, int), "int": int, "double": (int, float)}.get(kind)

    def write(owner, value):
        if wanted and not isinstance(value, wanted):
            raise TypeError(f"{className}.{name} is a {kind}, not {value!r}")
        if not signals.ORIGINAL["setProperty"](owner, name, value):
            raise AttributeError(f"{className}.{name} cannot be written with {value!r}")

    return write


class QtProperty:
    """One Q_PROPERTY; read from the class it gives what PySide6 had there (static functions such as singleShot)."""

    def __init__(self, className: str, meta, original, static) -> None:
        self.name = meta.name()
        self.static = static
        self.read = _getter(self.name, original)
        self.write = _setter(className, self.name, meta.typeName()) if meta.isWritable() else None
        self.refused = f"{className}.{self.name} is not a property in Slicer's Qt"
        self.allowed = (className, self.name) not in ONLY_IN_QT6

    def __get__(self, owner, kind=None):
        if owner is None:
            return self.static if self.static is not None else self
        if not self.allowed:
            raise AttributeError(self.refused)
        return self.read(owner)

    def __set__(self, owner, value) -> None:
        if self.write is None or not self.allowed:
            raise AttributeError(f"{self.name} of {type(owner).__name__} cannot be written")
        self.write(owner, value)


class EnumType:
    """Stands where an enum class stood: converts integers, has no enumerators (they are on the class around it)."""

    def __init__(self, where: str, kind) -> None:
        self._where, self._kind = where, kind

    def __call__(self, value=0):
        return self._kind(value)

    def __or__(self, other):  # annotations such as `Kind | None`
        return self._kind | other

    def __getattr__(self, name: str):
        raise AttributeError(
            f"PythonQt has no {self._where}.{self._kind.__name__}.{name}: write {self._where}.{name}"
        )


def _setattribute(owner, name, value) -> None:
    kind = type(owner)
    for base in kind.__mro__:
        descriptor = vars(base).get(name)
        if hasattr(type(descriptor), "__set__"):
            descriptor.__set__(owner, value)
            return
        if isinstance(descriptor, QtCore.Property):
            if not signals.ORIGINAL["setProperty"](owner, name, value):
                raise AttributeError(f"{kind.__name__}.{name} cannot be written with {value!r}")
            return
    if LOADING and isinstance(value, QtCore.QObject) and value.objectName == name:
        return
    closed = kind.__module__.startswith("PySide6") or getattr(kind, "hostStandIn", None) == kind.__qualname__
    if closed and not name.startswith("_host"):
        raise AttributeError(f"{kind.__name__} has no attribute {name!r} to write (PythonQt refuses it too)")
    owner.__dict__[name] = value


def _patchEnums(where: str, holder) -> None:
    for name, kind in list(vars(holder).items()):
        if not (isinstance(kind, type) and issubclass(kind, enum.Enum)):
            continue
        _likeIntegers(kind)
        for member in kind:
            if member.name not in vars(holder):
                setattr(holder, member.name, member)
        for alias, member in kind.__members__.items():
            if alias not in vars(holder):
                setattr(holder, alias, member)
        setattr(holder, name, EnumType(where, kind))


def _likeIntegers(kind) -> None:
    if issubclass(kind, int):
        return

    def same(one, other):
        return one is other or int(one.value) == (other.value if isinstance(other, enum.Enum) else other)

    kind.__eq__ = same
    kind.__ne__ = lambda one, other: not same(one, other)
    kind.__hash__ = lambda one: hash(int(one.value))
    kind.__int__ = lambda one: int(one.value)
    kind.__index__ = lambda one: int(one.value)
    kind.__lt__ = lambda one, other: int(one) < int(other)
    kind.__gt__ = lambda one, other: int(one) > int(other)


def _patchProperties(kind) -> None:
    meta = kind.staticMetaObject
    for index in range(meta.propertyCount()):
        one = meta.property(index)
        name = one.name()
        own = vars(kind).get(name)
        if name in LEFT_ALONE or (own is None and index < meta.propertyOffset()):
            continue
        plain = f"is{name[0].upper()}{name[1:]}"
        static = own if isinstance(own, staticmethod) or hasattr(kind, plain) else None
        if isinstance(static, staticmethod):
            static = static.__func__
        original = own if own is not None and static is None else None
        setattr(kind, name, QtProperty(_owner(meta, index), one, original, static and getattr(kind, name)))


def _owner(meta, index: int) -> str:
    while index < meta.propertyOffset():
        meta = meta.superClass()
    return meta.className()


def _patchSignals(kind) -> None:
    meta = kind.staticMetaObject
    found: dict[str, list[str]] = {}
    for index in range(meta.methodOffset(), meta.methodCount()):
        method = meta.method(index)
        if method.methodType() == signals.SIGNAL_METHOD:
            name = bytes(method.name().data()).decode()
            found.setdefault(name, []).append(bytes(method.methodSignature().data()).decode())
    for name, signatures in found.items():
        if name in signals.ONLY_IN_QT6:
            setattr(kind, name, Absent(kind.__name__, name))
        else:
            setattr(kind, name, signals.QtSignal(kind.__name__, name, signatures))


class Absent:
    """A signal that Qt 5 lacks: neither read nor written."""

    def __init__(self, className: str, name: str) -> None:
        self.text = f"{className}.{name} is not in Qt 5"

    def __get__(self, owner, kind=None):
        raise AttributeError(self.text)

    def __set__(self, owner, value) -> None:
        if not isinstance(value, QtCore.SignalInstance):  # PySide6 caches its own on the object
            raise AttributeError(self.text)


def _getattribute(original):
    # PySide6 hands out its own connect and disconnect for objects, past the class's dictionary
    ours = {"connect": signals.connect, "disconnect": signals.disconnect}

    def getattribute(owner, name):
        if name in ours:
            return types.MethodType(ours[name], owner)
        return original(owner, name)

    return getattribute


_TIMERS: set = set()


def _singleShot(msec: int, *target) -> None:
    timer = QtCore.QTimer()
    timer.setSingleShot(True)
    _TIMERS.add(timer)
    signals.connect(timer, "timeout()", *target)
    signals.connect(timer, "timeout()", lambda: _TIMERS.discard(timer))
    timer.start(msec)


def _keepSingletons() -> None:
    # recent PySide6 takes None, True and False for immortal, which they are from Python 3.12 on alone
    if sys.version_info >= (3, 12):
        return
    for thing in (None, True, False, NotImplemented):
        ctypes.c_ssize_t.from_address(id(thing)).value += 1 << 40


def classes():
    """Every public class of the Qt modules that Slicer's qt has, bases before what derives from them."""
    found = {}
    for module in (QtCore, QtGui, QtWidgets):
        for name in dir(module):
            kind = getattr(module, name)
            if isinstance(kind, type) and not name.startswith("_"):
                found[name] = kind
    return sorted(found.values(), key=lambda kind: len(kind.__mro__))


def install() -> None:
    """Make PySide6 strict, once in a process; there is no way back."""
    if signals.ORIGINAL:
        return
    _keepSingletons()
    base = QtCore.QObject
    signals.ORIGINAL.update(
        connect=base.connect, disconnect=base.disconnect, property=base.property, setProperty=base.setProperty
    )
    everything = classes()
    objects = [kind for kind in everything if issubclass(kind, base)]
    for kind in everything:
        if not issubclass(kind, enum.Enum):
            _patchEnums(f"qt.{kind.__name__}", kind)
    for kind in objects:
        _patchProperties(kind)
        _patchSignals(kind)
        kind.__setattr__ = _setattribute
    base.__getattribute__ = _getattribute(base.__getattribute__)
    vars(QtCore.QTimer)["singleShot"].static = _singleShot
    base.name = property(lambda owner: owner.objectName, lambda owner, value: owner.setObjectName(value))
    base.className = lambda owner: owner.metaObject().className()
