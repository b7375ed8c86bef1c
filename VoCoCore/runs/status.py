"""status.json: what a job says about itself, how it stays fresh, and when a reader may call the job lost.

A job that says it is under way and whose lock is free is lost. That alone is not proof: a lock may not reach
across machines, and some file systems cannot lock. So a free lock counts

- at once, when the job ran on the reader's own machine and its process is gone;
- otherwise when the heartbeat has not changed for 60 s of the reader's own clock. Two machines' clocks are
  not compared for that; only a heartbeat that is a day old by any clock counts without waiting, so that a
  single look at an old folder gives an answer. A wrong time zone cannot explain a day.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from VoCoCore.errors import EnvironmentFault
from VoCoCore.runs import files, process

ACTIVE = ("preparing", "running", "stopping")
ENDED = ("stopped", "finished", "failed")
RESUMABLE = ("stopped", "failed", "lost")
STATES = (*ACTIVE, *ENDED, "lost")  # nobody writes "lost": readers derive it

BEAT = 5.0  # seconds between two heartbeats
LOST_AFTER = 60.0  # seconds without a change, by the reader's own clock
DEAD_AFTER = 86_400.0  # seconds that the heartbeat is old, comparing two machines' clocks


@dataclass(frozen=True)
class Status:
    """One content of status.json. ``heartbeat`` is in seconds since 1970 by the job's clock."""

    state: str
    step: int = 0
    total: int = 0
    heartbeat: float = 0.0
    host: str = ""
    pid: int = 0
    process_start: str = ""
    attempt: int = 0
    message: str = ""

    @property
    def active(self) -> bool:
        """Whether the job says that it is under way."""
        return self.state in ACTIVE

    @property
    def identity(self) -> tuple[str, int, str]:
        """Host, process number and start time: who wrote this."""
        return self.host, self.pid, self.process_start

    def to_dict(self) -> dict[str, Any]:
        """Return the content of status.json."""
        return {"v": 1, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Any) -> Status | None:
        """Read the content of a status.json; None where it is not one. Unknown keys are left aside."""
        if not isinstance(data, dict) or data.get("state") not in (*ACTIVE, *ENDED):
            return None
        try:
            known = {f.name: _KINDS[str(f.type)](data[f.name]) for f in fields(cls) if f.name in data}
        except (TypeError, ValueError, OverflowError):
            return None
        return cls(**known)


_KINDS: dict[str, Callable[[Any], Any]] = {"str": str, "int": int, "float": float}


def read_status(path: Path) -> Status | None:
    """Return the status in the file ``path``, None where there is none or it is not one."""
    return Status.from_dict(files.read_json(path))


class StatusWriter:
    """The job's hand on status.json. ``check`` is called before every write and raises to forbid it."""

    def __init__(self, path: Path, check: Callable[[], None]) -> None:
        self.attempt: int | None = None  # None: the one on disk
        self._path = path
        self._check = check
        self._status: Status | None = None
        self._guard = threading.Lock()

    def write(self, state: str, step: int | None, total: int | None, message: str) -> None:
        """Replace status.json; None keeps what was there."""
        if state not in (*ACTIVE, *ENDED):
            raise ValueError(f"not a state that a job can have: {state!r}")
        with self._guard:
            old = self._status or read_status(self._path) or Status(state)
            pid = os.getpid()
            status = Status(
                state=state,
                step=old.step if step is None else int(step),
                total=old.total if total is None else int(total),
                host=process.host_name(),
                pid=pid,
                process_start=process.process_start(pid) or process.UNKNOWN,
                attempt=old.attempt if self.attempt is None else self.attempt,
                message=message,
            )
            self._publish(status)

    @contextmanager
    def heartbeat(self, interval: float) -> Iterator[None]:
        """Renew the last status every ``interval`` seconds from a thread, for the length of the block."""
        done = threading.Event()
        thread = threading.Thread(target=self._beat, args=(done, interval), name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _beat(self, done: threading.Event, interval: float) -> None:
        while not done.wait(interval):
            # A disk that is full for a while must not end a job of days: the next beat may succeed.
            with suppress(EnvironmentFault), self._guard:
                if self._status is not None:
                    self._publish(self._status)

    def _publish(self, status: Status) -> None:
        self._check()
        self._status = replace(status, heartbeat=time.time())
        files.write_json(self._path, self._status.to_dict(), durable=not status.active)


class Watch:
    """A reader's memory of one job's heartbeat: for how long it has been the same, by the reader's clock."""

    def __init__(self) -> None:
        self._last: tuple[tuple[str, int, str], float] | None = None
        self._since = 0.0

    def unchanged(self, status: Status) -> float:
        """Return for how many seconds ``status`` has been seen with this very heartbeat."""
        now = time.monotonic()
        seen = (status.identity, status.heartbeat)
        if seen != self._last:
            self._last, self._since = seen, now
        return now - self._since

    def is_dead(self, status: Status) -> bool:
        """Whether the job that wrote ``status`` and whose lock is free is gone (rules: top of this file)."""
        silent = self.unchanged(status)
        if status.host == process.host_name() and process.is_gone(status.pid, status.process_start):
            return True
        return silent >= LOST_AFTER or time.time() - status.heartbeat >= DEAD_AFTER
