"""Make the folder of a new run, or open the one to go on with and see that it is the same job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from VoCoCore.errors import SettingsError
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.settings import PretrainSettings
from VoCoCore.training.checkpoint import checkpoints


def open_run(
    settings: PretrainSettings, folder: Path, environment: dict[str, Any], resume: bool
) -> RunDirectory:
    if not resume:
        run = RunDirectory.create(folder, public(settings), environment)
        places = {"data.source": settings.data.source, "data.store": settings.data.store}
        run.write_json(
            "private/places.json", {name: value and os.path.abspath(value) for name, value in places.items()}
        )
        return run
    run = RunDirectory.open(folder)
    before, now = (
        dict(PretrainSettings.from_dict(d).flat()) for d in (run.read_settings(), public(settings))
    )
    changed = [name for name in now if before[name] != now[name] and name not in MAY_CHANGE]
    if changed and not checkpoints(run.checkpoints):
        run.write_json("settings.json", public(settings))  # nothing has been computed with the old ones
    elif changed:
        raise SettingsError(
            f"the run {folder} was begun with other settings: {', '.join(changed[:5])}",
            "resume without them, or start a new run folder",
        )
    return run


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
}


def public(settings: PretrainSettings) -> dict[str, Any]:
    """Settings as they may be shown to anyone: without the paths of this machine."""
    hidden = {option.name: option.default for option in settings.options() if option.facts["private"]}
    return settings.with_values(hidden).to_dict()
