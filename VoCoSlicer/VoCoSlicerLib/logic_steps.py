"""Work of several steps that nobody waits for: a window polls it by a timer, a script by `Steps.waitFor`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from VoCoCore.errors import StopRequested, VocoError
from VoCoSlicerLib.threads import asVocoError

EXPORTING, ENDED = "exporting", "ended"
PAUSE = 0.05  # seconds between two polls of a script that waits


@dataclass(frozen=True)
class Progress:
    """How far a work is. ``finished``: it is over, with ``error`` where it failed (StopRequested: cancelled)."""

    stage: str
    done: int = 0
    total: int = 0
    text: str = ""
    finished: bool = False
    error: VocoError | None = None


class Steps:
    """The base of such work: `_step` does a few milliseconds of it at each call, and raises what goes wrong.

    Most begin with an export of nodes, ``_export``, which leaves its list of cases in ``_index``.
    ``what``: the work in two words; ``warnings``: sentences on what was done otherwise than one might think;
    ``volumes``: the folder of exported volumes that it writes or reads, None without an export.
    """

    what = "the work"

    def __init__(self, index: str | Path | None = None) -> None:
        self._index = None if index is None else Path(index)
        self._export: Any = None
        self.volumes: Path | None = None
        self.warnings: list[str] = []
        self._last = Progress(EXPORTING)

    @property
    def finished(self) -> bool:
        """Whether it is over, as far as polled."""
        return self._last.finished

    @property
    def named(self) -> str:
        """What it is called where other work may be under way as well."""
        return self.what

    @property
    def lostWithSlicer(self) -> str:
        """What would be lost if Slicer were closed now, in words; empty where nobody would miss it."""
        return ""

    def leave(self) -> None:
        """Slicer is closed, or the module goes: nobody polls any more, and what cannot go on alone is given up."""
        self.cancel()

    def poll(self) -> Progress:
        """Go on a little, and say how far it is; never raises for what can go wrong."""
        if not self._last.finished:
            try:
                self._last = self._step()
            except Exception as error:  # a timer has nobody to raise to
                self._end(asVocoError(error, self.what))
        return self._last

    def cancel(self) -> None:
        """Give up; what is done already stays, and nothing happens where all is done."""
        if not self._last.finished:
            self._giveUp()
            self._end(StopRequested(f"{self.what} was cancelled"))

    def waitFor(self, progress: Callable[[Progress], Any] | None = None) -> None:
        """Poll until it is over. Raises what went wrong."""
        while not (now := self.poll()).finished:
            if progress is not None:
                progress(now)
            time.sleep(PAUSE)
        if now.error is not None:
            raise now.error

    def _step(self) -> Progress:
        raise NotImplementedError

    def _giveUp(self) -> None:
        """End what goes on beside this thread."""
        if self._export is not None:
            self._export.cancel()

    def _end(self, error: VocoError | None) -> None:
        self._last = Progress(ENDED, finished=True, error=error)

    def _beginExport(
        self, logic: Any, place: Path, cases: Sequence[Any], folders: Sequence[Path] = (), labels: bool = True
    ) -> None:
        """Begin to write ``cases`` where a job in ``place`` reads them; `_awaitExport` goes on with it."""
        self.volumes = logic.exportFolder(place)
        self._export = logic.makeExport(cases, self.volumes, folders, labels)
        self._export.start()
        logic.working.add(self)

    def _awaitExport(self) -> Progress | None:
        """How far the export is, None once there is nothing to wait for. Raises what went wrong with it."""
        if self._export is None:
            return None
        now = self._export.poll()
        if now.error is not None:
            raise now.error if isinstance(now.error, VocoError) else VocoError(str(now.error))
        if not now.finished:
            return Progress(EXPORTING, now.done, now.total, now.text)
        self.warnings += now.warnings
        self._index = Path(self._export.index)
        self._exported(self._export)
        self._export = None
        return None

    def _exported(self, export: Any) -> None:
        """Take what else an export has found out."""
