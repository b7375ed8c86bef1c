"""The one place where the module says what is going on, and what went wrong with how to mend it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from VoCoCore.errors import StopRequested, VocoError, of_the_machine
from VoCoSlicerLib import adapter

_TAIL = 2_000_000  # bytes of a log that are shown
_NOTES = 5  # lines; each volume may have one


class Messages:
    """Drives ``statusLabel`` and the frame ``errorFrame`` with its label and its buttons, of the module's form."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._log: str | Path | None = None
        self._window: Any = None
        ui.errorFrame.setVisible(False)
        adapter.onClicked(ui.showLogButton, self.showLog)
        adapter.onClicked(ui.hideErrorButton, self.hideError)

    def say(self, text: str) -> None:
        """Show ``text`` as it is."""
        self._ui.statusLabel.setText(text)

    def note(self, sentences: Sequence[str]) -> None:
        """Add ``sentences`` to what was said last, each in a line of its own; of many, the first and how many more."""
        lines = [adapter.read(self._ui.statusLabel, "text"), *sentences[:_NOTES]]
        if len(sentences) > _NOTES:
            lines.append(_("and {n} more").format(n=len(sentences) - _NOTES))
        self.say("\n".join(lines))

    def showError(self, error: Exception, log: str | Path | None = None) -> None:
        """Show an error: its line, its hint below; a stop that was asked for is only said."""
        if isinstance(error, StopRequested):
            self.say(str(error))
            return
        message, hint = _words(error)
        self._log = log
        self._ui.errorLabel.setText(message)
        self._ui.hintLabel.setText(hint)
        self._ui.hintLabel.setVisible(bool(hint))
        self._ui.showLogButton.setVisible(log is not None)
        self._ui.errorFrame.setVisible(True)

    def hideError(self) -> None:
        """Take the error away; it was read."""
        self._ui.errorFrame.setVisible(False)

    def showLog(self) -> Any:
        """Open the log that belongs to the error shown, and return its window."""
        title = str(self._log) if isinstance(self._log, Path) else _("Log")
        self._window = adapter.showText(title, _text(self._log))
        return self._window


def _words(error: Exception) -> tuple[str, str]:
    told = error if isinstance(error, VocoError) else of_the_machine(error)
    if told is not None:
        return told.message, told.hint
    logging.error("VoCo: unexpected error", exc_info=error)
    text = _("Unexpected error: {kind}: {text}").format(kind=type(error).__name__, text=error)
    return text, _("This is ours to mend: please report it with Slicer's own log.")


def _text(log: str | Path | None) -> str:
    if not isinstance(log, Path):
        return log or ""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            return file.read().decode("utf-8", errors="replace")
    except OSError as error:
        return _("The log cannot be read: {reason}").format(reason=error.strerror or error)
