"""Where a session of the module takes place: the host, or a real Slicer."""

from __future__ import annotations

from pathlib import Path

from hand import Hand


class Stage:
    """Where the session takes place: ``host`` (app, failures), how to open, leave and reopen the module, a folder.

    ``picture`` is called with a name after some steps; ``kept`` is what steps hand on to later ones.
    """

    def __init__(self, host, openModule, leaveModule, reopenModule, folder: Path) -> None:
        self.host, self.folder = host, Path(folder)
        self.picture = lambda name: None
        self._open, self._reopen, self.leave = openModule, reopenModule, leaveModule
        self.kept: dict = {}
        self.widget = None

    def open(self) -> None:
        """Open the module as a user does."""
        self.widget = self._open()
        self.host.app.processEvents()

    def reopen(self) -> None:
        """Close Slicer and open it again, as far as that is possible."""
        self.widget = None
        self.widget = self._reopen()
        self.host.app.processEvents()

    @property
    def app(self):
        """The application."""
        return self.host.app

    @property
    def failures(self):
        """What went wrong, in slots or told to the user: Hand looks at it all the time."""
        return self

    def check(self) -> None:
        """Raise what went wrong in slots, or what the module says went wrong."""
        self.host.failures.check()
        if self.widget is not None and self.widget.ui.errorFrame.isVisible():
            ui = self.widget.ui
            raise AssertionError(f"the module says: {ui.errorLabel.text} {ui.hintLabel.text}")

    def hand(self, name: str) -> Hand:
        """A hand on the controls of a section, which is opened where it is not."""
        Hand(self.widget.parent, self).open(f"{name}Section")
        return Hand(self.widget.panel(name).widget, self)

    def run(self, steps) -> None:
        """Steps in order."""
        for step in steps:
            step(self)
            self.check()
