"""Make the folder of a new run, or open the one to go on with and see that it is the same job."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from VoCoCore.errors import SettingsError
from VoCoCore.fields import Group, flatten
from VoCoCore.runs.describe import may_begin_again
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.files import read_json
from VoCoCore.training.checkpoint import checkpoints
from VoCoCore.training.cohort import PLACES, forget_cohort, places_of

SomeGroup = TypeVar("SomeGroup", bound=Group)


def open_run(settings: Group, folder: Path, environment: dict[str, Any], resume: bool) -> RunDirectory:
    """The run at ``folder``: a new one, the one to go on with, or one of the same kind that was refused before its
    first step, so that the same command can be given again. Raises SettingsError, EnvironmentFault.
    """
    if not resume and not _may_take(settings, RunDirectory(folder)):
        return RunDirectory.create(folder, public(settings), environment)
    run = RunDirectory.open(folder)
    changed = _changed(settings, run)
    if changed and checkpoints(run.checkpoints):
        raise SettingsError(
            f"the run {folder} was begun with other settings: {', '.join(changed[:5])}",
            "resume without them, or start a new run folder",
        )
    return run


def _may_take(settings: Group, run: RunDirectory) -> bool:
    try:
        return may_begin_again(run) and bool(type(settings).from_dict(run.read_settings()))
    except SettingsError:
        return False  # of another kind of job, or damaged


def take_up(settings: Group, run: RunDirectory, anew: bool) -> None:
    """Let a run that has computed nothing yet be tried with other settings or data; for the holder of its lock.

    ``anew``: it is no resuming, so that the cases are looked for again in any case.
    """
    if checkpoints(run.checkpoints):
        return
    places = places_of(settings)
    if anew or _changed(settings, run) or read_json(run.private / PLACES) != places:
        forget_cohort(run)  # its volumes may be others, or have been prepared in another way
        run.write_json("settings.json", public(settings))
        run.write_json(f"private/{ASKED}", public(settings))
        run.write_json(f"private/{PLACES}", places)


def _changed(settings: Group, run: RunDirectory) -> list[str]:
    """Names of settings with another value than the run has, and than it was asked for when it began."""
    try:
        before, now = (
            dict(type(settings).from_dict(d).flat()) for d in (run.read_settings(), public(settings))
        )
    except SettingsError as error:
        raise SettingsError(
            f"the settings of {run.path} are of another job: {error.message}",
            "resume it with its own command",
        ) from None
    asked = asked_of(run)
    return [
        name
        for name in now
        if now[name] not in (before[name], asked.get(name, before[name])) and name not in MAY_CHANGE
    ]


ASKED = "asked.json"


def asked_of(run: RunDirectory) -> dict[str, Any]:
    """The settings that a run was begun with, by dotted name, before what they left open was chosen."""
    found = read_json(run.private / ASKED)
    return dict(flatten(found)) if isinstance(found, dict) else {}


def as_chosen(settings: SomeGroup, run: RunDirectory) -> SomeGroup:
    """``settings`` with what the run has chosen in the place of what was left open."""
    asked, kept = asked_of(run), dict(type(settings).from_dict(run.read_settings()).flat())
    return settings.with_values(
        {name: kept[name] for name, value in settings.flat().items() if value == asked.get(name, kept[name])}
    )


# Settings that do not change what is computed, or only where.
MAY_CHANGE = {
    "data.workers",
    "data.skip_bad",
    "model.checkpointing",
    "run.device",
    "run.threads",
    "run.log_every",
    "run.checkpoint_every",
    "run.compile",
    "run.overlap",
}


def public(settings: Group) -> dict[str, Any]:
    """Settings as they may be shown to anyone: without the paths of this machine."""
    hidden = {option.name: option.default for option in settings.options() if option.facts["private"]}
    return settings.with_values(hidden).to_dict()
