"""Which runs there are: those this user started (one JSON in the config folder) and those in a folder.

Folders exported for a cluster are remembered in the same way.

Reading a run's line costs its status.json and, if it says that it is under way, a look at its lock.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from VoCoCore.errors import EnvironmentFault
from VoCoCore.runs import files
from VoCoCore.runs.directory import RunDirectory, is_run
from VoCoCore.runs.lock import FileLock
from VoCoCore.runs.privacy import error_in_full

RUNS, EXPORTS = "runs", "exports"  # kinds of what is remembered
_MOST = 1000  # the oldest are forgotten first


@dataclass(frozen=True)
class Line:
    """One run in a list. ``heartbeat`` is in seconds since 1970 by the job's clock."""

    path: Path
    state: str
    step: int
    total: int
    attempt: int
    host: str
    heartbeat: float
    message: str


def config_folder() -> Path:
    """Return the folder of this user's own settings; the variable VOCO_CONFIG_HOME names another one."""
    if chosen := os.environ.get("VOCO_CONFIG_HOME"):
        return Path(os.path.expanduser(chosen))
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "vococore"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "vococore"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "vococore"


def remember(path: str | Path, kind: str = RUNS) -> bool:
    """Add the run (or export) ``path`` to those known, as the newest.

    Returns False where that cannot be written, which is no reason for a job to fail.
    """
    folder = os.path.abspath(path)
    entry = {"path": folder, "added": round(time.time())}
    return _change(kind, lambda entries: [*_without(entries, folder), entry])


def forget(path: str | Path, kind: str = RUNS) -> bool:
    """Take ``path`` off those known; the folder stays. False where that cannot be written."""
    folder = os.path.abspath(path)
    return _change(kind, lambda entries: _without(entries, folder))


def remembered(kind: str = RUNS) -> list[Path]:
    """Return all folders that are remembered, also those that are gone, newest first."""
    return [Path(entry["path"]) for entry in reversed(_entries(kind))]


def known_runs() -> list[Path]:
    """Return the runs that this user started and that are there now, newest first."""
    return [path for path in remembered() if is_run(path)]


def scan(folder: str | Path, depth: int = 2) -> list[Path]:
    """Return the runs at ``folder`` and up to ``depth`` levels below it, sorted; never looks inside a run."""
    return sorted(_found(Path(os.path.abspath(folder)), depth))


def list_runs(folder: str | Path | None = None) -> list[Line]:
    """Return a line for each known run and, given a ``folder``, instead for each run found there."""
    paths = known_runs() if folder is None else scan(folder)
    return [_line(RunDirectory(path)) for path in paths]


def _line(run: RunDirectory) -> Line:
    status, state = run.read_status(), run.state()
    if status is None:
        return Line(run.path, state, 0, 0, 0, "", 0.0, "")
    return Line(
        path=run.path,
        state=state,
        step=status.step,
        total=status.total,
        attempt=status.attempt,
        host=status.host,
        heartbeat=status.heartbeat,
        message=error_in_full(run, status.message, "")[0],
    )


def _found(folder: Path, depth: int) -> Iterator[Path]:
    if is_run(folder):
        yield folder
        return
    if depth == 0:
        return
    try:
        below = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for path in below:
        if not path.name.startswith("."):
            yield from _found(path, depth - 1)


def _entries(kind: str) -> list[dict[str, Any]]:
    data = files.read_json(config_folder() / f"{kind}.json")
    listed = data.get(kind) if isinstance(data, dict) else None
    entries = listed if isinstance(listed, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("path"), str)]


def _without(entries: list[dict[str, Any]], run: str) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["path"] != run]


def _change(kind: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> bool:
    """Replace what is remembered by ``change`` of it, one process after the other."""
    folder = config_folder()
    lock = FileLock(folder / f"{kind}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not lock.acquire(wait=5.0):
            return False
        files.write_json(folder / f"{kind}.json", {"v": 1, kind: change(_entries(kind))[-_MOST:]})
    except (OSError, EnvironmentFault):
        return False
    finally:
        lock.release()
    return True
