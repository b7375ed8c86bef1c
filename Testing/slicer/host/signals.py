"""Signals as PythonQt offers them: objects with connect and disconnect, and string connects on the sender.

A connection holds its callable strongly and hands on as many arguments as a function or method takes (other callables
get all of them). Exceptions in a slot are collected. What PySide6 alone would allow (emit, connect of an overloaded
signal without its signature) is refused.
"""

from __future__ import annotations

import inspect
import types

import shiboken6
from PySide6 import QtCore

from .failures import FAILURES

# overloaded in Qt 5: which overload `signal.connect` takes there is not what Qt 6 takes
OVERLOADED_IN_QT5 = {
    ("QComboBox", "activated"): "activated(int)",
    ("QComboBox", "currentIndexChanged"): "currentIndexChanged(int)",
    ("QComboBox", "highlighted"): "highlighted(int)",
    ("QSpinBox", "valueChanged"): "valueChanged(int)",
    ("QDoubleSpinBox", "valueChanged"): "valueChanged(double)",
    ("QProcess", "finished"): "finished(int,QProcess::ExitStatus)",
    ("QButtonGroup", "buttonClicked"): "buttonClicked(QAbstractButton*)",
    ("QButtonGroup", "buttonToggled"): "buttonToggled(QAbstractButton*,bool)",
    ("QTextBrowser", "highlighted"): "highlighted(QUrl)",
}
SIGNAL_METHOD = QtCore.QMetaMethod.MethodType.Signal
ONLY_IN_QT6 = {"checkStateChanged"}


def normalised(signature: str) -> str:
    """A signature without blanks, const and references, as Qt compares them."""
    text = "".join(signature.replace("const ", "").split())
    return text.replace("&", "")


def argumentLimit(function) -> int | None:
    """How many positional arguments PythonQt passes on to ``function``; None for all of them."""
    if isinstance(function, types.MethodType):
        code, bound = getattr(function.__func__, "__code__", None), 1
    elif isinstance(function, types.FunctionType):
        code, bound = function.__code__, 0
    else:
        return None
    if code is None or code.co_flags & inspect.CO_VARARGS:
        return None
    return code.co_argcount - bound


class Connection:
    """One callable connected to one signal; called with the signal's arguments, trimmed."""

    def __init__(self, name: str, function) -> None:
        if not callable(function):
            raise TypeError(f"{name} can only be connected to a callable, not to {function!r}")
        self.name = name
        self.function = function
        self.limit = argumentLimit(function)

    def __call__(self, *arguments) -> None:
        try:
            self.function(*(arguments if self.limit is None else arguments[: self.limit]))
        except Exception as error:
            FAILURES.addException(f"slot of {self.name}", error)


class Wire:
    """All connections of one (object, signature), in order, with a way to tell the real signal about them."""

    def __init__(self) -> None:
        self.connections: list[tuple[Connection, object]] = []

    def add(self, connection: Connection, token: object) -> None:
        self.connections.append((connection, token))

    def remove(self, function) -> list[object]:
        """Forget the connections of ``function`` (all of them if None); returns their tokens."""
        gone = [entry for entry in self.connections if function is None or entry[0].function == function]
        self.connections = [entry for entry in self.connections if entry not in gone]
        return [token for _, token in gone]


class BoundSignal:
    """A signal of one object, as read from an attribute. Calling and emitting are refused."""

    def __init__(self, owner, name: str, connect, disconnect, overloads: str = "") -> None:
        self._owner, self._name = owner, name
        self._connect, self._disconnect = connect, disconnect
        self._overloads = overloads

    def connect(self, function) -> bool:
        """Connect a callable; it is held until disconnected or the object is gone."""
        if self._overloads:
            raise TypeError(
                f"{type(self._owner).__name__}.{self._name} has overloads in Slicer's Qt: "
                f"use connect({self._overloads!r}, function) of the object"
            )
        self._connect(function)
        return True

    def disconnect(self, function=None) -> bool:
        """Disconnect ``function``, or everything connected from Python."""
        return self._disconnect(function)

    def __getattr__(self, attribute: str):
        raise AttributeError(
            f"a signal has connect and disconnect alone, not {attribute!r} ({self._name} of the host)"
        )

    def __call__(self, *arguments):
        raise TypeError(f"{self._name} is a signal: trigger what emits it, as with click()")


class HostSignal:
    """A signal of a stand-in widget, in Python alone: ``HostSignal("currentNodeChanged", "vtkMRMLNode*")``.

    ``more`` are the arguments of other overloads in the C++ class. `emit` is for the host, never for the tested code.
    """

    def __init__(self, name: str, *arguments: str, more: tuple[str, ...] = ()) -> None:
        self.name = name
        self.signature = f"{name}({','.join(arguments)})"
        self.signatures = {self.signature, *(f"{name}({other})" for other in more)}
        self.overloads = self.signature if more else ""

    def __get__(self, owner, kind=None):
        if owner is None:
            return self
        return BoundSignal(
            owner,
            self.name,
            lambda function: self.connectTo(owner, function),
            lambda function: self.disconnectFrom(owner, function),
            self.overloads,
        )

    def __set__(self, owner, value) -> None:
        raise AttributeError(f"{self.name} is a signal and cannot be written")

    def connectTo(self, owner, function) -> None:
        wires(owner).setdefault(self.signature, Wire()).add(Connection(self.signature, function), None)

    def disconnectFrom(self, owner, function) -> bool:
        return bool(wires(owner).setdefault(self.signature, Wire()).remove(function))

    def emit(self, owner, *arguments) -> None:
        if owner.signalsBlocked():
            return
        for connection, _ in list(wires(owner).get(self.signature, Wire()).connections):
            connection(*arguments)


_WIRES: dict[int, dict[str, Wire]] = {}


def wires(owner) -> dict[str, Wire]:
    """The connections made from Python to ``owner``'s signals, by signature; they end with the C++ object."""
    key = shiboken6.getCppPointer(owner)[0]
    if key not in _WIRES:
        _WIRES[key] = {}
        ORIGINAL["connect"](owner, QtCore.SIGNAL("destroyed()"), lambda: _WIRES.pop(key, None))
    return _WIRES[key]


def qtSignals(owner) -> dict[str, str]:
    """{normalised signature: name} of the real signals that ``owner``'s C++ class has, overloads in order."""
    meta = owner.metaObject()
    found = {}
    for index in range(meta.methodCount()):
        method = meta.method(index)
        if method.methodType() == SIGNAL_METHOD:
            found[bytes(method.methodSignature().data()).decode()] = bytes(method.name().data()).decode()
    return found


def connectQt(owner, signature: str, function) -> None:
    """Connect a callable to a real Qt signal, given its exact signature."""
    connection = Connection(signature, function)

    def deliver(*arguments):
        connection(*arguments)

    token = ORIGINAL["connect"](owner, QtCore.SIGNAL(signature), deliver)
    if not token:
        raise TypeError(f"{type(owner).__name__} cannot connect {signature}")
    wires(owner).setdefault(signature, Wire()).add(connection, token)


def disconnectQt(owner, signature: str, function) -> bool:
    """Undo what `connectQt` did; False where nothing was connected."""
    tokens = wires(owner).setdefault(signature, Wire()).remove(function)
    for token in tokens:
        ORIGINAL["disconnect"](token)
    return bool(tokens)


def findSignal(owner, signature: str):
    """(connect, disconnect) for a signature such as "clicked(bool)"; raises ValueError for one that is not there."""
    wanted = normalised(signature)
    for kind in type(owner).__mro__:
        for value in vars(kind).values():
            if isinstance(value, HostSignal) and wanted in {normalised(text) for text in value.signatures}:
                return value.connectTo, value.disconnectFrom
    name = wanted.split("(")[0]
    if wanted not in qtSignals(owner) or name in ONLY_IN_QT6:
        raise ValueError(
            f"{type(owner).__name__} has no signal {signature!r} in every Qt that Slicer is built with"
        )
    return (lambda it, function: connectQt(it, wanted, function)), (
        lambda it, function: disconnectQt(it, wanted, function)
    )


def connect(owner, signature: str, *target) -> bool:
    """``w.connect("clicked(bool)", f)`` or ``w.connect("clicked()", receiver, "slot()")``."""
    function = target[0]
    if len(target) == 2:
        function = getattr(target[0], target[1].split("(")[0])
    findSignal(owner, signature)[0](owner, function)
    return True


def disconnect(owner, signature: str, *target) -> bool:
    """Undo `connect`; False where nothing was connected."""
    function = target[0] if target else None
    if len(target) == 2:
        function = getattr(target[0], target[1].split("(")[0])
    return findSignal(owner, signature)[1](owner, function)


class QtSignal:
    """The descriptor that replaces a PySide6 signal of a class: reading it gives a `BoundSignal`."""

    def __init__(self, className: str, name: str, signatures: list[str]) -> None:
        self.name = name
        self.signature = signatures[0]
        self.overloads = OVERLOADED_IN_QT5.get((className, name), "")

    def __get__(self, owner, kind=None):
        if owner is None:
            return self
        return BoundSignal(
            owner,
            self.name,
            lambda function: connectQt(owner, self.signature, function),
            lambda function: disconnectQt(owner, self.signature, function),
            self.overloads,
        )

    def __set__(self, owner, value) -> None:
        raise AttributeError(f"{self.name} is a signal and cannot be written")


ORIGINAL: dict[str, object] = {}  # PySide6's own connect and disconnect, filled in before they are replaced
