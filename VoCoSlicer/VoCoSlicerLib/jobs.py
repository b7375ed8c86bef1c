"""The runs that are known, how they stand, and what can be done with them; nothing here waits.

A timer calls `JobTable.rows` every second. A row costs the run's status and the tail of its events, and only where they
have changed; no call spends much more than LONGEST on reading, and the next one goes on from there. Stopping
and killing is done by `voco jobs` in a process of its own, which also finishes when Slicer is closed meanwhile.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from VoCoCore.errors import VocoError
from VoCoCore.runs import describe, launch
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.files import open_plain
from VoCoCore.runs.follow import Follower
from VoCoSlicerLib.job_list import JobList
from VoCoSlicerLib.job_rows import GONE, REPORT, RESULTS, STARTING, JobRow, RunReader
from VoCoSlicerLib.job_start import NotStarted, Starting, hasBegun
from VoCoSlicerLib.pythons import choosePython, pythonSlicer
from VoCoSlicerLib.tasks import Task, reap

BUDGET = 0.008  # seconds after which no other run is looked at
LONGEST = 0.016  # seconds after which the look at a run is broken off
LAST_LOOK = 0.04  # seconds that a window which closes may take to ask the jobs that were under way
_TAIL = 1 << 16  # bytes of a log


class JobTable:
    """The runs of this user and those in folders added by hand, and the jobs that work on them.

    ``python``: what runs jobs unless a call names another one, or what is asked for it each time (None: what
    `choosePython` finds).
    """

    def __init__(self, python: str | Callable[[], str] | None = None) -> None:
        self._python = python
        self.list = JobList()
        self._readers: dict[Path, RunReader] = {}
        self._turn = 0
        self._broken: Path | None = None  # the run whose look was broken off
        self.behind = False  # whether there are runs that were never read
        self._starting: dict[Path, Starting] = {}
        self._errors: dict[Path, NotStarted] = {}
        self._followers: dict[Path, Follower] = {}
        self._endings: dict[Path, Task] = {}
        self.complaints: list[tuple[Path, VocoError]] = []  # of kills that failed, until somebody shows them

    @property
    def python(self) -> str:
        """What runs a job that is started now."""
        return (self._python() if callable(self._python) else self._python) or choosePython()[0]

    # How they stand

    def rows(self) -> list[JobRow]:
        """A row for each run, newest first; those that were not read again within BUDGET are as they were."""
        begun = time.perf_counter()
        reap()
        self.list.advance()
        for place in list(self._starting):
            self._hear(place)
        for place, task in list(self._endings.items()):
            self._seeOut(place, task)
        paths = list(dict.fromkeys([*self._starting, *self._errors, *self.list.paths()]))
        for path in self._due(paths):
            self._broken = None if self._reader(path).refresh(begun + LONGEST) else path
            if time.perf_counter() > begun + BUDGET:
                break
        met = {*self._readers, *self._starting, *self._errors}
        halfRead = self._broken is not None and not self._reader(self._broken).wasRead
        self.behind = halfRead or not met.issuperset(paths)
        rows = [self._shown(path) for path in paths if path in met]
        return [row for row in rows if row.state]

    def underWay(self) -> list[JobRow]:
        """Rows of the jobs of this machine that are under way, for a window that closes: those that were so at the last
        look, asked once more. What has not answered within LAST_LOOK, on a disk that hangs say, is as it was then.
        """
        rows = [self._shown(place) for place in dict.fromkeys([*self._starting, *self._readers])]
        rows = [row for row in rows if row.local and row.active]
        states = _statesNow([row.path for row in rows], self._starting)
        now = [replace(row, state=states.get(row.path, row.state)) for row in rows]
        return [row for row in now if row.active]

    def row(self, path: str | Path) -> JobRow:
        """The row of one run, read now; its state is "" where there is no run."""
        self._reader(_place(path)).refresh()
        return self._shown(_place(path))

    def follower(self, path: str | Path) -> Follower:
        """The one follower of a run, for plots; the caller polls it. A poll of a long history may take some 30 ms."""
        return self._followers.setdefault(_place(path), Follower(_place(path)))

    def error(self, path: str | Path) -> VocoError | None:
        """What ended a run that failed, is lost or did not start, with its own line and a hint; None otherwise."""
        return self.errorOf(self.row(path))

    def errorOf(self, row: JobRow) -> VocoError | None:
        """The same of a run whose ``row`` was read already: nothing is read again."""
        if row.state not in ("failed", "lost"):
            return None
        return self._startError(row.path) or self._reader(row.path).failure()

    def isCut(self, path: str | Path) -> bool:
        """Whether a run is finished, but its last look or its report is not; `resume` makes up for it."""
        return self._reader(_place(path)).isCut()

    def log(self, path: str | Path) -> str:
        """The end of a run's log, at most 64 kB; "" where there is none."""
        try:
            with open_plain(RunDirectory(path).log_file) as file:
                start = max(0, file.seek(0, os.SEEK_END) - _TAIL)
                file.seek(start)
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
        return text.partition("\n")[2] if start else text

    def report(self, path: str | Path) -> Path | None:
        """The report of a run, None where it has none yet."""
        report = _place(path) / REPORT
        return report if os.path.isfile(report) else None

    def result(self, path: str | Path) -> tuple[str, Path] | None:
        """What a run left: ("model" or "encoder", file of weights); None where it left nothing yet."""
        for kind in RESULTS:
            file = RunDirectory(path).weights / f"{kind}.safetensors"
            if os.path.isfile(file):
                return kind, file
        return None

    # Starting and ending

    def start(
        self,
        kind: str,
        settings: Mapping[str, Any],
        run: str | Path,
        python: str | Path | None = None,
        resume: bool = False,
    ) -> Starting:
        """Start ``voco pretrain`` or ``finetune`` as a job of its own; `rows` or `Starting.ready` say how it went.

        ``settings``: values by dotted name, ``data.source`` among them. Raises SettingsError where a job runs there or
        the folder holds something else, EnvironmentFault where the folder or Python cannot be used.
        """
        words = [kind, "--run", str(_place(run)), *(["--resume"] if resume else [])]
        made = Starting(_place(run), words, settings, str(python or self.python))
        self._errors.pop(made.run, None)
        self._starting[made.run] = made
        self.list.show(made.run)
        return made

    def resume(self, path: str | Path, python: str | Path | None = None) -> Starting:
        """Go on from the last checkpoint. Raises SettingsError where there is no run, or where it cannot go on now."""
        run = RunDirectory.open(path)
        launch.check_resumable(run)
        return self.start(describe.command_of(run), {}, run.path, python, resume=True)

    def stop(self, path: str | Path) -> bool:
        """Ask a job to stop with a checkpoint, after the step or the case under way, however long that takes.

        A job that has not reported yet is ended at once, and False returned: there is nothing to wait for. Raises
        EnvironmentFault where the folder cannot be written.
        """
        if self.withdraw(path):
            return False
        RunDirectory.open(path).request_stop()
        return True

    def kill(self, path: str | Path) -> Task | None:
        """End a job at once with all its processes; its last checkpoint stays. No task where it has not reported."""
        if self.withdraw(path):
            return None
        place = RunDirectory.open(path).path
        task = Task(["jobs", "kill", str(place)], pythonSlicer(), keep=True).start()
        self._endings[place] = task
        return task

    def ending(self, path: str | Path) -> Task | None:
        """The task that kills a run right now; None where none does."""
        return self._endings.get(_place(path))

    # The list, clusters, space

    def addFolder(self, folder: str | Path) -> None:
        """Add a run, or a folder of runs, to the table; see `JobList.add`."""
        self.list.add(folder)

    def forget(self, path: str | Path) -> None:
        """Take a run off the list; its folder stays."""
        for kept in (self._errors, self._followers, self._readers):
            kept.pop(_place(path), None)
        self.list.forget(_place(path))

    def exportForCluster(
        self, path: str | Path, target: str | Path, options: Sequence[str] = (), python: str | None = None
    ) -> Task:
        """A started task that writes the folder ``target`` for SLURM; ``options`` as of `voco jobs export`."""
        words = ["jobs", "export", str(_place(path)), "-o", str(_place(target)), *options]
        return Task(words, python or self.python).start()

    # Inside

    def _due(self, paths: list[Path]) -> Iterator[Path]:
        """What to read now, each once, the most urgent first: the run whose look was broken off, runs never read, those
        under way by how long ago they were read, the others in turn.
        """
        broken = [self._broken] if self._broken in self._readers else []
        # No reader is made here: those of a thousand runs would take 0.1 s.
        readers = {path: self._readers.get(path) for path in paths}
        new = [path for path, reader in readers.items() if reader is None or not reader.wasRead]
        moving = [one for one in readers.values() if one is not None and (one.row.active or one.row.locked)]
        moving = [reader.run.path for reader in sorted(moving, key=lambda reader: reader.readAt)]
        urgent = dict.fromkeys([*broken, *new, *moving])
        yield from urgent
        for _ in paths:
            self._turn = (self._turn + 1) % len(paths)
            if paths[self._turn] not in urgent:
                yield paths[self._turn]

    def _reader(self, place: Path) -> RunReader:
        if place not in self._readers:
            self._readers[place] = RunReader(place)
        return self._readers[place]

    def _shown(self, place: Path) -> JobRow:
        """A run's row, with what this process knows of its start."""
        row = self._reader(place).row
        if place in self._starting:
            return replace(row, state=STARTING, message="", kind=row.kind)
        if (error := self._startError(place)) and row.state in ("", GONE, "failed", "stopped", "lost"):
            return replace(row, state="failed", message=error.message)
        return row

    def _hear(self, place: Path) -> None:
        """Whether a job that was started has reported, or has ended before."""
        try:
            if not self._starting[place].ready():
                return
            self.list.remember(place)
            self._reader(place).refresh()
        except VocoError as error:
            self._errors[place] = NotStarted(place, error)
        del self._starting[place]

    def _startError(self, place: Path) -> VocoError | None:
        failed = self._errors.get(place)
        return failed.error if failed is not None and failed.holds else None

    def withdraw(self, path: str | Path) -> bool:
        """End a job that has not reported yet; False where there is none."""
        place = _place(path)
        if place in self._starting:
            self._hear(place)
        if place not in self._starting:
            return False
        self._starting.pop(place).cancel()
        return True

    def _seeOut(self, place: Path, task: Task) -> None:
        """Let go of a task that ended a job; an error of it is a complaint, unless the job has ended all the same.

        It says nothing of how the run itself goes on or ends.
        """
        if task.poll().running:
            return
        del self._endings[place]
        if (error := task.error()) and self.row(place).atWork:
            self.complaints.append((place, error))


def _statesNow(runs: list[Path], starting: Mapping[Path, Starting]) -> dict[Path, str]:
    """The states of those runs that answer within LAST_LOOK, but for those ``starting`` that have not reported yet."""
    states: dict[Path, str] = {}

    def look() -> None:
        for run in runs:
            with suppress(OSError):
                if run not in starting or hasBegun(starting[run]):
                    states[run] = RunDirectory(run).state()

    thread = threading.Thread(target=look, name="VoCo: last look at jobs", daemon=True)
    thread.start()
    thread.join(LAST_LOOK)
    return dict(states)


def _place(path: str | Path) -> Path:
    return RunDirectory(path).path
