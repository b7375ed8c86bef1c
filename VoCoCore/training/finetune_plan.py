"""What a fine-tuning will be, before anything is prepared: cases, classes, settings with nothing left open, network.

A job and its estimate both plan here, so that the one does what the other says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from VoCoCore.data.cases import Index
from VoCoCore.devices import Machine
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.models.card import OutputClass
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.identify import identify
from VoCoCore.models.networks import ClassificationNetwork, SegmentationNetwork
from VoCoCore.models.weight_files import read_weight_file
from VoCoCore.protocols import check_finetune
from VoCoCore.runs.weights import weights_file
from VoCoCore.settings import SCRATCH
from VoCoCore.training.case_facts import Facts, facts_of
from VoCoCore.training.finetune_needs import MB, need_of, needs_of, steps_in
from VoCoCore.training.labelled_cohort import classes_of, labelled_index
from VoCoCore.training.needs import FinetuneNeeds
from VoCoCore.training.planning import Planner, finished_plan, is_planned, with_flips
from VoCoCore.training.takeover import with_card

Say = Callable[[str], None]


@dataclass(frozen=True)
class Planned:
    """A fine-tuning with nothing left open but, where the time is given, its number of steps.

    ``unlabelled``: cases without a label, left aside; ``facts``: of the cases, where something was chosen by them.
    """

    settings: FinetuneSettings
    index: Index
    unlabelled: int
    classes: tuple[OutputClass, ...]
    activation: str
    facts: Facts | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the images of a case."""
        return tuple(self.index.channels)

    def network(self) -> Any:
        """A new network with random weights."""
        return network_of(self.settings, len(self.channels), len(self.classes))


def planned(
    settings: FinetuneSettings, source: dict[str, str], machine: Machine, say: Say, join: bool = True
) -> Planned:
    """Find the cases and choose what ``settings`` leave open; ``say`` hears the reason of each choice.

    ``source``: `source_of` the weights; ``join`` as of `labelled_index`. Raises DataError, SettingsError as the job
    does.
    """
    index, unlabelled = labelled_index(settings, join)
    settings = _with_count(settings, index, say)
    classes, activation = classes_of(index, settings)

    def need(trial: FinetuneSettings) -> Any:
        network = network_of(trial, len(index.channels), len(classes))
        return need_of(trial, network, len(index.channels), machine)

    settings, facts = _taken(*with_card(settings, source), say), None
    if not is_planned(settings):
        facts = facts_of(index, settings)
        settings = _taken(*Planner(settings, facts, source, machine, need).plan(), say)
    settings = _taken(*with_flips(settings, [kind.name for kind in classes]), say)
    return Planned(settings, index, unlabelled, classes, activation, facts)


def with_steps(plan: Planned, machine: Machine, say: Say) -> Planned:
    """The plan with a number of steps, which may depend on how long one takes, and with what follows from it."""
    settings = plan.settings
    if settings.optim.steps is None:
        steps, reason = steps_in(settings, plan.network(), len(plan.channels), machine)
        settings = settings.with_values({"optim.steps": steps})
        say(reason)
    settings = finished_plan(settings)
    check_finetune(settings)
    return replace(plan, settings=settings)


def source_of(init: str) -> dict[str, str]:
    """What the weights to start from say of themselves, under ``holds`` what `identify` says; empty from scratch."""
    if init == SCRATCH:
        return {}
    file = read_weight_file(weights_file(init))
    found = identify(file)
    return {**(found.encoder or {}), **file.metadata, "holds": found.kind}


def network_of(settings: FinetuneSettings, channels: int, classes: int) -> Any:
    """A new network with random weights, as ``settings`` have it."""
    model, size = settings.model, settings.patches.size
    assert model.encoder and model.feature_size and size
    encoder = build_encoder(model.encoder, channels, model.feature_size, size, model.checkpointing)
    if settings.task == "segmentation":
        return SegmentationNetwork(encoder, classes, deep=model.deep_supervision)
    return ClassificationNetwork(encoder, classes, model.dropout)


def estimate_finetune(settings: FinetuneSettings, machine: Machine, say: Say) -> FinetuneNeeds:
    """What the fine-tuning that ``settings`` describe will need; all folds where data.fold is "all".

    Looks at the cases as the job itself will, and prepares none.
    """
    runs = settings.data.folds if settings.data.fold == "all" else 1
    if runs > 1:
        settings = settings.with_values({"data.fold": "0"})
    plan = planned(settings, source_of(settings.init), machine, say)
    plan = with_steps(plan, machine, say)
    needs = needs_of(plan.settings, plan.network(), len(plan.channels), machine)
    # Each fold prepares the same cases, those to train on in one and to validate on in another.
    cases = sum(case.split != "test" for case in plan.index.cases)
    return replace(needs, runs=runs, cases=cases, volume_mb=_volume_mb(plan))


def _volume_mb(plan: Planned) -> float:
    """MB of a median prepared case without compression: two bytes a voxel, and its label beside the images."""
    settings = plan.settings
    if settings.task != "segmentation":
        assert settings.patches.size
        return 2 * len(plan.channels) * float(np.prod(settings.patches.size)) / MB
    facts = plan.facts or facts_of(plan.index, settings)
    return 2 * (len(plan.channels) + 1) * float(np.prod(facts.voxels(settings.prepare.spacing))) / MB


def _with_count(settings: FinetuneSettings, index: Index, say: Say) -> FinetuneSettings:
    """A share of the labels becomes a number, which says the same of a list without the cases left out."""
    labels = settings.data.labels
    if labels is None or labels >= 1:
        return settings
    count = sum(case.split == "train" for case in index.cases)
    say(f"data.labels {count}: {labels:g} of the labelled cases")
    return settings.with_values({"data.labels": count})


def _taken(settings: FinetuneSettings, reasons: Sequence[str], say: Say) -> FinetuneSettings:
    """What was chosen, once it is known to hold; and why."""
    check_finetune(settings)
    for reason in reasons:
        say(reason)
    return settings
