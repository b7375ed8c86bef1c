"""How an attempt ends: finished, stopped or failed, said in the run's folder and as an error of ours."""

from __future__ import annotations

import traceback
from contextlib import suppress

from VoCoCore.errors import StopRequested, VocoError
from VoCoCore.runs.describe import command_of, last_checkpoint
from VoCoCore.runs.directory import RunDirectory


def stopped(run: RunDirectory, step: int, message: str = "") -> None:
    """Somebody asked the job to end; ``step`` is how far it came."""
    run.events.emit("finished", state="stopped", step=step)
    run.write_status("stopped", step, message=message)


def cut_short(run: RunDirectory) -> StopRequested:
    """Somebody interrupted the job for good: what the last checkpoint holds stays, what came after it is lost."""
    step = last_checkpoint(run) or 0
    message = (
        f"ended at once; the last checkpoint is of step {step}" if step else "ended at once, at its start"
    )
    with suppress(Exception):
        stopped(run, step, message)
        run.log(message)
    return StopRequested(message, f"voco {command_of(run)} --run {run.path} --resume goes on from there")


def failed(run: RunDirectory, error: BaseException) -> None:
    """An error ended the job. What an error of ours says stands in status, events and log; others leave a trace."""
    if isinstance(error, VocoError):
        message, hint = error.message, error.hint
    else:
        message = f"{type(error).__name__}: {error}"
        hint = "a defect of ours or of a library: log.txt has the trace"
        with suppress(Exception):
            run.log("".join(traceback.format_exception(error)))
    for say in (
        lambda: run.events.emit("error", kind=type(error).__name__, message=message, hint=hint),
        lambda: run.log(f"error: {message}  ({hint})"),
        lambda: run.write_status("failed", message=message),
    ):
        with suppress(Exception):
            say()
