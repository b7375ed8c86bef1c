"""What prepared volumes, exports and volumes written from the scene take up, and deleting it on consent.

Both are done by a script in a process of its own. Volumes written from the scene lie beside the runs that read them, in
folders that carry a mark; only files that this module names are deleted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from VoCoSlicerLib.core import MODULE_FOLDER, coreFolder
from VoCoSlicerLib.export_writer import MARK, MARKER, OURS
from VoCoSlicerLib.pythons import pythonSlicer
from VoCoSlicerLib.tasks import Task, orderFile

VOLUMES = "volumes"  # a kind of place beside VoCoCore's store, export and leftover
_NOTHING: Mapping[Path, str] = {}
_SCRIPT = MODULE_FOLDER / "VoCoSlicerLib" / "scripts" / "free_space.py"


@dataclass(frozen=True)
class Place:
    """A folder that may be deleted. ``size`` in bytes; ``runs``: how many known runs were made with it; ``busy``: those
    that use it now, and then it may not; ``work``: what uses it in this Slicer, such as a prediction, and then neither;
    ``unused``: bytes of a store that no known run needs; ``resumable``: runs that have stopped, failed or been lost and
    could not be resumed without it.
    """

    path: Path
    kind: str
    size: int
    runs: int = 0
    busy: tuple[Path, ...] = ()
    unused: int = 0
    resumable: tuple[Path, ...] = ()
    work: str = ""


def look(runs: Iterable[Path], working: Mapping[Path, str] = _NOTHING) -> Task:
    """A started task that measures all places; hand it to `places` when it has ended. ``runs``: those that are known,
    beside which exported volumes lie. ``working``: folders of these that are in use here, and by what.
    """
    return _task("look", False, runs, working)


def places(task: Task) -> list[Place]:
    """All places, the largest first. Raises the task's error."""
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
            tuple(map(Path, item["resumable"])),
            item["work"],
        )
        for item in json.loads(task.result())
    ]
    return sorted(found, key=lambda place: (-place.size, place.path))


def free(
    whole: Sequence[Place],
    unused: Sequence[Place] = (),
    runs: Iterable[Path] = (),
    working: Mapping[Path, str] = _NOTHING,
) -> Task:
    """A started task that deletes ``whole`` places, and of the stores ``unused`` the cases that no known run needs.

    Ask before: what a place's ``resumable`` runs need is deleted too. The task ends with a SettingsError, and nothing
    is deleted, where a job or something that is ``working`` here is using one of the places, where another one of the
    ``runs`` could not be resumed without it, or where it is none of ours.
    """
    return _task(
        "free",
        True,
        runs,
        working,
        whole=[str(place.path) for place in whole if place.kind != VOLUMES],
        unused=[str(place.path) for place in unused],
        volumes={
            str(place.path): list(map(str, place.resumable)) for place in whole if place.kind == VOLUMES
        },
    )


def _task(what: str, keep: bool, runs: Iterable[Path], working: Mapping[Path, str], **order: Any) -> Task:
    order |= {"mark": MARK, "marker": MARKER, "ours": OURS.pattern, "runs": list(map(str, runs))}
    order["working"] = {str(folder): work for folder, work in working.items()}
    words = [_SCRIPT, coreFolder(), what, orderFile("voco-space-", order)]
    return Task(words, pythonSlicer(), plain=True, keep=keep).start()
