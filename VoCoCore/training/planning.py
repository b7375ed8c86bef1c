"""What a fine-tuning leaves open, chosen from the cases, the weights it starts from, the machine and the time.

Every choice is said with its reason; the run's settings.json then holds the values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from VoCoCore.data.cases import Case, Index
from VoCoCore.data.images import read_case, read_header, read_image
from VoCoCore.data.intensity import recognise
from VoCoCore.data.resample import spaced_size
from VoCoCore.devices import Machine
from VoCoCore.errors import DataError
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.geometry import spacing_of, to_ras
from VoCoCore.settings import ENCODER_LIMITS

SAMPLED = 12  # cases whose voxels are looked at
MEASURED = 300  # cases whose headers are looked at
MOST_STRETCH = 3.0  # between the cases' voxel size and that of pre-training, along any axis
LONGEST = 320  # voxels along an axis beyond which cases are made coarser
# Voxels of a crop: what a step holds beside a network of the usual size.
CROP_VOXELS = {"cpu": 50_000, "mps": 96**3, "cuda": 96**3}
STEPS = {"cpu": 1500, "mps": 10_000, "cuda": 25_000}
FEATURES = {"cpu": 12, "mps": 24, "cuda": 48}


@dataclass(frozen=True)
class Facts:
    """What is known of the training cases: median spacing (3,) in mm and size (3,) in mm along R, A, S; the kind of
    image ("ct", "mr", or "auto" where they differ); range of values under the labels, where there are labels.
    """

    spacing: np.ndarray
    extent: np.ndarray
    kind: str
    under_labels: tuple[float, float] | None
    cases: int


def facts_of(index: Index, settings: FinetuneSettings) -> Facts:
    """Look at the headers of the training cases and at the voxels of some. Raises DataError for files of no use."""
    # All folds look at the same cases: networks of different plans could not predict together.
    folded, bad = settings.data.fold is not None, settings.data.skip_bad
    looked_at = [case for case in index.cases if case.split == "train" or (folded and case.split == "val")]
    sizes = _usable(_measured, _some(looked_at, MEASURED), bad)
    # Only auto chooses by values, and reading whole cases takes its time.
    valued = _some(looked_at, SAMPLED if settings.protocol == "auto" else 0)
    seen = _usable(partial(_values_in, task=settings.task), valued, bad)
    if not sizes or (valued and not seen):
        raise DataError("no case can be used", "'voco data check' says what is wrong with each")
    spacings, extents = zip(*sizes, strict=True)
    kinds, ranges = {kind for kind, _ in seen}, [found for _, found in seen if found is not None]
    low, high = np.median(ranges, axis=0).tolist() if ranges else (0.0, 0.0)
    return Facts(
        np.median(spacings, axis=0),
        np.median(extents, axis=0),
        kinds.pop() if len(kinds) == 1 else "auto",
        (low, high) if ranges else None,
        sum(case.split == "train" for case in index.cases),
    )


def _some(cases: Sequence[Case], most: int) -> list[Case]:
    return [cases[int(place)] for place in np.linspace(0, len(cases) - 1, min(most, len(cases)))]


def _usable(look: Callable[[Case], Any], cases: Sequence[Case], skip_bad: bool) -> list[Any]:
    """What ``look`` finds of each case; bad ones are left out, or raise DataError as they do later."""
    found = []
    for case in cases:
        try:
            found.append(look(case))
        except DataError:
            if not skip_bad:
                raise
    return found


def _measured(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Voxel size (3,) and size (3,) in mm along R, A, S."""
    header = read_header(case.images[0])
    order, _, affine = to_ras(header.shape, header.affine)
    return spacing_of(affine), spacing_of(affine) * [header.shape[axis] for axis in order]


def _values_in(case: Case, task: str) -> tuple[str, np.ndarray | None]:
    """The kind of image, and the range (2,) of nearly all values under its label."""
    array, _ = read_case(case)
    inside = _under_label(array[0], case) if task == "segmentation" else None
    return recognise(array[0])[0], None if inside is None else np.percentile(inside, (0.5, 99.5))


def _under_label(channel: np.ndarray, case: Case) -> np.ndarray | None:
    assert case.label is not None
    label = read_image(case.label).array
    inside = channel[label > 0] if label.shape == channel.shape else np.empty(0)
    inside = inside[np.isfinite(inside)]
    return inside if len(inside) else None


class Planner:
    """Fills what is None, one choice after the other, and keeps the reasons."""

    def __init__(
        self,
        settings: FinetuneSettings,
        facts: Facts,
        source: Mapping[str, str],
        names: Sequence[str],
        machine: Machine,
    ) -> None:
        """``source``: metadata of the weights to start from (empty from scratch); ``names`` of the classes."""
        self.settings, self.facts, self.source, self.machine = settings, facts, source, machine
        self.names, self.reasons = list(names), list[str]()

    def plan(self) -> tuple[FinetuneSettings, list[str]]:
        """The settings with every value, and the reasons for those that were chosen here."""
        self._network()
        self._intensity()
        self._spacing()
        self._size()
        self._batch()
        self._steps()
        self._sides()
        return self.settings, self.reasons

    def _choose(self, changes: Mapping[str, Any], reason: str) -> None:
        self.settings = self.settings.with_values(changes)
        shown = ", ".join(f"{name} {_words(value)}" for name, value in changes.items())
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

    def _intensity(self) -> None:
        """The same map to [0, 1] as in pre-training, or a window around what is labelled."""
        prepare = self.settings.prepare
        if self.settings.protocol != "auto":
            return
        parent = _prepare_of(self.source)
        if prepare.intensity == "auto" and parent and parent.get("intensity") != "auto":
            self._choose({"prepare.intensity": parent["intensity"]}, "as in pre-training")
        elif prepare.intensity == "auto" and self.facts.kind != "auto":
            self._choose(
                {"prepare.intensity": self.facts.kind},
                f"the values of {min(SAMPLED, self.facts.cases)} cases look like it",
            )
        if self.settings.prepare.intensity == "mr" or prepare.window is not None:
            return
        if parent and parent.get("window"):
            self._choose({"prepare.window": tuple(parent["window"])}, "as in pre-training")
        elif self.facts.under_labels and self.settings.prepare.intensity == "ct":
            low, high = self.facts.under_labels
            margin = 0.25 * max(high - low, 100.0)
            window = (round((low - margin) / 5) * 5.0, round((high + margin) / 5) * 5.0)
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
        encoder, spacing = self.settings.model.encoder, self.settings.prepare.spacing
        assert encoder
        low, step = ENCODER_LIMITS[encoder]
        old = self.facts.spacing
        new = old if spacing is None else np.asarray(spacing)
        voxels = [
            spaced_size(max(1, round(mm / a)), a, b)
            for mm, a, b in zip(self.facts.extent, old, new, strict=True)
        ]
        size = [max(low, -(-edge // step) * step) for edge in voxels]
        most = max(CROP_VOXELS[self.machine.device.type], low**3)
        while np.prod(size) > most and max(size) > low:
            longest = int(np.argmax(np.multiply(size, np.asarray(size) > low)))
            size[longest] -= step
        what = "the whole of a median case" if np.all(np.greater_equal(size, voxels)) else "a part of a case"
        if self.settings.task != "segmentation":
            what = "every case is resized to it, the median one"
        self._choose(
            {"patches.size": tuple(size)},
            f"{what} ({_words(tuple(voxels))} voxels), of the size that {encoder} and a "
            f"{self.machine.device.type.upper()} take",
        )

    def _batch(self) -> None:
        if self.settings.optim.batch is None:
            ranks = self.machine.ranks
            batch = max(1, -(-2 // ranks)) * ranks if self.facts.cases > 1 else ranks
            self._choose({"optim.batch": batch}, f"{batch} cases a step" if batch > 1 else "one case a step")

    def _steps(self) -> None:
        optim, run = self.settings.optim, self.settings.run
        assert optim.batch
        if optim.steps is None and optim.epochs is not None:
            per_epoch = max(1.0, self.facts.cases / (optim.batch * optim.accumulate))
            self._choose(
                {"optim.steps": max(1, round(optim.epochs * per_epoch))},
                f"{optim.epochs:g} epochs of {self.facts.cases} cases, {optim.batch} a step",
            )
        elif optim.steps is None and run.hours is None:
            kind = self.machine.device.type
            self._choose(
                {"optim.steps": STEPS[kind]},
                f"usual on a {kind.upper()}; set --steps, optim.epochs or --hours",
            )

    def _sides(self) -> None:
        """Flips exchange left and right: not where labels have sides."""
        flips = list(self.settings.augment.flip)
        pairs = ((("left", "right"), 0), (("anterior", "posterior"), 1), (("upper", "lower"), 2))
        for words, axis in pairs:
            sided = [n for n in self.names if any(re.search(rf"(^|[^a-z]){w}", n.lower()) for w in words)]
            if sided and flips[axis] > 0 and self.settings.protocol == "auto":
                flips[axis] = 0.0
                self._choose({"augment.flip": tuple(flips)}, f"'{sided[0]}' is a matter of sides")


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
    needed = (settings.model.encoder, settings.model.feature_size, settings.patches.size, optim.batch)
    return all(
        value is not None for value in (*needed, optim.steps, optim.warmup, settings.run.validate_every)
    )


def _spacing_of(source: Mapping[str, str]) -> np.ndarray | None:
    """Mean voxel size (3,) that the weights were pre-trained at; None where it is not known."""
    try:
        found = np.asarray([float(edge) for edge in source.get("spacing", "").split(",")])
    except ValueError:
        return None
    return found if found.shape == (3,) and np.all(found > 0) else None


def _prepare_of(source: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = json.loads(source.get("prepare", "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) and not found.get("by_body_part") else {}


def _words(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    return (" x " if len(value) == 3 else " to ").join(f"{v:g}" for v in value)
