"""Pre-training as one job: prepare, train, look at held-out volumes, leave weights. Everything goes to a run folder."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from VoCoCore import __version__
from VoCoCore.data.loading import Numbers, Samples, make_loader
from VoCoCore.data.patients import grouped
from VoCoCore.data.sampling import TRAIN, VALIDATION
from VoCoCore.errors import EnvironmentFault
from VoCoCore.models.compiling import compile_encoders, uncompiled
from VoCoCore.models.initialise import initialise
from VoCoCore.models.weights import save_weights
from VoCoCore.pretext.build import build_task, encoder_factory
from VoCoCore.settings import SCRATCH, PretrainSettings
from VoCoCore.training import memory, validation
from VoCoCore.training.attempt import Attempt, Result, carry_out
from VoCoCore.training.checkpoint import checkpoints
from VoCoCore.training.cohort import Cohort, gather_cohort
from VoCoCore.training.loop import Look
from VoCoCore.training.pictures import keep_pictures
from VoCoCore.training.pretrain_warnings import warnings_of

__all__ = ["Pretraining", "Result", "pretrain"]


class Pretraining(Attempt):
    """One attempt at pre-training; `pretrain` is the way to it."""

    settings: PretrainSettings
    cohort: Cohort

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.channels, self.room = 1, memory.room_mb(self.machine)
        self.untrained: list[str] = []

    def gather(self) -> None:
        """Prepare the volumes, or find those that the first rank prepared."""
        self.cohort = gather_cohort(self.settings, self.run, self.emit, self.should_stop_alone)
        self.channels = self.cohort.channels

    def facts(self) -> dict[str, Any]:
        """Counts and a fingerprint."""
        return self.cohort.facts()

    def say_needs(self) -> None:
        """Memory, disk and time, by an estimate; and whether crops of this size can teach this network."""
        memory.say_needs(self.settings, self.machine, self.channels, self.room, self.run.path, self.emit)
        for message, hint in warnings_of(self.settings):
            self.emit("warning", message=message, hint=hint)

    def out_of_memory(self) -> EnvironmentFault:
        """What there was, and settings that would fit."""
        return memory.out_of_memory(self.settings, self.machine, self.channels, self.room)

    def build(self) -> Any:
        """The pretext task around a new encoder."""
        task = build_task(self.settings, encoder_factory(self.settings, self.channels)).to(
            self.machine.device
        )
        encoder = task.export()
        self.untrained = list(encoder.unreached)
        if not checkpoints(self.run.checkpoints):
            coverage = initialise(encoder, self.settings.init)
            if coverage is not None:
                self.untrained = [part for part in self.untrained if coverage.lacks(part)]
                self.emit("stage", name="weights", text=coverage.summary())
        if self.settings.run.compile:
            compile_encoders(task, self.emit)
        return task

    def samples(self) -> Samples:
        """Regions of the training volumes with what to cut from them."""
        views = partial(_views, type(self.task), self.settings, TRAIN)
        return Samples(Path(self.cohort.store), self.cohort.train, views, seed=self.settings.run.seed)

    @uncompiled()
    def look(self, done: int) -> Look:
        """Position accuracy on held-out volumes, whose batches are divided among the ranks."""
        if not self.cohort.val:
            return Look()
        settings, val = self.settings, validation.looked_at(self.cohort.val)
        views = partial(_views, type(self.task), settings, VALIDATION)
        samples = Samples(Path(self.cohort.store), val, views)
        numbers = Numbers(0, len(val) * settings.run.validation_rounds, min(settings.optim.batch, len(val)))
        mine = validation.share_of(list(numbers), self.machine.rank, self.machine.ranks)
        batches = make_loader(samples, mine, 0, False)
        seen = validation.look(self.task, batches, self.machine, self.ranks, self.breaks_off)
        if seen is None:
            return Look(owed=True)
        values = validation.score(seen, settings.crops, grouped(val, self.cohort.held_out_patients))
        # Asked of all, because their machines may round the mean of the same answers differently.
        self.is_best = self.ranks.any(values["position_accuracy"] > self.best)
        self.best = max(self.best, values["position_accuracy"])
        self.emit("metrics", step=done, split="val", values=values)
        if self.machine.main:
            keep_pictures(self.run.validation / "latest.npz", samples, seen, settings.crops, done)
            self.emit("image", file="validation/latest.npz", step=done)
        return Look(better=self.is_best)

    def kept(self) -> dict[str, Any]:
        """The best accuracy so far, and which parts of the encoder nothing has trained, here or before."""
        return {**super().kept(), "untrained": self.untrained}

    def take_up(self, extra: dict[str, Any]) -> None:
        """Take up what `kept` gave."""
        super().take_up(extra)
        # Of an older checkpoint: what came from a file is kept.
        whole = self.untrained if self.settings.init == SCRATCH else []
        self.untrained = extra.get("untrained", whole)

    def export(self, done: int) -> Path:
        """The encoder, with what fine-tuning and a reader want to know of it."""
        model, path = self.settings.model, self.run.weights / "encoder.safetensors"
        if self.machine.main:
            facts = {
                "what": "VoCo pre-trained encoder",
                "encoder": model.encoder,
                "feature_size": str(model.feature_size),
                "in_channels": str(self.cohort.channels),
                "input_size": ",".join(str(edge) for edge in self.settings.crops.input_size or ()),
                "recipe": self.settings.recipe,
                "steps": str(done),
                "data": self.cohort.fingerprint,
                "run": self.run.name,
                "vococore": __version__,
                "prepare": json.dumps(self.settings.prepare.to_dict(), sort_keys=True),
                "spacing": ",".join(f"{edge:.4g}" for edge in self.cohort.spacing),
                "seen": ",".join(self.cohort.seen),
            }
            save_weights(self.task.export(), path, facts, self.untrained)
        return path


def _views(
    task: Any, settings: PretrainSettings, stream: int, number: int, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    return task.views(settings, number, shape, stream)


def pretrain(settings: PretrainSettings, run_folder: str | Path, **options: Any) -> Result:
    """Pre-train an encoder as ``settings`` (complete, see `presets.resolve_pretrain`) say, in ``run_folder``.

    ``options`` are those of `attempt.carry_out`, which says what is raised.
    """
    return carry_out(Pretraining, settings, run_folder, **options)
