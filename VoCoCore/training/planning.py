"""What a fine-tuning leaves open, chosen from the cases, the weights it starts from, the machine and the time.

Every choice is said with its reason; the run's settings.json then holds the values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from VoCoCore.devices import Machine
from VoCoCore.errors import counted
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.models.identify import CLASSIFIER, ENCODER, TRANSFORMER
from VoCoCore.runs.narrate import setting
from VoCoCore.settings import ENCODER_LIMITS
from VoCoCore.training.case_facts import Facts
from VoCoCore.training.crop_plan import Need, cases_and_crops, crop_size, flips_for
from VoCoCore.training.finetune_needs import SHARE
from VoCoCore.training.takeover import card_preparation

MOST_STRETCH = 3.0  # between the cases' voxel size and that of pre-training, along any axis
AIR = -1024.0  # HU, below which nothing is seen
LONGEST = 320  # voxels along an axis beyond which cases are made coarser
# Voxels of a crop, at most: on a processor what a short job has time for, else what a network learns the body from.
CROP_VOXELS = {"cpu": 50_000, "mps": 1_000_000, "cuda": 1_000_000}
# Cases a step and crops of each, at most: more of them would only make fewer steps of the same time.
CASES = {"cpu": 2, "mps": 2, "cuda": 4}
CROPS = {"cpu": 2, "mps": 2, "cuda": 4}
STEPS = {"cpu": 1500, "mps": 10_000, "cuda": 25_000}
LEAST_EPOCHS = 10  # of a length that is chosen here
FEATURES = {"cpu": 12, "mps": 24, "cuda": 48}
# The small U-Net learns in a third of the steps at this rate (docs/evidence.md); wide networks and transformers do not.
SMALL_UNET, QUICK_RATE, USUAL_RATE = 16, 4e-3, 1e-3
# At the decoder's high rate a small encoder forgets within a few steps what it was pre-trained for (docs/evidence.md).
TRAINED_SHARE = 0.3


class Planner:
    """Fills what is None, one choice after the other, and keeps the reasons."""

    def __init__(
        self,
        settings: FinetuneSettings,
        facts: Facts,
        source: Mapping[str, str],
        machine: Machine,
        measure: Callable[[FinetuneSettings], Need | None] = lambda settings: None,
    ) -> None:
        """``source``: metadata of the weights to start from (empty from scratch); ``measure``: what a crop needs."""
        self.settings, self.facts, self.source, self.machine = settings, facts, source, machine
        self.reasons, self._try, self._tried = list[str](), measure, dict[Any, Need | None]()

    def plan(self) -> tuple[FinetuneSettings, list[str]]:
        """The settings with every value, and the reasons for those that were chosen here."""
        self._network()
        self._intensity()
        self._spacing()
        self._size()
        self._batch()
        self._steps()
        self._rate()
        self._encoder_rate()
        return self.settings, self.reasons

    def _choose(self, changes: Mapping[str, Any], reason: str) -> None:
        self.settings = self.settings.with_values(changes)
        shown = ", ".join(f"{name} {setting(value)}" for name, value in changes.items())
        self.reasons.append(f"{shown}: {reason}")

    def _network(self) -> None:
        model = self.settings.model
        if model.encoder is None:
            found = self.source.get("encoder")
            self._choose(
                {"model.encoder": found or "unet"},
                "as in the weights it starts from" if found else "the quickest, and good with few cases",
            )
        if model.feature_size is None:
            found = self.source.get("feature_size")
            kind = self.machine.device.type
            self._choose(
                {"model.feature_size": int(found) if found else FEATURES[kind]},
                "as in the weights it starts from" if found else f"what suits a {kind.upper()}",
            )

    def _rate(self) -> None:
        if self.settings.optim.lr is not None:
            return
        if self._quick():
            self._choose({"optim.lr": QUICK_RATE}, "a small U-Net takes steps this long")
        else:
            self._choose({"optim.lr": USUAL_RATE}, "what most networks take")

    def _encoder_rate(self) -> None:
        if self.settings.optim.encoder_lr is not None:
            return
        if self.source.get("holds") in (ENCODER, CLASSIFIER, TRANSFORMER) and self._quick():
            self._choose(
                {"optim.encoder_lr": TRAINED_SHARE}, "the encoder has learnt already, the decoder has not"
            )
        else:
            self.settings = self.settings.with_values({"optim.encoder_lr": 1.0})

    def _quick(self) -> bool:
        """Whether the network is a small U-Net that segments: only these learn at the high rate."""
        model = self.settings.model
        assert model.feature_size
        small = model.encoder == "unet" and model.feature_size <= SMALL_UNET
        return small and self.settings.task == "segmentation"

    def _intensity(self) -> None:
        """The same map to [0, 1] as in pre-training, or a window around what is labelled."""
        prepare = self.settings.prepare
        if self.settings.protocol != "auto" or card_preparation(self.source):
            return  # what a fine-tuned network was trained with is taken over as a whole (`takeover`)
        parent = _prepare_of(self.source)
        if prepare.intensity == "auto" and parent and parent.get("intensity") != "auto":
            self._choose({"prepare.intensity": parent["intensity"]}, "as in pre-training")
        elif prepare.intensity == "auto" and self.facts.kind != "auto":
            self._choose(
                {"prepare.intensity": self.facts.kind},
                "the values of the cases look like it",
            )
        if self.settings.prepare.intensity == "mr" or prepare.window is not None:
            return
        if parent and parent.get("window"):
            self._choose({"prepare.window": tuple(parent["window"])}, "as in pre-training")
        elif self.facts.under_labels and self.settings.prepare.intensity == "ct":
            low, high = self.facts.under_labels
            margin = 0.25 * max(high - low, 100.0)
            window = (max(AIR, round((low - margin) / 5) * 5.0), round((high + margin) / 5) * 5.0)
            self._choose(
                {"prepare.window": window}, f"labelled voxels lie between {low:.0f} and {high:.0f} HU"
            )

    def _spacing(self) -> None:
        if self.settings.task != "segmentation" or self.settings.prepare.spacing is not None:
            return
        usual, parent = self.facts.spacing, _spacing_of(self.source)
        if parent is not None and np.all(np.abs(np.log(parent / usual)) < np.log(MOST_STRETCH)):
            values = tuple(float(edge) for edge in parent)
            self._choose({"prepare.spacing": values}, "the mean of the volumes in pre-training")
            return
        coarser = np.maximum(usual, self.facts.extent / LONGEST)
        spacing = tuple(float(f"{edge:.3g}") for edge in coarser)
        why = "the median of the cases"
        if np.any(coarser > usual * 1.001):
            why += f", coarser where a case would have more than {LONGEST} voxels along an axis"
        self._choose({"prepare.spacing": spacing}, why)

    def _size(self) -> None:
        if self.settings.patches.size is not None:
            return
        spacing = self.settings.prepare.spacing
        voxels, weight = self.facts.voxels(spacing), np.asarray(spacing or 1 / self.facts.extent)
        assert self.settings.model.encoder
        low, step = ENCODER_LIMITS[self.settings.model.encoder]
        kind = self.machine.device.type
        most, why = float(CROP_VOXELS[kind]), f"as many as suit a {kind.upper()}"
        while True:
            size = crop_size(voxels, weight, low, step, most)
            trial = self.settings.with_values({"patches.size": size})
            need = self._need(trial)
            if need is None or need.crops > 0 or np.prod(size) <= low**3:
                break
            most, why = float(np.prod(size)) / 2, f"all that {need.room:,.0f} MB of memory take"
        mm = tuple(round(float(edge)) for edge in np.multiply(size, weight))
        shape = f"a part of {setting(mm)} mm, as near to a cube as may be,"
        if self.settings.task != "segmentation":
            shape = "every case is resized to it, in voxels as near to a cube as may be; the median one"
        elif np.all(np.greater_equal(size, voxels)):
            shape = "the whole"
        of = f"of a median case ({setting(tuple(voxels))} voxels)"
        if self.settings.task != "segmentation":
            of = f"has {setting(tuple(voxels))} voxels"
        self._choose({"patches.size": size}, f"{shape} {of}; {why}")

    def _need(self, settings: FinetuneSettings) -> Need | None:
        size = settings.patches.size
        if size not in self._tried:
            self._tried[size] = self._try(settings)
        return self._tried[size]

    def _batch(self) -> None:
        """Cases a step and crops of each: as many as suit the device, fewer where memory or time ask for it."""
        optim, patches, kind = self.settings.optim, self.settings.patches, self.machine.device.type
        if optim.batch is not None and patches.per_case is not None:
            return
        ranks, there = self.machine.ranks, min(CASES[kind], self.facts.cases)
        cases, each = max(1, -(-there // ranks)), CASES[kind] * CROPS[kind] // max(1, there)
        if self.settings.task != "segmentation":
            each = 1  # a case is seen whole
        fit, why = cases * each, f"as many as suit a {kind.upper()}"
        need = self._need(self.settings)
        if need is not None:
            why += f", and about {need.fixed + fit * need.crop:,.0f} of {need.room:,.0f} MB of memory"
            if need.crops < fit:
                fit, why = max(1, need.crops), f"what {need.room:,.0f} MB of memory take"
            timely = self._in_time(need, optim.accumulate)
            if timely < fit:
                fit, why = timely, f"so that {self.settings.run.hours:g} h are enough for {STEPS[kind]} steps"
        asked = None if optim.batch is None else max(1, optim.batch // ranks)
        cases, each = cases_and_crops(cases, each, fit, (asked, patches.per_case))
        wanted = {"optim.batch": (optim.batch, cases * ranks), "patches.per_case": (patches.per_case, each)}
        chosen = {name: value for name, (given, value) in wanted.items() if given is None}
        self._choose(chosen, f"{counted(cases * ranks * each, 'crop')} a step, {why}")

    def _in_time(self, need: Need, accumulate: int) -> int:
        """Crops a step with which the hours are enough for the usual number of steps, where they say how many steps
        there are; at least one."""
        hours, optim = self.settings.run.hours, self.settings.optim
        if hours is None or optim.steps is not None or optim.epochs is not None or not need.seconds:
            return 1 << 30
        return max(1, int(hours * 3600 * SHARE / STEPS[self.machine.device.type] / need.seconds / accumulate))

    def _steps(self) -> None:
        optim, run = self.settings.optim, self.settings.run
        assert optim.batch
        per_epoch = max(1.0, self.facts.cases / (optim.batch * optim.accumulate))
        if optim.steps is None and optim.epochs is not None:
            self._choose(
                {"optim.steps": max(1, round(optim.epochs * per_epoch))},
                f"{optim.epochs:g} epochs of {counted(self.facts.cases, 'case')}, {optim.batch} a step",
            )
        elif optim.steps is None and run.hours is None:
            kind = self.machine.device.type
            usual, least = STEPS[kind], round(LEAST_EPOCHS * per_epoch)
            why = (
                f"usual on a {kind.upper()}"
                if usual >= least
                else f"so many cases take {LEAST_EPOCHS} epochs"
            )
            steps = max(usual, least)
            epochs = f"{steps / per_epoch:.3g} epochs of {counted(self.facts.cases, 'case')}"
            self._choose({"optim.steps": steps}, f"{epochs}, {why}; set --steps, optim.epochs or --hours")


def with_flips(settings: FinetuneSettings, names: Sequence[str]) -> tuple[FinetuneSettings, list[str]]:
    """The settings with flips, and why, where they were left open; ``names`` of the classes."""
    if settings.augment.flip is not None:
        return settings, []
    flips, why = flips_for(names)
    return settings.with_values({"augment.flip": flips}), [f"augment.flip {setting(flips)}: {why}"]


def finished_plan(settings: FinetuneSettings) -> FinetuneSettings:
    """Values that follow from the number of steps."""
    optim, run = settings.optim, settings.run
    assert optim.steps
    changes = {
        "optim.warmup": round(optim.warmup_share * optim.steps) if optim.warmup is None else optim.warmup,
        "run.validate_every": run.validate_every or max(1, optim.steps // 10),
        "run.checkpoint_every": run.checkpoint_every or min(1000, max(1, optim.steps // 10)),
    }
    return settings.with_values(changes)


def is_planned(settings: FinetuneSettings) -> bool:
    """Whether nothing is left open."""
    optim = settings.optim
    model, patches = settings.model, settings.patches
    needed = (model.encoder, model.feature_size, patches.size, patches.per_case, optim.batch, optim.lr)
    length = (optim.steps, optim.warmup, settings.run.validate_every)
    return all(value is not None for value in (*needed, optim.encoder_lr, *length))


def _spacing_of(source: Mapping[str, str]) -> np.ndarray | None:
    """Mean voxel size (3,) that the weights were pre-trained at; None where it is not known."""
    try:
        found = np.asarray([float(edge) for edge in source.get("spacing", "").split(",")])
    except ValueError:
        return None
    return found if found.shape == (3,) and np.all((found > 0) & np.isfinite(found)) else None


def _prepare_of(source: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = json.loads(source.get("prepare", "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and not found.get("by_body_part") else {}
