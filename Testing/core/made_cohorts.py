"""Settings of jobs of seconds, and synthetic cohorts that go with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.presets import resolve_pretrain
from VoCoCore.protocols import resolve_finetune
from VoCoCore.settings import PretrainSettings

# A network of seconds: four base crops of 32^3, four channels.
SMALL = {
    "preset": "tiny",
    "model.encoder": "unet",
    "model.feature_size": 4,
    "model.projector_width": 16,
    "crops.counts": "2,2,1",
    "optim.steps": 6,
    "optim.warmup": 1,
    "data.val_fraction": 0.3,
    "run.log_every": 1,
    "run.validate_every": 3,
    "run.validation_rounds": 1,
    "run.checkpoint_every": 3,
    "run.threads": 1,
    "run.device": "cpu",
    "data.workers": 0,
}


@dataclass(frozen=True)
class SmallCohort:
    """Where it lies; ``settings`` gives those of a small job on it, with changes by dotted name."""

    source: Path
    store: Path

    def settings(self, recipe: str = "paper", **changes: Any) -> PretrainSettings:
        places = {"data.source": str(self.source), "data.store": str(self.store)}
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return resolve_pretrain({}, {**SMALL, "recipe": recipe, **places, **named})


# A segmentation network of seconds.
SMALL_FINETUNE = {
    "model.encoder": "unet",
    "model.feature_size": 4,
    "patches.size": "32,32,32",
    "prepare.spacing": "8,8,10",
    "optim.steps": 6,
    "optim.batch": 2,
    "patches.per_case": 1,
    "data.val_fraction": 0.34,
    "run.log_every": 1,
    "run.validate_every": 3,
    "run.checkpoint_every": 3,
    "run.threads": 1,
    "run.device": "cpu",
    "data.workers": 0,
}


@dataclass(frozen=True)
class LabelledCohort:
    """Where labelled cases lie; ``settings`` gives those of a small fine-tuning on them."""

    source: Path
    store: Path

    def settings(self, **changes: Any) -> FinetuneSettings:
        places = {"data.source": str(self.source), "data.store": str(self.store)}
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return resolve_finetune({}, {**SMALL_FINETUNE, **places, **named})
