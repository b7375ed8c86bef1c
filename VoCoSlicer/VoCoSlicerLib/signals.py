"""A signal in plain Python: PythonQt cannot define Qt signals in Python, and logic must not know Qt anyway; and
callbacks that keep nobody alive.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any


class Signal:
    """Calls everything that is connected, in the order of connecting."""

    def __init__(self) -> None:
        self._listeners: list[Callable[..., Any]] = []

    def connect(self, listener: Callable[..., Any]) -> Callable[..., Any]:
        """Call ``listener`` at each `emit`, once however often it is connected; returns it, for `disconnect`."""
        if listener not in self._listeners:
            self._listeners.append(listener)
        return listener

    def disconnect(self, listener: Callable[..., Any]) -> None:
        """Stop calling ``listener``; nothing happens where it is not connected."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def emit(self, *values: Any) -> None:
        """Call every listener with ``values``; one that is connected or disconnected meanwhile counts next time."""
        for listener in list(self._listeners):
            listener(*values)

    def __len__(self) -> int:
        return len(self._listeners)


def weakly(method: Callable[..., Any]) -> Callable[..., None]:
    """A callback for observers that calls a bound method as long as its object lives, and does not keep it alive.

    A scene that is thrown away whole, observers and all, still fires events: nobody must be called back from there.
    """
    reference = weakref.WeakMethod(method)

    def call(*values: Any) -> None:
        alive = reference()
        if alive is not None:
            alive(*values)

    return call
