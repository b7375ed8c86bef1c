"""A panel that lets one work of several steps go on in the background, and shows how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from VoCoSlicerLib import adapter
from VoCoSlicerLib.panels.base import Panel

_POLL = 50  # milliseconds


class WorkingPanel(Panel):
    """``_job`` is the work under way, polled by a timer; None where there is none."""

    def __init__(self, logic: Any, host: Any) -> None:
        super().__init__(logic, host)
        self._job: Any = None
        self._timer = adapter.makeTimer(_POLL, self._poll)

    def cancel(self) -> None:
        """Give up the work under way; what it has brought already stays."""
        if self._job is not None:
            self._job.cancel()
            self._poll()

    def place(self, named: str) -> Path:
        """A folder as it is named by hand: a bare name is one beside the other runs, not where Slicer was started."""
        return Path(self.logic.folder, os.path.expanduser(named.strip()))

    def cleanup(self) -> None:
        """Stop everything but jobs that run already."""
        self._timer.stop()
        if self._job is not None:
            self._job.leave()
            self._job = None
        super().cleanup()

    def _begin(self, make: Callable[[], Any]) -> None:
        """Start the work that ``make`` returns, where it does not refuse."""
        self.host.hideError()
        try:
            self._job = make()
        except Exception as error:  # a button has nobody to raise to
            self.host.showError(error)
            return
        self._timer.start()
        self._poll()

    def _poll(self) -> None:
        if self._job is None:
            self._timer.stop()
            return
        now = self._job.poll()
        if not now.finished:
            self._showProgress(now)
            return
        job, self._job = self._job, None
        self._timer.stop()
        self._showProgress(None)
        if now.error is not None:
            self.host.say("")  # what was going on goes on no longer
            self.host.showError(now.error, self._log(job))
        else:
            self._tell(job)
            self.host.note(job.warnings)
        self._offerFolder()
        self._check()

    def _showProgress(self, now: Any) -> None:
        """Show how far the work is (None: there is none)."""
        raise NotImplementedError

    def _log(self, job: Any) -> str | Path | None:
        """What "Show log" shows of a work that failed."""
        raise NotImplementedError

    def _tell(self, job: Any) -> None:
        """Say what a work has brought."""
        raise NotImplementedError

    def _offerFolder(self) -> None:
        """Propose a folder for the next work."""
        raise NotImplementedError

    def _check(self) -> None:
        """Show whether a work can be started, and why not."""
        raise NotImplementedError
