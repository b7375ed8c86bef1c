"""How an attempt ends: finished, stopped or failed, said in the run's folder and as an error of ours."""

from __future__ import annotations

import traceback
from contextlib import suppress

from VoCoCore.data.private_names import names_in
from VoCoCore.errors import DataError, StopRequested, VocoError
from VoCoCore.runs.describe import command_of, last_checkpoint
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.privacy import keep_error, without_names

# What is shown of an error in data of which nobody knows yet what their cases are called.
UNKNOWN = (
    "what the job was given cannot be used",
    "private/error.json in the run's folder says what, and why",
)


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
    """An error ended the job. What an error of ours says stands in log and private/error.json, and without names in
    status and events, which may be passed on; others leave a trace in the log.
    """
    if isinstance(error, VocoError):
        message, hint = error.message, error.hint
    else:
        message = f"{type(error).__name__}: {error}"
        hint = "a defect of ours or of a library: log.txt has the trace"
        with suppress(Exception):
            run.log("".join(traceback.format_exception(error)))
    shown, advice = UNKNOWN if _names_unknown(run, error) else _shown(run, message, hint)
    for say in (
        lambda: keep_error(run, shown, message, hint),
        lambda: run.events.emit("error", kind=type(error).__name__, message=shown, hint=advice),
        lambda: run.log(f"error: {message}  ({hint})"),
        lambda: run.write_status("failed", message=shown),
    ):
        with suppress(Exception):
            say()


def _names_unknown(run: RunDirectory, error: BaseException) -> bool:
    """Whether an error may name cases that are not listed; a list without a cohort is that of other data."""
    return isinstance(error, DataError) and run.names is None and not (run.private / "cohort.json").is_file()


def _shown(run: RunDirectory, message: str, hint: str) -> tuple[str, str]:
    names = run.names if run.names is not None else names_in(run.private / "index.json")
    return without_names(message, names), without_names(hint, names)
