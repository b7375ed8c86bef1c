"""All that a person wants to know about one run, in one look at its folder: state, figures, what to do."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from VoCoCore.errors import EnvironmentFault, VocoError, kind_of
from VoCoCore.runs import files
from VoCoCore.runs.directory import RunDirectory, is_run
from VoCoCore.runs.events import Event, read_events
from VoCoCore.runs.follow import Follower
from VoCoCore.runs.narrate import duration, shell_word
from VoCoCore.runs.privacy import error_in_full
from VoCoCore.runs.status import ACTIVE

LOST = "it ended without a word: killed, often for want of memory, or the machine was shut down"
CUT = "its last look at held-out cases, or its report, did not come to its end: see log.txt"
SILENT = 60.0  # seconds without a heartbeat from which a person wants to know


@dataclass(frozen=True)
class Description:
    """How a run stands. ``silent_s``: seconds since its last heartbeat, by this machine's clock, where it says that
    it is under way or is lost; ``checkpoint``: the step that resuming goes on from; ``rate`` in steps/s.
    """

    path: str
    state: str
    step: int
    total: int
    attempt: int
    stage: str
    host: str
    device: str
    silent_s: float | None
    checkpoint: int | None
    message: str
    hint: str
    rate: float | None
    eta_s: float | None
    train: dict[str, float] = field(default_factory=dict)
    val: dict[str, float] = field(default_factory=dict)


def describe(path: str | Path) -> Description:
    """Read a run's folder. Never raises for what its files hold; takes a moment for a long history."""
    follower = Follower(path)
    follower.read_all()
    now, status = follower.summary(), follower.run.read_status()
    started = follower.newest("started") or {}
    open_end = now.state == "lost" or bool(status and status.active)
    message, hint = _advice(follower, now.state, now.message)
    return Description(
        path=str(follower.run.path),
        state=now.state,
        step=now.step,
        total=now.total,
        attempt=now.attempt,
        stage=now.stage if now.state in ("preparing", "running", "stopping") else "",
        host=status.host if status else "",
        device=str(started.get("device", "")),
        silent_s=max(0.0, time.time() - status.heartbeat) if status and open_end else None,
        checkpoint=last_checkpoint(follower.run),
        message=message,
        hint=hint,
        rate=now.rate,
        eta_s=now.eta_s,
        train=now.train,
        val=now.val,
    )


def command_of(run: RunDirectory) -> str:
    """The command that made a run, by what its settings are about: ``pretrain`` or ``finetune``."""
    return command_by(files.read_json(run.settings_file))


def command_by(settings: object) -> str:
    """The same by the content of a run's settings.json."""
    return "finetune" if isinstance(settings, dict) and "patches" in settings else "pretrain"


def last_checkpoint(run: RunDirectory) -> int | None:
    """Step of the newest checkpoint whose manifest is there, None where there is none; files are not hashed."""
    steps = []
    for manifest in run.checkpoints.glob("step-*/manifest.json"):
        content = files.read_json(manifest)
        if isinstance(content, dict) and isinstance(content.get("step"), int):
            steps.append(content["step"])
    return max(steps, default=None)


def may_begin_again(run: RunDirectory) -> bool:
    """Whether a run's job has ended before its first step, so that nothing is lost if another takes its folder."""
    status = run.read_status()
    if status is None or status.state not in ("failed", "stopped") or not is_run(run.path):
        return False
    if any(run.checkpoints.glob("*")) or any(run.weights.glob("*")):
        return False
    return all(event["type"] not in ("progress", "metrics") for event in read_events(run.events_file))


# What the last look of a fine-tuning writes last: of test cases, or else of validation cases.
_LAST_LOOK = tuple(
    f"{folder}/{name}" for folder in ("test", "validation") for name in ("summary.json", "diagnoses.csv")
)


def at_work(run: RunDirectory) -> bool:
    """Whether a job works on a run: also one that is finished, as long as it looks at held-out cases for the last time
    or writes its report.
    """
    state = run.state()
    return state in ACTIVE or (state == "finished" and run.is_locked())


def end_is_missing(run: RunDirectory) -> bool:
    """Whether a finished run with weights lacks its report, or the scores of its held-out cases: its job was killed in
    the last look, or had no room for it. Resuming makes up for that.

    Of a run that was passed on, which lacks what is private, somebody may have left out the report as well; one that
    Python code has made has neither log nor report; and without a checkpoint all would be computed anew.
    """
    status = run.read_status()
    if status is None or status.state != "finished" or run.is_locked() or not any(run.weights.glob("*")):
        return False
    if not (run.private.is_dir() and run.log_file.is_file()) or last_checkpoint(run) is None:
        return False
    told = files.read_json(run.path / "environment.json")
    data = told.get("data") if isinstance(told, dict) else None
    held_out = isinstance(data, dict) and any(data.get(name) for name in ("held_out", "test"))
    looked = any((run.path / name).is_file() for name in _LAST_LOOK)
    owed = command_of(run) == "finetune" and held_out and not looked
    return owed or not (run.path / "report.html").is_file()


def checkpoint_words(run: RunDirectory) -> str:
    """What resuming would start from, in words."""
    step = last_checkpoint(run)
    return (
        "there is no checkpoint: resuming begins anew"
        if step is None
        else f"the last checkpoint is of step {step}"
    )


def failure(follower: Follower) -> VocoError:
    """Return the error that ended a failed or lost run, as its own command would have raised it."""
    state = follower.summary().state
    message, hint = _advice(follower, state, follower.summary().message)
    if state == "lost":
        return EnvironmentFault(f"the job in {follower.run.path} is lost: {message}", hint)
    kind = str(_error(follower, follower.summary().message).get("kind"))
    return kind_of(kind)(f"the job in {follower.run.path} failed: {message}", hint)


def under_way_words(description: Description) -> str:
    """How long a run has been silent, where that is worth saying; an empty text otherwise."""
    silent = description.silent_s
    if silent is None or (description.state != "lost" and silent < SILENT):
        return ""
    return f"last heard of {duration(silent)} ago" + (f" on {description.host}" if description.host else "")


def _advice(follower: Follower, state: str, message: str) -> tuple[str, str]:
    """What went wrong with a run, and what to do; empty where nothing did."""
    kept = last_checkpoint(follower.run)
    where = "begins anew: there is no checkpoint" if kept is None else f"goes on from step {kept}"
    resume = f"voco jobs resume {shell_word(follower.run.path)} {where}"
    if state == "lost":
        return LOST, resume
    if state == "finished" and end_is_missing(follower.run):
        return CUT, f"voco jobs resume {shell_word(follower.run.path)} makes up for it"
    if state != "failed":
        return message, ""
    error = _error(follower, message)
    said = str(error.get("message") or message or "it did not say why: see log.txt")
    said, hint = error_in_full(follower.run, said, str(error.get("hint") or ""))
    return said, f"{hint}; then {resume}" if hint else resume


def _error(follower: Follower, message: str) -> Event:
    """The event of the error that the status tells of; an empty one where it is that of an earlier attempt."""
    error = follower.newest("error") or {}
    return error if not message or error.get("message") == message else {}
