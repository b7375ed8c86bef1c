"""A run's folder: create or open it, hold its lock, say how far the job is, ask it to stop.

One process at a time is the job: it holds the lock and alone writes status and events. Everybody else reads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from VoCoCore.errors import EnvironmentFault, SettingsError
from VoCoCore.runs import files, process
from VoCoCore.runs.events import EventWriter, last_attempt
from VoCoCore.runs.lock import FileLock, probe, read_owner
from VoCoCore.runs.status import BEAT, Status, StatusWriter, Watch, read_status

_FOLDERS = ("checkpoints", "weights", "private", "validation")
_SIGNS = ("status.json", "environment.json", "events.jsonl")  # other programs have a settings.json too
# What may lie in a folder that counts as empty: a file manager's notes; where a run is to be made also a launcher's
# log and what a creation that was cut short left.
NOTES = {".DS_Store", "Thumbs.db", "desktop.ini"}
_BEGUN = {"log.txt", "environment.json", "run.lock"}

SETTLE = 1.0  # seconds in which another claim on a file system without locks becomes visible


class RunDirectory:
    """The folder of one run. ``RunDirectory(path)`` checks nothing, so that readers may come before the job;
    the job uses ``create`` or ``open``, then ``lock``, ``next_attempt`` and ``heartbeat``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.abspath(os.path.expanduser(path)))
        self.checkpoints, self.weights, self.private, self.validation = (
            self.path / name for name in _FOLDERS
        )
        self.log_file = self.path / "log.txt"
        self.events_file = self.path / "events.jsonl"
        self.settings_file = self.path / "settings.json"
        self.status_file = self.path / "status.json"
        self.lock_file = self.path / "run.lock"  # only VoCoCore.runs.lock may open it
        # What its cases and their files are called, once the job knows it: kept out of events and status.
        self.names: frozenset[str] | None = None
        self._stop_file = self.path / "stop"
        self._lock: FileLock | None = None
        self._events: EventWriter | None = None
        self._writer = StatusWriter(self.status_file, self._check_ours)
        self._watch = Watch()

    @classmethod
    def create(cls, path: str | Path, settings: dict[str, Any], environment: dict[str, Any]) -> RunDirectory:
        """Make the run ``path`` with its settings.json, environment.json and the state "preparing".

        Raises SettingsError where the folder already holds a run or anything else, EnvironmentFault where it
        cannot be written.
        """
        run = cls(path)
        run._refuse_to_replace()
        check_usable(run.path)
        with files.writing(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        claim = run._claim()
        try:
            run._refuse_to_replace()  # somebody may have made it meanwhile, and be at work
            run.write_json("environment.json", environment)
            run.write_json("settings.json", settings)  # second: this makes it a run
            run.write_status("preparing")
            run._make_folders()
        finally:
            claim.release()
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Return the run at ``path``; SettingsError naming what is missing where there is none."""
        run = cls(path)
        if not run.path.is_dir():
            what = "is a file, not a folder" if run.path.exists() else "does not exist"
            raise SettingsError(f"{run.path} is not a run: it {what}", "name the folder given as --run")
        missing = "settings.json" if not run.settings_file.is_file() else "status.json"
        if not is_run(run.path):
            folds = sorted(filter(is_run, run.path.glob("fold-*")))
            if folds:
                raise SettingsError(
                    f"{run.path} holds several folds", f"name one of them, such as {folds[0]}"
                )
            raise SettingsError(
                f"{run.path} is not a run: {missing} is missing", "name the folder given as --run"
            )
        return run

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

    def read_settings(self) -> dict[str, Any]:
        """Return the content of settings.json; SettingsError where it is damaged."""
        settings = files.read_json(self.settings_file)
        if not isinstance(settings, dict):
            hint = "put a copy of it back: the run cannot be resumed without"
            raise SettingsError(f"{self.settings_file} is missing or damaged", hint)
        return settings

    def write_json(self, name: str, data: object) -> None:
        """Replace the file ``name`` in the run's folder by ``data`` (strict JSON), whole or not at all."""
        files.write_json(self.path / name, data)

    def log(self, text: str) -> None:
        """Add ``text``, with the local time, to log.txt."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with files.writing(self.log_file), files.open_end(self.log_file) as file:
            file.write(f"{stamp}  {text}{os.linesep}".encode(errors="backslashreplace"))

    # The job's side

    @contextmanager
    def lock(self) -> Iterator[RunDirectory]:
        """Be this run's job for the length of the block.

        Raises SettingsError where a job already runs here, EnvironmentFault where the folder cannot be
        written. Where the lock cannot tell (the last job ran on another machine, or the file system does
        not lock) the heartbeat is watched first, for at most 60 s.
        """
        claim = self._claim()
        try:
            self._wait_for_silence(claim)
            self._take_over(claim)
            self._make_folders()
            yield self
        finally:
            if self._events is not None:
                self._events.close()
                self._events = None
            self._lock = None
            claim.release()

    @property
    def events(self) -> EventWriter:
        """The writer of events.jsonl; for the holder of the lock."""
        if self._events is None:
            self._events = EventWriter(self.events_file)
        return self._events

    def next_attempt(self) -> int:
        """Return the number of this attempt (1 for the first), which the status carries from now on."""
        status = self.read_status()
        self._writer.attempt = 1 + max(status.attempt if status else 0, last_attempt(self.events_file))
        return self._writer.attempt

    def write_status(
        self, state: str, step: int | None = None, total: int | None = None, message: str = ""
    ) -> None:
        """Say how things stand; ``step`` and ``total`` stay as they were where not given.

        Raises EnvironmentFault where status.json cannot be written or another job has taken the run over.
        """
        self._writer.write(state, step, total, message)

    def heartbeat(self, interval: float = BEAT) -> AbstractContextManager[None]:
        """Renew the status every ``interval`` seconds from a thread, for the length of the block."""
        return self._writer.heartbeat(interval)

    def clear_stop(self) -> None:
        """Forget an earlier wish to stop; a job does this when it starts."""
        with files.writing(self._stop_file):
            files.patiently(lambda: self._stop_file.unlink(missing_ok=True))

    # Everybody's side

    def read_status(self) -> Status | None:
        """Return what the job last said, None where it said nothing (readable) yet."""
        return read_status(self.status_file)

    def state(self) -> str:
        """Return preparing, running, stopping, stopped, finished, failed or lost.

        Ask the same object again and again: "lost" may need 60 s of watching (see `VoCoCore.runs.status`).
        """
        return self.state_by(self.read_status())

    def state_by(self, status: Status | None) -> str:
        """Return the same by a status that was just read (None: there was none)."""
        if status is not None and not status.active:
            return status.state
        if status is None:
            return "preparing" if self.is_locked() else "lost"
        if not self.is_locked() and self._watch.is_dead(status):
            return "lost"
        return "stopping" if self.stop_requested() else status.state

    def is_locked(self) -> bool:
        """Whether a job certainly holds this run's lock (False also where the file system cannot say)."""
        return probe(self.lock_file) is True

    def stop_requested(self) -> bool:
        """Whether somebody asked the job to stop after this step, with a checkpoint."""
        return os.path.exists(self._stop_file)

    def request_stop(self) -> None:
        """Ask the job to stop after this step, with a checkpoint; from any machine that sees the folder."""
        with files.writing(self._stop_file):
            self._stop_file.touch()

    def taken(self) -> SettingsError:
        """Return the error that says which job runs here."""
        owner = read_owner(self.lock_file)
        who = ", ".join(f"{key} {owner[key]}" for key in ("host", "pid", "since") if key in owner)
        hint = "follow or stop it with voco jobs, or choose another folder"
        return SettingsError(f"a job is running in {self.path} ({who or 'starting now'})", hint)

    def _refuse_to_replace(self) -> None:
        if is_run(self.path):
            hint = "add --resume to continue it, or choose another folder"
            raise SettingsError(f"{self.path} already holds a run", hint)

    def _claim(self) -> FileLock:
        """The lock of this run, taken; SettingsError where somebody else holds it."""
        claim = FileLock(self.lock_file)
        with files.writing(self.lock_file):
            taken = claim.acquire()
        if not taken:
            raise self.taken()
        return claim

    def _make_folders(self) -> None:
        for name in _FOLDERS:
            # Somebody else's run may have links to the folders of whoever resumes it; a larger disk is a good reason.
            if name != "checkpoints" and (self.path / name).is_symlink():
                hint = "put a folder in its place, or start a new run"
                raise EnvironmentFault(f"{self.path / name} is a link that leads out of the run", hint)
            with files.writing(self.path / name):
                (self.path / name).mkdir(exist_ok=True, mode=0o700 if name == "private" else 0o777)

    def _check_ours(self) -> None:
        if self._lock is not None and not self._lock.is_ours():
            hint = "this one was silent for too long; its last checkpoint is safe"
            raise EnvironmentFault(f"another job has taken over {self.path}", hint)

    def _wait_for_silence(self, claim: FileLock) -> None:
        """Raise SettingsError where an owner whom our lock does not reach is still alive."""
        first = self.read_status()
        here = first is not None and first.host == process.host_name()
        if first is None or not first.active or (claim.supported and here):
            return
        watch, told = Watch(), False
        while (status := self.read_status()) is not None and not watch.is_dead(status):
            if (status.identity, status.heartbeat) != (first.identity, first.heartbeat):
                raise self.taken()
            if not told:
                self.log(
                    f"{status.host} was the last to work here; watching for a minute whether it still does"
                )
                told = True
            time.sleep(0.25)

    def _take_over(self, claim: FileLock) -> None:
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        with files.writing(self.lock_file):
            claim.claim({"host": process.host_name(), "pid": os.getpid(), "since": since})
        if not claim.supported:
            time.sleep(SETTLE)  # two may have come at the same time: the one whose token stays goes on
            if not claim.is_ours():
                raise self.taken()
        self._lock = claim
        for path in self.path.glob(".*.tmp"):
            with suppress(OSError):
                path.unlink()


def is_run(path: Path) -> bool:
    """Whether ``path`` is the folder of a run."""
    # Not Path.is_file: it raises for a folder that may not be opened.
    return os.path.isfile(path / "settings.json") and any(os.path.isfile(path / name) for name in _SIGNS)


def check_usable(path: Path, *, begun: bool = True) -> None:
    """Raise SettingsError unless a new run may be made at ``path``: no such folder, or an empty one.

    ``begun``: what a run that was cut short at its very start left may lie there too.
    """
    try:
        names = {entry.name for entry in os.scandir(path)}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        what = "is a file, not a folder" if path.exists() else "lies below a file"
        raise SettingsError(f"{path} {what}", "name a new or an empty folder") from None
    except OSError as error:
        raise files.fault(path, error) from error
    harmless = NOTES | _BEGUN if begun else NOTES
    if any(name not in harmless and not files.is_leftover(name) for name in names):
        what = "is not empty and is not a run" if begun else "is not empty"
        raise SettingsError(f"{path} {what}", "name a new or an empty folder")
