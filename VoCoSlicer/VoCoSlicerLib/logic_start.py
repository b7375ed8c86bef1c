"""Start a job from volumes of the scene: export what must be, then launch; step by step, so that nothing ever waits.

`StartJob.poll` does a few milliseconds of work; a window calls it by a timer, a script by `StartJob.wait`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from VoCoCore.errors import DataError, SettingsError, VocoError
from VoCoCore.runs.directory import RunDirectory, check_usable, is_run
from VoCoCore.runs.launch import Launch
from VoCoSlicerLib.logic_cases import listed
from VoCoSlicerLib.logic_folds import firstFold, startFolds
from VoCoSlicerLib.logic_settings import resolve
from VoCoSlicerLib.logic_steps import Progress, Steps
from VoCoSlicerLib.pythons import choosePython

STARTING, RUNNING = "starting", "running"
SILENCE = 180.0  # seconds after which a job that has said nothing is left to itself


class StartJob(Steps):
    """The way of a ``pretrain`` or ``finetune`` job from nodes to a process of its own.

    ``cases``: SceneCase of each case in the scene. ``folders``: index files of cohorts on disk. ``index``: a list of
    cases to use as it is, instead of both. ``values``: settings by dotted name. Raises SettingsError for settings that
    cannot be or a run folder that is taken, DataError where there is no case; nothing is written before `start`.
    """

    what = "the start"

    def __init__(
        self,
        logic: Any,
        kind: str,
        run: str | Path,
        values: dict[str, Any],
        *,
        cases: Sequence[Any] = (),
        folders: Sequence[str | Path] = (),
        index: str | Path | None = None,
        python: str | None = None,
    ) -> None:
        super().__init__(index)
        paths = [Path(folder) for folder in listed(folders, "folder")]
        if not str(run).strip():
            raise SettingsError("no folder is named for the run", "choose a new folder")
        if not cases and not paths and index is None:
            raise DataError("no volume is chosen", "check at least one in the section Volumes")
        self.run = RunDirectory(run).path
        self._name = self.run.name  # also where it becomes the run of one of several folds
        checkFolder(self.run)
        resolve(kind, values)
        self._logic, self._kind, self._values, self._python = logic, kind, dict(values), python
        self._cases, self._folders = list(cases), paths
        self._launch: Any = None
        self.folds: Launch | None = None  # the process of all folds, where all are trained
        self._launched = 0.0

    def start(self) -> StartJob:
        """Begin, and return itself; `poll` goes on."""
        if self._index is None:
            self._beginExport(
                self._logic, self.run, self._cases, self._folders, labels=self._kind != "pretrain"
            )
        return self

    @property
    def named(self) -> str:
        """The start, and of which job."""
        return f"the start of the job {self._name}"

    @property
    def lostWithSlicer(self) -> str:
        """The job, as long as its volumes are being written; later it is a process of its own."""
        gone = self.finished or self._launch is not None
        return "" if gone else f"the job {self._name}, whose volumes are still being written"

    def leave(self) -> None:
        """A job that is a process already goes on."""
        if self._launch is None:
            super().leave()

    def _giveUp(self) -> None:
        """No job is left, and what was exported stays for the next time."""
        super()._giveUp()
        if self._launch is not None:
            # First the table, which would take a job that it finds dead for one that has failed.
            with suppress(VocoError):  # it may have ended by itself
                self._logic.jobs.kill(self.run)
            self._launch.cancel()

    def wait(self, progress: Callable[[Progress], Any] | None = None) -> Path:
        """Poll until the job runs, and return its folder. Raises what went wrong."""
        self.waitFor(progress)
        return self.run

    def _step(self) -> Progress:
        if self._launch is not None:
            return self._awaitJob()
        return self._awaitExport() or self._start()

    def _start(self) -> Progress:
        values = {**self._values, "data.source": str(self._index)}
        if str(values.get("data.fold")) == "all":
            folder, self.run = self.run, firstFold(self.run)
            self.folds = startFolds(values, folder, str(self._python or choosePython()[0]))
            self._launch = self.folds
        else:
            self._launch = self._logic.jobs.start(self._kind, values, self.run, python=self._python)
        self._launched = time.monotonic()
        return Progress(STARTING)

    def _awaitJob(self) -> Progress:
        if self._launch.ready():
            return Progress(RUNNING, finished=True)
        if time.monotonic() - self._launched > SILENCE:
            return Progress(RUNNING, text="it may still be loading", finished=True)
        return Progress(STARTING)


def checkFolder(run: Path) -> None:
    """Raise SettingsError where ``run`` cannot become the folder of a new run; writes nothing."""
    if is_run(run):
        hint = "choose a new folder, or resume that run in the section Jobs"
        raise SettingsError(f"{run} already holds a run", hint)
    check_usable(run)
