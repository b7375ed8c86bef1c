"""One line of the table of jobs: a run's status and the end of its events, read again only where they have changed.

A window reads: so a file that another process has open is left for a later look, not waited for, and on a slow disk
a look ends between two files and is gone on with at the next call.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from VoCoCore.errors import EnvironmentFault, VocoError, kind_of
from VoCoCore.runs import describe
from VoCoCore.runs.describe import LOST, command_by
from VoCoCore.runs.directory import RunDirectory, is_run
from VoCoCore.runs.events import finite, settled, tail
from VoCoCore.runs.files import glance_json
from VoCoCore.runs.narrate import narrate
from VoCoCore.runs.privacy import error_in_full
from VoCoCore.runs.process import host_name
from VoCoCore.runs.status import ACTIVE, ENDED, RESUMABLE, Status

GONE, STARTING = "gone", "starting"  # states that only this table has, beside those of VoCoCore
SCORES = ("position_accuracy", "dice", "balanced_accuracy")  # by which states of a network are compared
RESULTS, REPORT = ("model", "encoder"), "report.html"  # what a run leaves
_TAIL = 1 << 15  # bytes
# Seconds to the next look at files that cannot be read: at first, and after many in vain.
_SOON, _LATE = 0.5, 30.0


@dataclass(frozen=True)
class JobRow:
    """How one run stands. ``state``: one of VoCoCore's, ``starting`` (nothing heard yet) or ``gone`` (its folder is
    no longer there); ``kind``: pretrain or finetune; ``rate`` in steps/s; ``score``: the newest of held-out volumes;
    ``device`` as the job says; ``local``: the job ran on this machine; ``locked``: a job that has said its last word
    is still at its last look or its last files; ``result``: what it left, model or encoder; ``hasLog``, ``hasReport``:
    whether these files are there.
    """

    path: Path
    name: str
    kind: str = ""
    state: str = ""
    step: int = 0
    total: int = 0
    etaSeconds: float | None = None
    rate: float | None = None
    loss: float | None = None
    message: str = ""
    host: str = ""
    local: bool = True
    score: float | None = None
    device: str = ""
    locked: bool = False
    result: str = ""
    hasLog: bool = False
    hasReport: bool = False

    @property
    def resumable(self) -> bool:
        """Whether a new job can go on where this one has ended."""
        return self.state in RESUMABLE and bool(self.kind) and not self.locked

    @property
    def active(self) -> bool:
        """Whether a job is, or says that it is, under way."""
        return self.state in (*ACTIVE, STARTING)

    @property
    def atWork(self) -> bool:
        """Whether a job can be stopped or killed: one under way, or a finished one at its last look."""
        return self.active or (self.state == "finished" and self.locked)


class RunReader:
    """Keeps the row of one run; call `refresh` now and then. ``readAt``: when it was read last (monotonic seconds)."""

    def __init__(self, path: Path) -> None:
        self.run = RunDirectory(path)
        self.row = JobRow(self.run.path, self.run.name)
        self.readAt = -math.inf
        self._looking: Iterator[None] | None = None  # a look that has not come to its end
        # Looks in vain, one after the other, and when to try the next.
        self._refusals, self._again = 0, -math.inf
        self._kind, self._settings = "", None
        self._device = ""
        self._seen: object = None
        self._events: object = None
        self._listed: object = None
        self._names: set[str] = set()  # what lies in the run's folder and in its weights
        self._tail: dict[str, Any] = {}
        self._failure: tuple[JobRow, VocoError] | None = None  # and the row that it belongs to
        self._cut: tuple[object, bool] | None = None

    @property
    def wasRead(self) -> bool:
        """Whether a look has come to its end."""
        return self.readAt > -math.inf

    def refresh(self, until: float = math.inf) -> bool:
        """Read what has changed; never raises for what the files hold.

        With a time ``until`` (of `time.perf_counter`) it may return False before the row is new: the next call goes on.
        """
        if self._looking is None or until == math.inf:
            self._looking = self._look()
        for _ in self._looking:
            if time.perf_counter() > until:
                return False
        self._looking, self.readAt = None, time.monotonic()
        return True

    def _look(self) -> Iterator[None]:
        """One look, which may be broken off wherever it yields: after each of its files."""
        if time.monotonic() < self._again:
            return
        status, events = stampOf(self.run.status_file), stampOf(self.run.events_file)
        yield
        stamps = status, events, stampOf(self.run.path)
        # Giving the lock back changes no file.
        if self.row.state in ENDED and stamps == self._seen and not self.row.locked:
            return
        if not (self._kind and status) and not is_run(self.run.path):
            if self.row.state:
                self.row = replace(
                    self.row,
                    state=GONE,
                    message="its folder is no longer there",
                    etaSeconds=None,
                    rate=None,
                    result="",
                    hasLog=False,
                    hasReport=False,
                )
            return
        yield
        if stamps[::2] != self._listed:
            names = _names(self.run.path)
            yield
            self._listed, self._names = stamps[::2], names | _names(self.run.weights)
            yield
        if events != self._events:
            self._events, self._tail = events, readTail(self.run.events_file)
            self._device = self._tail.get("device") or self._device
            yield
        try:
            if (settings := stampOf(self.run.settings_file)) != self._settings:  # perhaps of another run
                yield
                self._kind = command_by(glance_json(self.run.settings_file))
                self._settings = settings
                yield
            said = Status.from_dict(glance_json(self.run.status_file))
            self._refusals = 0
        except PermissionError:
            if self._isKept():
                return
            said = None
        yield
        self._seen = stamps
        self.row = self._made(said)

    def _isKept(self) -> bool:
        """Whether the row stays as it is for now: files were refused, as for a moment by Windows to the second opener.

        A run that was never read is shown without a status from the second time on.
        """
        self._refusals += 1
        self._again = time.monotonic() + min(_SOON * 2.0 ** (self._refusals - 1), _LATE)
        return bool(self.row.state) or self._refusals < 2

    def failure(self) -> VocoError:
        """What ended a run that failed or is lost, of the kind that its own command would have raised.

        Its checkpoints are looked through once for each change of the row: a window asks every second.
        """
        if self._failure is None or self._failure[0] != self.row:
            self._failure = self.row, self._explained()
        return self._failure[1]

    def isCut(self) -> bool:
        """Whether the run is finished, but its last look or its report is not: looked up once for each change."""
        now = self.row, self._seen
        if self._cut is None or self._cut[0] != now:
            ended = self.row.state == "finished" and not self.row.locked
            self._cut = now, ended and describe.end_is_missing(self.run)
        return self._cut[1]

    def _explained(self) -> VocoError:
        kept = describe.checkpoint_words(self.run)
        if self.row.state == "lost":
            return EnvironmentFault(f"The job of {self.run.name} is lost: {LOST}", f"press Resume ({kept})")
        said = self._tail.get("error", {})
        if said.get("message") != self.row.message:  # the last word of an earlier attempt
            said = {}
        message, hint = error_in_full(self.run, self.row.message, str(said.get("hint") or ""))
        message = message or "it did not say why: see its log"
        hint = ", then ".join(filter(None, [hint, f"press Resume ({kept})"]))
        return kind_of(str(said.get("kind")))(f"The job of {self.run.name} failed: {message}", hint)

    def _made(self, status: Status | None) -> JobRow:
        state, tail = self.run.state_by(status), self._tail
        moving = state in ("running", "stopping")
        message = status.message if status else ""
        if state == "lost":
            message = LOST
        elif state == "preparing":
            message = tail.get("stage") or message
        host = status.host if status else ""
        return JobRow(
            path=self.run.path,
            name=self.run.name,
            kind=self._kind,
            state=state,
            step=max(status.step if status else 0, tail.get("step", 0) if moving else 0),
            total=status.total if status else 0,
            etaSeconds=tail.get("eta") if moving else None,
            rate=tail.get("rate") if moving else None,
            loss=tail.get("loss"),
            message=message,
            host=host,
            local=host in ("", host_name()),
            score=tail.get("score"),
            device=self._device,
            locked=state in ENDED and self.run.is_locked(),
            result=next((kind for kind in RESULTS if f"{kind}.safetensors" in self._names), ""),
            hasLog=self.run.log_file.name in self._names,
            hasReport=REPORT in self._names,
        )


def readTail(path: Path) -> dict[str, Any]:
    """What the last 32 kB of a run's events say: step, rate, eta, loss, score, stage and device, where there."""
    found: dict[str, Any] = {}
    for event in reversed(settled(tail(path, _TAIL))):
        for name, value in _told(event).items():
            found.setdefault(name, value)
    return {name: value for name, value in found.items() if value is not None}


def _told(event: Mapping[str, Any]) -> dict[str, Any]:
    kind = event.get("type")
    if kind == "progress":
        numbers = {"rate": finite(event.get("rate")), "eta": finite(event.get("eta_s"))}
        return {**numbers, "step": int(finite(event.get("step")) or 0)}
    if kind == "started":
        return {"device": str(event.get("device", "")), "stage": ""}
    if kind == "error":
        return {"error": dict(event)}
    if kind == "stage":
        return {"stage": narrate(event)}
    values = event.get("values")
    if kind != "metrics" or not isinstance(values, Mapping):
        return {}
    if event.get("split") == "train":
        return {"loss": finite(values.get("loss"))} if "loss" in values else {}
    name = next((name for name in SCORES if name in values), None)
    return {"score": finite(values[name])} if name else {}


def _names(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder)}
    except OSError:
        return set()


def stampOf(path: Path) -> object:
    """What changes whenever a file, or what lies in a folder, does; None where it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
