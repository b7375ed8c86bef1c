"""All folds of a cross-validation, one after the other, as one process of its own that goes on without Slicer.

`voco finetune` makes a run for each fold in the folder given; the launch follows the first of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from VoCoCore.errors import SettingsError
from VoCoCore.runs import launch
from VoCoCore.runs.files import write_json, writing
from VoCoSlicerLib.pythons import environOf

CONFIG = "all-folds.json"  # each fold reads it when its turn comes, so it stays


def firstFold(folder: Path) -> Path:
    """The run that the folds in ``folder`` begin with."""
    return folder / "fold-0"


def startFolds(settings: Mapping[str, Any], folder: Path, python: str) -> launch.Launch:
    """Start all folds in the new folder ``folder``; the launch says when the first one has reported.

    Raises SettingsError where something is there already, EnvironmentFault where it cannot be written or started.
    """
    if firstFold(folder).exists():
        raise SettingsError(f"{folder} already holds folds", "choose a new folder")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    config = folder / CONFIG
    write_json(config, dict(settings))
    words = ["finetune", "--run", str(folder), "--config", str(config)]
    return launch.start(firstFold(folder), words, python=python, environ=environOf(python))
