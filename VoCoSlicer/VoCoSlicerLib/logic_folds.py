"""All folds of a cross-validation, one after the other, as one process of its own that goes on without Slicer.

`voco finetune` makes a run for each fold in the folder given; the launch follows the first of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from VoCoCore.errors import SettingsError
from VoCoCore.runs import launch
from VoCoCore.runs.directory import is_run
from VoCoCore.runs.files import write_json, writing
from VoCoSlicerLib.logic_steps import PAUSE
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


def laterFolds(first: Path, started: launch.Launch) -> Iterator[Path]:
    """The runs after the ``first`` one, each as it begins, until the process that was ``started`` has ended."""
    for number in count(1):
        fold = first.with_name(f"fold-{number}")
        while not is_run(fold):
            if started.exit_code is not None:
                return
            time.sleep(PAUSE)
        yield fold
