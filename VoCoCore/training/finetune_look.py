"""Looks at validation cases while a network is fine-tuned: scores, and pictures of the worst, median and best case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from VoCoCore.data.apply import LEVELS
from VoCoCore.data.store import PreparedVolume, Store
from VoCoCore.devices import Machine
from VoCoCore.downstream.scores import diagnosis_scores, dice, score_name
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.geometry import spacing_of
from VoCoCore.inference.windows import Say, silent, slide
from VoCoCore.models.card import OutputClass
from VoCoCore.training.intervals import bootstrap_interval, counts_of
from VoCoCore.training.labelled_cohort import LabelledCohort
from VoCoCore.training.pictures import write_arrays
from VoCoCore.training.ranks import Ranks

SEGMENTATION = "segmentation"


@dataclass(frozen=True)
class Slice:
    """An axial slice of a case: image (X, Y) in [0, 1], true and predicted (X, Y) class numbers, spacing (2,) in mm."""

    image: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    spacing: np.ndarray


@dataclass
class Seen:
    """What was seen of all validation cases: voxels that are both, predicted and true (cases, 3, K) int64; or for a
    classification probabilities (cases, K) and ``targets`` (cases,). ``slices`` by number of the case, on this rank;
    ``patients``: whose each case is, None where each is a patient of its own.
    """

    counts: np.ndarray
    targets: np.ndarray
    slices: dict[int, Slice]
    patients: Sequence[str] | None = None

    def dice(self) -> np.ndarray:
        """Dice (cases, K); nan where a class is neither there nor predicted."""
        return dice(torch.from_numpy(self.counts)).numpy()


class Looker:
    """Looks at the validation cases of a cohort with the network that would be kept."""

    def __init__(
        self,
        task: Any,
        cohort: LabelledCohort,
        settings: FinetuneSettings,
        machine: Machine,
        ranks: Ranks,
        classes: Sequence[OutputClass],
        say: Say = silent,
    ) -> None:
        self.say = say  # hears where memory runs out
        self.task, self.members, self.settings = task, cohort.val, settings
        self.machine, self.ranks = machine, ranks
        self.store, self.classes = Store(cohort.store), classes

    @torch.no_grad()
    def look(self, stop: Callable[[], bool] = lambda: False) -> Seen | None:
        """Predict this rank's share of the cases, and gather the counts of all ranks.

        ``stop`` is asked before each case; None where any rank's says that the look is to be broken off.
        """
        self.task.eval()
        network = self.task.export()
        rows, slices = (3, len(self.classes)) if self._segments else (1, len(self.classes)), {}
        broken_off = False
        # On the host: Apple's GPUs have no float64.
        found = torch.zeros(len(self.members), *rows, dtype=torch.float64)
        for number in range(self.machine.rank, len(self.members), self.machine.ranks):
            if broken_off := stop():
                break
            volume = self.store.open(self.members[number].key)
            if self._segments:
                found[number], slices[number] = self._segment(network, volume)
            else:
                found[number] = self._classify(network, volume)
        if self.ranks.any(broken_off):
            return None
        targets = np.asarray([member.target for member in self.members])
        counts = self.ranks.sum(found).numpy()
        patients = [member.patient or member.key for member in self.members]
        return Seen(counts.astype(np.int64) if self._segments else counts[:, 0], targets, slices, patients)

    @property
    def _segments(self) -> bool:
        return self.settings.task == SEGMENTATION

    def _segment(self, network: Any, volume: PreparedVolume) -> tuple[Tensor, Slice]:
        values = volume.read()
        images, label = values[:-1], values[-1]
        logits = self.logits(network, _as_images(images))
        truth = torch.from_numpy(label).to(logits.device)
        counts = self.task.counts(logits[None], truth[None])
        return counts.cpu(), self._slice(images[0], truth, logits, spacing_of(volume.affine))

    def logits(self, network: Any, images: Tensor) -> Tensor:
        """Logits (K, X, Y, Z) of images (C, X, Y, Z) in [0, 1]."""
        size = self.settings.patches.size
        assert size

        def predict(windows: Tensor) -> Tensor:
            with self.machine.autocast():
                return network(windows).float()

        how: dict[str, Any] = {"overlap": self.settings.run.overlap, "device": self.machine.device}
        return slide(images, predict, size, say=self.say, **how)

    def _classify(self, network: Any, volume: PreparedVolume) -> Tensor:
        images = _as_images(volume.read()).to(self.machine.device)
        with self.machine.autocast():
            return network(images[None]).float().softmax(1).cpu()

    def _slice(self, image: np.ndarray, truth: Tensor, logits: Tensor, spacing: np.ndarray) -> Slice:
        true = _flat(self.task.target(truth[None])[0], self.task.activation)
        predicted = _flat(
            logits.argmax(0) if self.task.activation == "softmax" else logits > 0, self.task.activation
        )
        at = int(((true > 0) | (predicted > 0)).sum((0, 1)).argmax())
        return Slice(image[:, :, at] / LEVELS["int16"], true[:, :, at], predicted[:, :, at], spacing[:2])

    def keep(self, folder: Path, seen: Seen, step: int) -> None:
        """Write latest.npz into ``folder`` (replaced as a whole): the pictures of a few cases, or all answers."""
        content: dict[str, Any] = {
            "step": np.asarray(step),
            "names": np.asarray([c.name for c in self.classes]),
        }
        if self._segments:
            content |= self._pictures(seen)
        else:
            content |= {"probabilities": seen.counts, "targets": seen.targets}
        write_arrays(folder / "latest.npz", **content)

    def _pictures(self, seen: Seen) -> dict[str, Any]:
        scores = case_scores(seen, self.task.activation)
        shown = [n for n in np.argsort(scores) if int(n) in seen.slices]
        # A case with nothing to find is no best one.
        order = [n for n in shown if np.isfinite(scores[n])] or shown
        picked = list(dict.fromkeys([order[0], order[len(order) // 2], order[-1]])) if order else []
        content: dict[str, Any] = {
            "scores": np.asarray([scores[n] for n in picked]),
            "colours": np.asarray([kind.colour for kind in self.classes], np.uint8),
            "activation": np.asarray(self.task.activation),
            "dice": seen.dice(),
        }
        for place, number in enumerate(picked):
            of_case = vars(seen.slices[int(number)])
            content |= {f"{name}_{place}": value for name, value in of_case.items()}
        return content


def _as_images(stored: np.ndarray) -> Tensor:
    return torch.from_numpy(stored).float().mul_(1 / LEVELS["int16"])


def _flat(kinds: Tensor, activation: str) -> np.ndarray:
    """Class numbers, or of overlapping regions 1 + the number of the last one that holds, as uint8."""
    if activation == "softmax":
        return kinds.clamp(min=0).to(torch.uint8).cpu().numpy()
    numbers = torch.arange(1, len(kinds) + 1, device=kinds.device).view(-1, 1, 1, 1)
    return (kinds * numbers).amax(0).to(torch.uint8).cpu().numpy()


def case_scores(seen: Seen, activation: str) -> np.ndarray:
    """Mean Dice of each case (cases,) over its classes, background left out."""
    scores = seen.dice()[:, 1 if activation == "softmax" else 0 :]
    empty = np.isnan(scores).all(axis=1)
    return np.where(empty, np.nan, np.nanmean(np.where(empty[:, None], 0.0, scores), axis=1))


def values_of(seen: Seen, classes: Sequence[OutputClass], task: str) -> dict[str, float]:
    """Named scores: mean Dice with its 95 % interval by patient, and of each class; or those of a diagnosis."""
    patients = seen.patients or [str(number) for number in range(len(seen.targets))]
    if task != SEGMENTATION:
        found = diagnosis_scores(seen.counts, seen.targets)
        each = zip(classes, np.asarray(found["auroc_per_class"]), strict=True)
        single = {f"auroc_{kind.name}": value for kind, value in each}
        scores = {name: found[name] for name in ("accuracy", "balanced_accuracy", "auroc")}
        return _finite({**scores, **single, **counts_of(patients)})
    first = 1 if classes[0].values == (0,) else 0
    columns = seen.dice()[:, first:].T
    by_case = case_scores(seen, "softmax" if first else "sigmoid")
    scored = np.isfinite(by_case)
    known, whose = (
        by_case[scored],
        [who for who, is_scored in zip(patients, scored, strict=True) if is_scored],
    )
    low, high = bootstrap_interval(known, whose)
    named = {
        score_name("dice", kind.name): _mean(column)
        for kind, column in zip(classes[first:], columns, strict=True)
    }
    return _finite({"dice": _mean(known), "dice_low": low, "dice_high": high, **counts_of(whose), **named})


def best_of(seen: Seen, classes: Sequence[OutputClass], task: str) -> float:
    """The number by which states are compared: mean Dice over cases, or balanced accuracy."""
    if task == SEGMENTATION:
        return _mean(case_scores(seen, "softmax" if classes[0].values == (0,) else "sigmoid"))
    right = seen.counts.argmax(1) == seen.targets
    return _mean([right[seen.targets == kind].mean() for kind in np.unique(seen.targets)])


def _mean(values: Any) -> float:
    known = np.asarray(values, float).ravel()
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else float("nan")


def _finite(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}
