"""One line of the table of jobs: a run's status and the end of its events, read again only where they have changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from VoCoCore.errors import EnvironmentFault, VocoError, kind_of
from VoCoCore.runs import describe
from VoCoCore.runs.describe import LOST, command_of
from VoCoCore.runs.directory import RunDirectory, is_run
from VoCoCore.runs.events import finite, settled, tail
from VoCoCore.runs.narrate import narrate
from VoCoCore.runs.privacy import error_in_full
from VoCoCore.runs.process import host_name
from VoCoCore.runs.status import ACTIVE, ENDED

GONE, STARTING = "gone", "starting"  # states that only this table has, beside those of VoCoCore
SCORES = ("position_accuracy", "dice", "balanced_accuracy")  # by which states of a network are compared
_TAIL = 1 << 15  # bytes


@dataclass(frozen=True)
class JobRow:
    """How one run stands. ``state``: one of VoCoCore's, ``starting`` (nothing heard yet) or ``gone`` (its folder is
    no longer there); ``kind``: pretrain or finetune; ``rate`` in steps/s; ``score``: the newest of held-out volumes;
    ``device`` as the job says; ``local``: the job ran on this machine; ``locked``: a job that has said its last word
    is still writing its last files.
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

    @property
    def resumable(self) -> bool:
        """Whether a new job can go on where this one has ended."""
        return self.state in ("stopped", "failed", "lost") and bool(self.kind) and not self.locked

    @property
    def active(self) -> bool:
        """Whether a job is, or says that it is, under way."""
        return self.state in (*ACTIVE, STARTING)


class RunReader:
    """Keeps the row of one run; call `refresh` now and then."""

    def __init__(self, path: Path) -> None:
        self.run = RunDirectory(path)
        self.row = JobRow(self.run.path, self.run.name)
        self.wasRead = False
        self._kind = ""
        self._device = ""
        self._seen: object = None
        self._events: object = None
        self._tail: dict[str, Any] = {}
        self._failure: tuple[JobRow, VocoError] | None = None  # and the row that it belongs to

    def refresh(self) -> None:
        """Read what has changed; never raises for what the files hold."""
        self.wasRead = True
        stamps = _stamp(self.run.status_file), _stamp(self.run.events_file)
        # Giving the lock back changes no file.
        if self.row.state in ENDED and stamps == self._seen and not self.row.locked:
            return
        if not is_run(self.run.path):
            if self.row.state:
                what = "its folder is no longer there"
                self.row = replace(self.row, state=GONE, message=what, etaSeconds=None, rate=None)
            return
        self._kind = self._kind or command_of(self.run)
        if stamps[1] != self._events:
            self._events, self._tail = stamps[1], readTail(self.run.events_file)
            self._device = self._tail.get("device") or self._device
        self._seen = stamps
        self.row = self._made()

    def failure(self) -> VocoError:
        """What ended a run that failed or is lost, of the kind that its own command would have raised.

        Its checkpoints are looked through once for each change of the row: a window asks every second.
        """
        if self._failure is None or self._failure[0] != self.row:
            self._failure = self.row, self._explained()
        return self._failure[1]

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

    def _made(self) -> JobRow:
        status, state, tail = self.run.read_status(), self.run.state(), self._tail
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


def _stamp(path: Path) -> object:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
