"""How many folds a fine-tuning has: a list of cases that numbers them goes before the setting."""

from __future__ import annotations

import os
from dataclasses import replace

from VoCoCore.data.sources import index_source
from VoCoCore.data.splits import count_folds
from VoCoCore.errors import SettingsError
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.training.labelled_cohort import is_labelled


def number_of_folds(settings: FinetuneSettings, asked: bool) -> int:
    """The folds of the list of cases, or else ``data.folds``; ``asked``: that setting was given by the user.

    Raises SettingsError where the list has another number than was asked for, or a fold without patients.
    """
    data = settings.data
    # A folder has no folds, and looking through it takes its time.
    if not data.source or not os.path.isfile(os.path.expanduser(data.source)):
        return data.folds
    index = index_source(data.source, body_part=data.body_part)
    known = [case for case in index.cases if is_labelled(case, settings.task)]
    folds = count_folds(replace(index, cases=tuple(known[: data.limit])), data.folds)
    if asked and folds != data.folds:
        raise SettingsError(
            f"data.folds is {data.folds}, but {data.source} has {folds} folds",
            "leave data.folds out, or change the folds of the list",
        )
    return folds
