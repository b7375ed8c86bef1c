"""What a job says: to its run folder, and to whoever listens. Nobody who stops listening can stop the job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from VoCoCore.errors import EnvironmentFault
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.files import FULL

Listener = Callable[[dict[str, Any]], None]

# Lost when the disk is full for a while: the next one says as much, and a checkpoint that fails ends the job anyway.
_SPARED = ("stage", "progress", "metrics", "image")
_STATUS_EVERY = 0.2  # seconds


class Reporter:
    """Writes a job's events and status and passes them on to ``listeners``."""

    def __init__(self, run: RunDirectory, listeners: Iterable[Listener]) -> None:
        self.run, self.listeners = run, list(listeners)
        self._status_due = 0.0

    def __call__(self, kind: str, **fields: Any) -> None:
        """Tell of one event. Raises EnvironmentFault where the run's folder is gone or cannot be written."""
        self._keep(kind, lambda: self.run.events.emit(kind, **fields))
        if kind == "progress" and (time.monotonic() >= self._status_due or fields["step"] == fields["total"]):
            self._status_due = time.monotonic() + _STATUS_EVERY
            self._keep(kind, lambda: self.run.write_status("running", fields["step"], fields["total"]))
        for listener in tuple(self.listeners):
            self._tell(listener, {"type": kind, **fields})

    def _keep(self, kind: str, write: Callable[[], object]) -> None:
        try:
            write()
        except EnvironmentFault as fault:
            if kind not in _SPARED or getattr(fault.__cause__, "errno", None) not in FULL:
                raise

    def _tell(self, listener: Listener, event: dict[str, Any]) -> None:
        try:
            listener(event)
        except (OSError, EnvironmentFault, ValueError):
            # A terminal that was closed, a pipe whose reader has gone (ValueError: a closed stream), a full disk.
            self.listeners.remove(listener)
