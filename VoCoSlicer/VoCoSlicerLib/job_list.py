"""Which runs the table of jobs shows: those this user started, and those in folders that were added by hand.

Folders may lie on a cluster's slow disk, so they are looked through by a background command, now and then.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from VoCoCore.errors import EnvironmentFault, SettingsError, VocoError
from VoCoCore.runs import known
from VoCoCore.runs.directory import RunDirectory, is_run
from VoCoSlicerLib.pythons import pythonSlicer
from VoCoSlicerLib.tasks import Task

FOLDERS, HIDDEN = "folders", "hidden"  # kinds of what VoCoCore remembers, beside its runs
_AGAIN = 60.0  # seconds between two looks


class JobList:
    """Paths of the runs to show; `advance` does the background's share, `paths` answers from memory."""

    def __init__(self) -> None:
        self._found: dict[Path, list[Path]] = {}  # by folder that was added
        self._looks: dict[Path, Task] = {}
        self._next = 0.0
        self._stamp: object = None
        self._paths: list[Path] = []
        self._unsaved: list[Path] = []  # of this session, where the list cannot be written

    def advance(self) -> None:
        """Start the looks that are due, take in those that have ended; does not wait."""
        for folder, task in list(self._looks.items()):
            if not task.poll().running:
                del self._looks[folder]
                self._take(folder, task)
        if time.monotonic() >= self._next and not self._looks:
            self._next = time.monotonic() + _AGAIN
            for folder in self.folders():
                with suppress(VocoError):  # a full disk, say: a timer calls this, and tries again in a minute
                    self._looks[folder] = Task(
                        ["jobs", "list", str(folder), "--json"], pythonSlicer()
                    ).start()

    def paths(self) -> list[Path]:
        """Absolute paths, this user's newest first, then what was found in folders; read again only after a change."""
        stamp = tuple(_stamp(kind) for kind in (known.RUNS, FOLDERS, HIDDEN))
        if stamp != self._stamp:
            self._stamp = stamp
            folders = self.folders()
            found = [path for folder in folders for path in self._found.get(folder, [])]
            hidden = set(known.remembered(HIDDEN))
            listed = dict.fromkeys([*self._unsaved, *known.remembered(), *found])
            self._paths = [path for path in listed if path not in hidden]
        return self._paths

    def refresh(self) -> None:
        """Look through the folders that were added at the next call of `advance`."""
        self._next = 0.0

    def folders(self) -> list[Path]:
        """The folders that were added, newest first."""
        return known.remembered(FOLDERS)

    def add(self, folder: str | Path) -> None:
        """Add a run, or a folder with runs up to two levels below it.

        Raises SettingsError where there is no such folder, EnvironmentFault where that cannot be remembered.
        """
        place = RunDirectory(folder).path
        if not os.path.isdir(place):
            raise SettingsError(
                f"{place} is not a folder", "choose the folder of a run, or one that holds runs"
            )
        self.show(place)
        for hidden in known.remembered(HIDDEN):
            if hidden.is_relative_to(place):
                known.forget(hidden, HIDDEN)
        if not known.remember(place, known.RUNS if is_run(place) else FOLDERS):
            hint = f"look at the permissions of {known.config_folder()}"
            raise EnvironmentFault("the list of known runs could not be written", hint)
        self.refresh()

    def remember(self, path: Path) -> None:
        """Add a run that was started here; for this session alone where the list cannot be written."""
        if not known.remember(path):
            self._unsaved.insert(0, path)
            self._stamp = None

    def show(self, path: Path) -> None:
        """Take back that a run was forgotten."""
        if path in known.remembered(HIDDEN):
            known.forget(path, HIDDEN)

    def forget(self, path: Path) -> None:
        """Take a run, or a folder that was added, off the list; everything stays on the disk."""
        known.forget(path)
        known.forget(path, FOLDERS)
        self._unsaved = [other for other in self._unsaved if other != path]
        self._stamp = None
        if any(path in runs for runs in self._found.values()):
            known.remember(path, HIDDEN)

    def _take(self, folder: Path, task: Task) -> None:
        if task.error():
            return  # a disk that is away comes back, and so do its runs
        with suppress(ValueError):
            self._found[folder] = [Path(entry["path"]) for entry in json.loads(task.result())]
            self._stamp = None


def _stamp(kind: str) -> object:
    try:
        found = os.stat(known.config_folder() / f"{kind}.json")
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
