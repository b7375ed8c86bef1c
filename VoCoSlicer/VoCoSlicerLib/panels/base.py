"""What all panels share: their form, the binding of its controls to the parameter node, coming and going."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from VoCoSlicerLib import adapter, tints


class Panel:
    """A section's content. ``logic`` does the work, ``host`` (the module's widget) is told what to show elsewhere.

    ``widget`` is the form, ``ui`` its children by name, ``parameters`` the bound parameter node or None.
    """

    form = ""  # file in Resources/UI

    def __init__(self, logic: Any, host: Any) -> None:
        self.logic, self.host = logic, host
        self.widget, self.ui = adapter.loadUi(self.form)
        self.parameters: Any = None
        self._release: Callable[[], None] | None = None
        self._watch = adapter.Observed(self._onModified)
        self._updating = False
        self._shown: Any = None  # the state that `update` has shown last

    def setParameterNode(self, parameters: Any) -> None:
        """Show the choices of another parameter node (None: be bound to nothing)."""
        if self._release is not None:
            self._release()
            self._release = None
        self.parameters = parameters
        self._watch.follow(parameters)
        self._shown = None
        if parameters is not None:
            tints.suit(self.widget)  # each time that the module is entered: the style may be another
            self._release = adapter.bindGui(parameters, self.ui)
            self._onModified()

    def enter(self) -> None:
        """The user has come to the module."""
        self.offerRuns()

    def offerRuns(self) -> None:
        """Offer the runs that are there by now, where there is a choice of them."""

    def exit(self) -> None:
        """The user goes to another module."""

    def cleanup(self) -> None:
        """The module goes away."""
        self.setParameterNode(None)

    def update(self) -> None:
        """Show what the parameter node says; called when `state` is another, never while there is no node."""

    def state(self) -> Any:
        """All choices that `update` shows, to be compared: the sections share one node. None: update each time."""
        return None

    def change(self, write: Callable[[], Any]) -> None:
        """Let ``write`` change the parameter node and `update` once, also where the node stays as it was."""
        self._shown = None
        write()
        if self._shown is None:
            self._onModified()

    def _onModified(self) -> None:
        if self.parameters is None or self._updating:
            return
        state = self.state()
        if state is not None and state == self._shown:
            return
        self._shown = state
        self._updating = True
        try:
            self.update()
        finally:
            self._updating = False
