"""What prepared volumes, exports and volumes written from the scene take up, and deleting it on consent.

Stores and exports are measured and deleted by `voco jobs space`, in a process of its own. Volumes written from the
scene lie beside the runs that read them, in folders that carry a mark; only files that this module names are deleted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from VoCoCore.errors import SettingsError
from VoCoCore.runs import files
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.status import ACTIVE
from VoCoSlicerLib.export_writer import MARK, MARKER, OURS
from VoCoSlicerLib.pythons import pythonSlicer
from VoCoSlicerLib.tasks import Task

VOLUMES = "volumes"  # a kind of place beside VoCoCore's store, export and leftover


@dataclass(frozen=True)
class Place:
    """A folder that may be deleted. ``size`` in bytes; ``runs``: how many known runs were made with it; ``busy``: those
    that use it now, and then it may not; ``unused``: bytes of a store that no known run needs.
    """

    path: Path
    kind: str
    size: int
    runs: int = 0
    busy: tuple[Path, ...] = ()
    unused: int = 0


def look() -> Task:
    """A started task that measures stores and exports; hand it to `places` when it has ended."""
    return Task(["jobs", "space", "--json"], pythonSlicer()).start()


def places(task: Task, runs: Iterable[Path]) -> list[Place]:
    """All places, the largest first; ``runs`` are the runs known, beside which exported volumes lie.

    Raises the task's error.
    """
    if error := task.error():
        raise error
    found = [
        Place(
            Path(item["path"]),
            item["kind"],
            item["size"],
            len(item["runs"]),
            tuple(map(Path, item["busy"])),
            item["unused_size"],
        )
        for item in json.loads(task.result())
    ]
    found += _volumes(list(runs))
    return sorted(found, key=lambda place: (-place.size, place.path))


def free(whole: Sequence[Place], unused: Sequence[Place] = ()) -> Task | None:
    """Delete ``whole`` places, and of the stores ``unused`` the cases that no known run needs. Ask before.

    Volumes are deleted here; stores and exports by the started task that is returned, None where there are none. Raises
    SettingsError where a job is using one of the volumes' folders, EnvironmentFault where one cannot be deleted.
    """
    for place in whole:
        if place.kind == VOLUMES:
            _deleteVolumes(place.path)
    words = [word for place in whole if place.kind != VOLUMES for word in ("--delete", str(place.path))]
    words += [word for place in unused for word in ("--unused", str(place.path))]
    return Task(["jobs", "space", *words, "--yes"], pythonSlicer(), keep=True).start() if words else None


def isVolumes(folder: Path) -> bool:
    """Whether ``folder`` is one that volumes of a scene were exported to."""
    mark = files.read_json(folder / MARKER)
    return isinstance(mark, dict) and mark.get("what") == MARK


def _volumes(runs: list[Path]) -> list[Place]:
    found = []
    for above in sorted({run.parent for run in runs}):
        try:
            folders = [Path(entry.path) for entry in os.scandir(above) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        for folder in filter(isVolumes, folders):
            users = [run for run in runs if run.parent == above]
            size = sum(file.stat().st_size for file in _ours(folder))
            found.append(Place(folder, VOLUMES, size, len(users), _busy(users)))
    return found


def _ours(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if OURS.fullmatch(path.name) and path.is_file()]


def _busy(runs: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(run for run in runs if RunDirectory(run).state() in ACTIVE)


def _deleteVolumes(folder: Path) -> None:
    """Delete what we have written there, the mark last; the folder too where nothing else lies in it."""
    if not isVolumes(folder):
        raise SettingsError(f"{folder} holds no exported volumes", "look again: it may be gone already")
    with files.writing(folder):
        beside = [entry for entry in folder.parent.iterdir() if (entry / "status.json").is_file()]
        if busy := _busy(beside):
            raise SettingsError(f"the job in {busy[0]} is using {folder}", "wait for it, or stop it first")
        for path in sorted(_ours(folder), key=lambda path: path.name == MARKER):
            path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
