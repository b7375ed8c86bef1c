"""Closing Slicer while something is under way: asked once, whether to stay for what would be lost, and what becomes of
jobs: keep them running, or stop them with a checkpoint.
"""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from VoCoSlicerLib import adapter
from VoCoSlicerLib.signals import weakly

_LOOK = 500  # milliseconds


class _Filter(qt.QObject):
    """Tells `CloseQuestion` that the main window is about to close, and lets it unless the user would rather stay."""

    question: Any = None

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Qt's call for every event of the main window."""
        if event.type() == qt.QEvent.Close and self.question is not None and self.question.ask():
            event.ignore()
            return True
        return False


class CloseQuestion:
    """Asks, when the main window closes, whether to stay for what ends with Slicer, and then what is to become of jobs
    of this machine that run.

    Qt may tell of one closing twice, so that it asks once (``asked``); again only after the user has thought better of
    closing. Jobs are stopped when Slicer quits: after this question comes Slicer's own, and with its *Cancel* it stays.
    """

    def __init__(self, logic: Any) -> None:
        self._logic = logic
        self.asked = self._stays = False
        self._toStop: list[Any] = []
        self._window = slicer.util.mainWindow()
        self._timer = adapter.makeTimer(_LOOK, self._look)
        self._filter = _Filter()
        self._filter.question = self
        if self._window is not None:
            self._window.installEventFilter(self._filter)
            adapter.connect(slicer.app, "aboutToQuit()", weakly(self._stop))

    def ask(self) -> bool:
        """Ask once a closing; whether the user would rather stay.

        Nothing is asked where nothing would be lost and no job runs that has not been asked to stop already.
        """
        if self.asked:
            return self._stays
        lost = self._logic.lostWithSlicer()
        running = [row for row in self._logic.activeRuns() if row.state != "stopping"]
        if not lost and not running:
            return False
        self.asked = True
        self._timer.start()
        self._stays = bool(lost) and self._wouldStay(lost)
        if running and not self._stays:
            self._askOfJobs(running)
        return self._stays

    def _wouldStay(self, lost: list[str]) -> bool:
        text = _("This is under way, and is given up when Slicer is closed:\n\n{work}")
        text = text.format(work="\n".join(map(_, lost)))
        return adapter.ask(_("VoCo"), text, [_("Stay"), _("Close")], harmless=0) == 0

    def _askOfJobs(self, running: list[Any]) -> None:
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
            self._stays, self._toStop = False, []

    def cleanup(self) -> None:
        """Listen no more."""
        self._timer.stop()
        self._filter.question = None
        if self._window is not None:
            self._window.removeEventFilter(self._filter)
            if not self._window.isVisible():
                self._stop()  # modules may go before Slicer tells that it quits
        self._toStop = []
