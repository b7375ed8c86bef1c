"""Delete stores, exports, and cases that no run needs: only what is marked as ours and nobody is using.

A folder is first renamed aside, then emptied, its mark last: killed at any moment, it is either whole in its place or
found again as a leftover. A case goes by way of the store's ``partial``, which every job that prepares cleans.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

from VoCoCore.errors import SettingsError
from VoCoCore.runs import files, known
from VoCoCore.runs.export import FILES
from VoCoCore.runs.lock import FileLock, probe
from VoCoCore.runs.narrate import shell_word
from VoCoCore.runs.space import (
    EXPORT,
    LEFTOVER,
    MARKERS,
    STORE,
    case_folders,
    is_left,
    kind_of,
    look,
    partial_folders,
    real,
    tree_size,
    uses,
)

_OURS = {
    STORE: ("store.json", "cases", "partial", "locks", "hashes.txt"),
    EXPORT: (*FILES, "slurm-*.out", "store"),
}
_HARMLESS = (".*.tmp", ".DS_Store", "Thumbs.db", "desktop.ini")
_PATIENCE = 5.0  # seconds that another process may take for a case


def check(path: str | Path, *, kinds: Iterable[str] = (STORE, EXPORT, LEFTOVER)) -> Path:
    """Return ``path`` as one that may be deleted.

    Raises SettingsError where it is not marked as ours, holds other files or a run, or a job is using it.
    """
    path, kinds = real(path), tuple(kinds)
    kind = kind_of(path)
    if kind not in kinds:
        words = "no store of prepared volumes" + ("" if kinds == (STORE,) else " and no export of ours")
        raise SettingsError(f"{path} is {words}", "voco jobs space lists what can be deleted")
    if kind in _OURS and kinds != (STORE,):
        _refuse_other_files(path, _OURS[kind])
    for store in (path, path / "store"):
        if kind_of(store) == STORE:
            _refuse_in_use(store)
    return path


def delete(path: str | Path) -> int:
    """Delete a store, an export or a leftover; returns how many bytes that freed.

    Raises SettingsError as `check` does, EnvironmentFault where it cannot be deleted.
    """
    path = check(path)
    freed = tree_size(path)
    with files.writing(path):
        aside = path
        if kind_of(path) != LEFTOVER:
            aside = path.with_name(f".{path.name}.deleting-{uuid.uuid4().hex[:8]}")
            files.patiently(lambda: os.rename(path, aside))
        _empty(aside)
        aside.rmdir()
    origin = path.with_name(path.name[1:].rpartition(".deleting-")[0]) if path == aside else path
    if origin in known.remembered(known.EXPORTS):
        known.forget(origin, known.EXPORTS)
    return freed


def delete_unused(path: str | Path) -> tuple[int, int]:
    """Delete the cases of a store that no known run needs; returns how many, and how many bytes that freed.

    A case that some process is preparing right now stays, see `space.is_left`. Raises as `delete` does.
    """
    store = check(path, kinds=(STORE,))
    used = uses()
    before = look(store, used).size
    needed = {key for use in used if use.store == store for key in use.keys}
    gone = 0
    with files.writing(store):
        for name in ("partial", "locks"):
            (store / name).mkdir(exist_ok=True)
        for key, folder in sorted(case_folders(store).items()):
            if key not in needed:
                gone += _delete_case(store, key, folder)
        for left in partial_folders(store):
            _delete_case(store, left.name, left)
    return gone, before - look(store, used).size


def _delete_case(store: Path, key: str, folder: Path) -> bool:
    """Delete a case, or what is left of one, with its lock held; False where somebody may be at work on it."""
    lock = FileLock(store / "locks" / f"{key[:2]}.lock")
    if not lock.acquire(wait=_PATIENCE if folder.parent.name != "partial" else 0.0):
        return False
    try:
        aside = folder
        if folder.parent.name == "partial":
            if not is_left(folder, lock):
                return False
        else:
            aside = store / "partial" / f"{key}.{uuid.uuid4().hex}"
            files.patiently(lambda: os.rename(folder, aside))
        shutil.rmtree(aside)
    finally:
        lock.release()
    return True


def _empty(folder: Path) -> None:
    marks = MARKERS.values()
    for entry in sorted(folder.iterdir(), key=lambda each: each.name in marks):  # the mark last
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _refuse_other_files(path: Path, ours: tuple[str, ...]) -> None:
    for entry in sorted(path.iterdir()):
        if entry.name == "run":
            raise SettingsError(
                f"{path} holds a run: {entry}", "move the run elsewhere first, or delete it yourself"
            )
        foreign = not any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in (*ours, *_HARMLESS))
        if foreign or entry.is_symlink():
            raise SettingsError(
                f"{path} holds something that is not ours: {entry.name}", "move it elsewhere first"
            )


def _refuse_in_use(store: Path) -> None:
    for use in uses():
        if use.active and use.store == store:
            hint = f"wait for it, or voco jobs stop {shell_word(use.run)}"
            raise SettingsError(f"the job in {use.run} is using the store {store}", hint)
    if any(probe(lock) for lock in (store / "locks").glob("*.lock")):
        raise SettingsError(f"a process is preparing cases in the store {store}", "wait for it")
