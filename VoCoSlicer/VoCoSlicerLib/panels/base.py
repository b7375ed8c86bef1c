"""What all panels share: their form, the binding of its controls to the parameter node, coming and going."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from VoCoSlicerLib import adapter


class Panel:
    """A section's content. ``logic`` does the work, ``host`` (the module's widget) is told what to show elsewhere.

    ``widget`` is the form, ``ui`` its children by name, ``parameters`` the bound parameter node or None.
    """

    form = ""  # file in Resources/UI

    def __init__(self, logic: Any, host: Any) -> None:
        self.logic, self.host = logic, host
        self.widget, self.ui = adapter.loadUi(host, self.form)
        self.parameters: Any = None
        self._release: Callable[[], None] | None = None
        self._watch = adapter.Observed(self._onModified)
        self._updating = False

    def setParameterNode(self, parameters: Any) -> None:
        """Show the choices of another parameter node (None: be bound to nothing)."""
        if self._release is not None:
            self._release()
            self._release = None
        self.parameters = parameters
        self._watch.follow(parameters)
        if parameters is not None:
            self._release = adapter.bindGui(parameters, self.ui)
            self._onModified()

    def enter(self) -> None:
        """The user has come to the module."""

    def exit(self) -> None:
        """The user goes to another module."""

    def cleanup(self) -> None:
        """The module goes away."""
        self.setParameterNode(None)

    def update(self) -> None:
        """Show what the parameter node says; called whenever it is modified, never while it is None."""

    def _onModified(self) -> None:
        if self.parameters is None or self._updating:
            return
        self._updating = True
        try:
            self.update()
        finally:
            self._updating = False
