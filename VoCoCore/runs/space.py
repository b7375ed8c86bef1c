"""What takes up space beside the runs: stores of prepared volumes and exports, and which known runs need them.

A store or an export is known by the mark in its folder, never by its name. A deletion that was cut short leaves a
folder ``.NAME.deleting-XXXXXXXX`` beside the place, which is found again here.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from VoCoCore.runs import files, known
from VoCoCore.runs.directory import RunDirectory, is_run
from VoCoCore.runs.export import MARKER, is_export
from VoCoCore.runs.lock import FileLock
from VoCoCore.runs.status import ACTIVE

STORE_MARKER = "store.json"
STORE_MARK = "VoCoCore prepared volumes"
STORE, EXPORT, LEFTOVER = "store", "export", "leftover"
_ASIDE = re.compile(r"\..+\.deleting-[0-9a-f]{8}")
_KEY = re.compile(r"[0-9a-f]{64}")
_PARTIAL = re.compile(r"[0-9a-f]{64}(\..+)?")
_DAY = 86400  # seconds


@dataclass(frozen=True)
class Use:
    """A run and the cases that it reads; ``active``: a job is working on it, here or elsewhere."""

    run: Path
    store: Path
    keys: frozenset[str]
    active: bool


@dataclass(frozen=True)
class Place:
    """A store, an export, or what a deletion left. ``size`` in bytes; ``last_used`` in seconds since 1970;
    ``runs``: known runs that use it; ``unused`` and ``unused_size``: cases that none of them needs, and work that
    was cut short.
    """

    path: Path
    kind: str
    size: int
    cases: int = 0
    last_used: float = 0.0
    runs: tuple[Path, ...] = ()
    busy: tuple[Path, ...] = ()
    unused: int = 0
    unused_size: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        runs, busy = [str(path) for path in self.runs], [str(path) for path in self.busy]
        return {**vars(self), "path": str(self.path), "runs": runs, "busy": busy}


def default_store() -> Path:
    """The store in the user's cache folder."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "VoCoCore" / "store"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "VoCoCore" / "store"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "vococore" / "store"


def kind_of(path: Path) -> str | None:
    """What ``path`` is by its own mark: a store, an export, what a deletion left, or None: nothing of ours."""
    mark = files.read_json(path / STORE_MARKER)
    kind = STORE if isinstance(mark, dict) and mark.get("what") == STORE_MARK else None
    if kind is None and is_export(path):
        kind = EXPORT
    if _ASIDE.fullmatch(path.name) and (kind or _is_empty(path)):
        return LEFTOVER
    return kind


def uses() -> list[Use]:
    """Return what the known runs read, and the runs in known exports."""
    exported = (path / "run" for path in known.remembered(known.EXPORTS))
    return [_use(path) for path in (*known.known_runs(), *filter(is_run, exported))]


def find_places(folders: Iterable[str | Path] = ()) -> list[Place]:
    """Return the default store, those of known runs, known exports, all that lies at or up to two levels below
    ``folders``, and what deletions of any of them left; the largest first.
    """
    used = uses()
    asked = [real(folder) for folder in folders]
    wanted = [real(default_store()), *(use.store for use in used)]
    wanted += [real(path) for path in known.remembered(known.EXPORTS)]
    found = {path for folder in asked for path in _marked(folder, 2)}
    found |= {path for path in wanted if kind_of(path)}
    found |= {left for path in (*wanted, *asked, *found) for left in _leftovers(path)}
    return sorted((look(path, used) for path in found), key=lambda place: (-place.size, place.path))


def look(path: Path, used: Iterable[Use]) -> Place:
    """Measure one place; all its files are looked at."""
    kind = kind_of(path) or LEFTOVER
    if kind != STORE:
        return Place(path, kind, tree_size(path), last_used=_newest([path]))
    mine = [use for use in used if use.store == path]
    cases = {key: tree_size(folder) for key, folder in case_folders(path).items()}
    needed = frozenset[str]().union(*(use.keys for use in mine))
    unused = [key for key in cases if key not in needed]
    partial = sum(map(tree_size, partial_folders(path)))
    times = [path / "hashes.txt", path / STORE_MARKER, *(path / "cases").glob("??")]
    return Place(
        path=path,
        kind=kind,
        size=sum(cases.values()) + partial + tree_size(path, skip=("cases", "partial")),
        cases=len(cases),
        last_used=_newest([*times, *(use.run / "status.json" for use in mine)]),
        runs=tuple(use.run for use in mine),
        busy=tuple(use.run for use in mine if use.active),
        unused=len(unused),
        unused_size=sum(cases[key] for key in unused) + partial,
    )


def case_folders(store: Path) -> dict[str, Path]:
    """Folder of each case in a store, by key; nothing that a link leads to, since cases may be deleted."""
    groups = (group for group in (store / "cases").glob("??") if _lies_in(store, group))
    return {folder.name: folder for group in groups for folder in _own_folders(group, _KEY)}


def partial_folders(store: Path) -> list[Path]:
    """Folders of cases that were being written or deleted; like `case_folders`, without what a link leads to."""
    partial = store / "partial"
    return sorted(_own_folders(partial, _PARTIAL)) if _lies_in(store, partial) else []


def is_left(partial: Path, lock: FileLock) -> bool:
    """Whether the writer of a case in ``partial``, whose ``lock`` is taken, is gone; without locks nobody knows, and a
    day decides. Raises OSError where the folder is gone.
    """
    return lock.supported or time.time() - partial.stat().st_mtime > _DAY


def _lies_in(store: Path, folder: Path) -> bool:
    """Whether ``folder`` of a store is there, without a link on the way: somebody else's store may hold links."""
    return folder.is_dir() and real(folder) == real(store) / folder.relative_to(store)


def _own_folders(above: Path, names: re.Pattern[str]) -> Iterator[Path]:
    for folder in above.iterdir():
        if names.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            yield folder


def tree_size(folder: Path, skip: tuple[str, ...] = ()) -> int:
    """Bytes of all files at or below ``folder``, without the names in ``skip`` at its top; links are not followed."""
    total = 0
    for above, folders, names in os.walk(folder):
        if skip and above == str(folder):
            folders[:] = [name for name in folders if name not in skip]
        for name in names:
            with suppress(OSError):  # deleted meanwhile
                total += os.lstat(os.path.join(above, name)).st_size
    return total


def real(path: str | Path) -> Path:
    """``path`` in the one form in which paths are compared here."""
    return Path(os.path.realpath(os.path.expanduser(path)))


def _use(path: Path) -> Use:
    run = RunDirectory(path)
    cohort, places = (files.read_json(run.private / name) for name in ("cohort.json", "places.json"))
    cohort, places = (found if isinstance(found, dict) else {} for found in (cohort, places))
    named = (cohort.get("store"), places.get("data.store"))
    store = next((each for each in named if isinstance(each, str) and os.path.isabs(each)), default_store())
    lists = (cohort.get(name) for name in ("train", "val"))
    members = [member for found in lists if isinstance(found, list) for member in found]
    # A fine-tuning keeps more of each case than its key.
    keys = (member.get("key") if isinstance(member, dict) else member for member in members)
    held = frozenset(key for key in keys if isinstance(key, str))
    return Use(run.path, real(store), held, run.state() in ACTIVE or run.is_locked())


def _marked(folder: Path, depth: int) -> Iterator[Path]:
    if kind_of(folder):
        yield folder
    elif depth and not is_run(folder):
        with suppress(OSError):
            below = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
            for path in below:
                yield from _marked(path, depth - 1)


def _leftovers(path: Path) -> list[Path]:
    with suppress(OSError):
        beside = (
            path.parent / entry for entry in os.listdir(path.parent) if entry.startswith(f".{path.name}.del")
        )
        return [left for left in beside if kind_of(left) == LEFTOVER]
    return []


def _is_empty(path: Path) -> bool:
    try:
        return not os.listdir(path)
    except OSError:
        return False


def _newest(paths: Iterable[Path]) -> float:
    times = [0.0]
    for path in paths:
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


MARKERS = {STORE: STORE_MARKER, EXPORT: MARKER}
