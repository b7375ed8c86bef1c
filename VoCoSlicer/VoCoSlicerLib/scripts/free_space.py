"""Run by Slicer's Python: what stores, exports and volumes written from scenes take up, and deleting it. Not imported.

    python free_space.py FOLDER_OF_VOCOCORE look|free ORDER.json

``ORDER.json``, which is deleted when it was read: ``runs``, the known ones; ``working``: folders of volumes in use by
the Slicer that asks, and by what; ``mark``, ``marker`` and ``ours``, by which such a folder and the files in it are
known; to free also ``whole`` and ``unused`` (stores and exports) and
``volumes``, by folder the runs that may lose it. ``look`` prints JSON.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any


def main(core: str, what: str, order_file: str) -> int:
    """Do what is asked, print it, and return the exit code."""
    sys.path.insert(0, core)
    from VoCoCore.errors import VocoError

    order = json.loads(Path(order_file).read_text(encoding="utf-8"))
    Path(order_file).unlink(missing_ok=True)
    try:
        print({"look": look, "free": free_}[what](order))
    except VocoError as error:
        print(f"voco: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def look(order: dict[str, Any]) -> str:
    """All places as JSON; those of volumes have ``resumable``: the runs that need them to be gone on with."""
    from VoCoCore.runs import space

    runs = [Path(run) for run in order["runs"]]
    made = [{**place.to_dict(), "resumable": [], "work": ""} for place in space.find_places([])]
    for folder in sorted({place for run in runs for place in places_of(run, order)}):
        users = users_of(folder, runs)
        size = sum(file.stat().st_size for file in ours(folder, order))
        one = {"path": str(folder), "kind": "volumes", "size": size, "unused_size": 0, "runs": list(users)}
        busy, lost = active(users), resumable(users)
        made.append({**one, "busy": busy, "resumable": lost, "work": work_in(folder, order)})
    return json.dumps(made)


def free_(order: dict[str, Any]) -> str:
    """Delete it, unless a part of it may not be; returns how much that freed."""
    from VoCoCore.runs import free
    from VoCoCore.runs.narrate import size
    from VoCoCore.runs.space import STORE

    whole = [free.check(path) for path in order["whole"]]
    parts = [free.check(path, kinds=(STORE,)) for path in order["unused"]]
    for folder, given_up in order["volumes"].items():
        check_volumes(Path(folder), given_up, order)
    freed = sum(delete_volumes(Path(folder), order) for folder in order["volumes"])
    freed += sum(free.delete(path) for path in whole)
    freed += sum(free.delete_unused(path)[1] for path in parts)
    return f"{size(freed)} freed"


def places_of(run: Path, order: dict[str, Any]) -> set[Path]:
    """The folders of volumes beside a run, and the one that it was trained on."""
    found = {run.parent / name for name in names_in(run.parent)}
    source = source_of(run)
    return {folder for folder in (found | ({source.parent} if source else set())) if is_ours(folder, order)}


def users_of(folder: Path, runs: list[Path]) -> dict[str, str]:
    """State by path of the ``runs``, and of those beside ``folder``, that read volumes there or do not say what.

    A finished one at its last look, which reads them too, is ``running``; one that lacks that look is ``stopped``.
    """
    from VoCoCore.runs.describe import at_work, end_is_missing
    from VoCoCore.runs.directory import RunDirectory, is_run

    beside = [run for name in names_in(folder.parent) if is_run(run := folder.parent / name)]
    found = {}
    for path in dict.fromkeys([*runs, *beside]):
        source, run = source_of(path), RunDirectory(path)
        if folder in source.parents if source else path.parent == folder.parent:
            found[str(path)] = state = run.state()
            if state == "finished":
                found[str(path)] = "running" if at_work(run) else "stopped" if end_is_missing(run) else state
    return found


def source_of(run: Path) -> Path | None:
    """The list of cases that a run was told to read; None where it does not say.

    Its settings name no places. One of several folds that is only beginning has no note of them either: theirs has.
    """
    from VoCoCore.runs.files import read_json

    for note in (run / "private" / "places.json", run.parent / "all-folds.json"):
        places = read_json(note)
        source = places.get("data.source") if isinstance(places, dict) else None
        if isinstance(source, str) and source:
            return Path(source)
    return None


def work_in(folder: Path, order: dict[str, Any]) -> str:
    """What the Slicer that asks is doing with the volumes in ``folder``; empty for nothing."""
    real = os.path.realpath(folder)
    return next((work for place, work in order["working"].items() if os.path.realpath(place) == real), "")


def active(users: dict[str, str]) -> list[str]:
    """Those of the runs that a job is working on."""
    from VoCoCore.runs.status import ACTIVE

    return [run for run, state in users.items() if state in ACTIVE]


def resumable(users: dict[str, str]) -> list[str]:
    """Those of the runs that a job could go on with, and then it reads its volumes again."""
    from VoCoCore.runs.status import RESUMABLE

    return [run for run, state in users.items() if state in RESUMABLE]


def check_volumes(folder: Path, given_up: list[str], order: dict[str, Any]) -> None:
    """Raise SettingsError where ``folder`` is none of ours, or is needed by a run that is not ``given_up``."""
    from VoCoCore.errors import SettingsError

    if not is_ours(folder, order):
        raise SettingsError(f"{folder} holds no exported volumes", "look again: it may be gone already")
    if work := work_in(folder, order):
        raise SettingsError(f"{folder} is in use by {work}", "wait for it, or cancel it first")
    users = users_of(folder, list(map(Path, order["runs"])))
    if busy := active(users):
        raise SettingsError(f"the job in {busy[0]} is using {folder}", "wait for it, or stop it first")
    if lost := [run for run in resumable(users) if run not in given_up]:
        raise SettingsError(f"{lost[0]} could not be resumed without {folder}", "look again")


def delete_volumes(folder: Path, order: dict[str, Any]) -> int:
    """Delete what we have written there, the mark last; the folder too where nothing else lies in it."""
    from VoCoCore.runs.files import writing

    freed = 0
    with writing(folder):
        for path in sorted(ours(folder, order), key=lambda path: path.name == order["marker"]):
            freed += path.stat().st_size
            path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    return freed


def is_ours(folder: Path, order: dict[str, Any]) -> bool:
    """Whether ``folder`` is one that volumes of a scene were exported to."""
    from VoCoCore.runs.files import read_json

    mark = read_json(folder / order["marker"])
    return isinstance(mark, dict) and mark.get("what") == order["mark"]


def ours(folder: Path, order: dict[str, Any]) -> list[Path]:
    """The files in ``folder`` that we have written."""
    return [
        path for path in sorted(folder.iterdir()) if re.fullmatch(order["ours"], path.name) and path.is_file()
    ]


def names_in(folder: Path) -> list[str]:
    """The folders in a folder that can be read."""
    try:
        return [entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
