"""Make the folder of a new run, or open the one to go on with and see that it is the same job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from VoCoCore.errors import SettingsError
from VoCoCore.fields import Group
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.training.checkpoint import checkpoints
from VoCoCore.training.cohort import PLACES, forget_cohort, places_of


def open_run(settings: Group, folder: Path, environment: dict[str, Any], resume: bool) -> RunDirectory:
    if not resume:
        run = RunDirectory.create(folder, public(settings), environment)
        run.write_json(f"private/{PLACES}", places_of(settings))
        return run
    run = RunDirectory.open(folder)
    changed = _changed(settings, run)
    if changed and checkpoints(run.checkpoints):
        raise SettingsError(
            f"the run {folder} was begun with other settings: {', '.join(changed[:5])}",
            "resume without them, or start a new run folder",
        )
    return run


def take_up(settings: Group, run: RunDirectory) -> None:
    """Let a run that has computed nothing yet be tried with other settings; for the holder of its lock."""
    if _changed(settings, run) and not checkpoints(run.checkpoints):
        forget_cohort(run)  # its volumes may have been prepared in another way
        run.write_json("settings.json", public(settings))


def _changed(settings: Group, run: RunDirectory) -> list[str]:
    """Names of settings with another value than in the run; one that is left open now is no other value."""
    try:
        before, now = (
            dict(type(settings).from_dict(d).flat()) for d in (run.read_settings(), public(settings))
        )
    except SettingsError as error:
        raise SettingsError(
            f"the settings of {run.path} are of another job: {error.message}",
            "resume it with its own command",
        ) from None
    return [name for name in now if now[name] not in (None, before[name]) and name not in MAY_CHANGE]


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
    "run.hours",
}


def public(settings: Group) -> dict[str, Any]:
    """Settings as they may be shown to anyone: without the paths of this machine."""
    hidden = {option.name: option.default for option in settings.options() if option.facts["private"]}
    return settings.with_values(hidden).to_dict()
