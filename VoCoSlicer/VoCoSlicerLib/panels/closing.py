"""Closing Slicer while jobs run: asked once, keep them running or stop them with a checkpoint."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from VoCoSlicerLib import adapter
from VoCoSlicerLib.signals import weakly

_LOOK = 500  # milliseconds


class _Filter(qt.QObject):
    """Tells `CloseQuestion` that the main window is about to close, and lets it."""

    question: Any = None

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Qt's call for every event of the main window."""
        if event.type() == qt.QEvent.Close and self.question is not None:
            self.question.ask()
        return False


class CloseQuestion:
    """Asks, when the main window closes and jobs of this machine run, what is to become of them.

    Qt may tell of one closing twice, so that it asks once (``asked``); again only after the user has thought better of
    closing. Jobs are stopped when Slicer quits: after this question comes Slicer's own, and with its *Cancel* it stays.
    """

    def __init__(self, logic: Any) -> None:
        self._logic = logic
        self.asked = False
        self._toStop: list[Any] = []
        self._window = slicer.util.mainWindow()
        self._timer = adapter.makeTimer(_LOOK, self._look)
        self._filter = _Filter()
        self._filter.question = self
        if self._window is not None:
            self._window.installEventFilter(self._filter)
            adapter.connect(slicer.app, "aboutToQuit()", weakly(self._stop))

    def ask(self) -> None:
        """Ask once a closing; nothing is asked where no job runs that has not been asked to stop already."""
        if self.asked:
            return
        running = [row for row in self._logic.activeRuns() if row.state != "stopping"]
        if not running:
            return
        self.asked = True
        self._timer.start()
        text = _("{n} training jobs are running. They can go on while Slicer is closed.").format(
            n=len(running)
        )
        if len(running) == 1:
            text = _("A training job is running: {name}. It can go on while Slicer is closed.").format(
                name=running[0].name
            )
        answers = [_("Keep running"), _("Stop with a checkpoint")]
        if adapter.ask(_("VoCo"), text, answers, harmless=0) == 1:
            self._toStop = [row.path for row in running]

    def _stop(self) -> None:
        runs, self._toStop = self._toStop, []
        if runs:
            self._logic.stopRuns(runs)

    def _look(self) -> None:
        """Whether Slicer, which asks questions of its own when it closes, is still there after the last of them."""
        if qt.QApplication.activeModalWidget() is not None:
            return
        self._timer.stop()
        self.asked = self._window is None or not self._window.isVisible()
        if not self.asked:
            self._toStop = []

    def cleanup(self) -> None:
        """Listen no more."""
        self._timer.stop()
        self._filter.question = None
        if self._window is not None:
            self._window.removeEventFilter(self._filter)
            if not self._window.isVisible():
                self._stop()  # modules may go before Slicer tells that it quits
        self._toStop = []
