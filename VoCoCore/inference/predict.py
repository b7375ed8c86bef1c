"""One case through one or several networks: a label map in its own grid, or the probabilities of a diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from VoCoCore.data.apply import apply_plan
from VoCoCore.data.plan import Plan, plan_case
from VoCoCore.devices import Machine
from VoCoCore.errors import DataError, SettingsError, counted
from VoCoCore.inference.largest import keep_largest
from VoCoCore.inference.regions import Regions
from VoCoCore.inference.restore import planes
from VoCoCore.inference.swift import swift
from VoCoCore.inference.tiling import tile
from VoCoCore.inference.windows import Say, silent, slabs
from VoCoCore.models.card import ModelCard
from VoCoCore.settings import PrepareSettings

Model = tuple[nn.Module, ModelCard]
Sink = Callable[[int, tuple[int, int], tuple[int, int], np.ndarray], None]
Tick = Callable[[int, int], None]
_TOGETHER = 16  # planes of labels that leave a device at a time: each copy waits for all of its work
# What must be the same in all networks of an ensemble.
_SHARED = ("task", "window", "classes", "activation", "prepare", "channels", "body_part")


@dataclass(frozen=True)
class Prepared:
    """A case as a network sees it, float32 (C, X, Y, Z) in [0, 1], and how it was made from its source."""

    images: Tensor
    plan: Plan


class Predictor:
    """Networks ready to predict on one machine.

    ``models``: networks with their cards, whose logits are averaged; ``overlap`` of the windows; ``batch`` windows at a
    time (None: usual); ``mirror``: axes (0, 1, 2) along which views are mirrored and averaged too; ``largest``: keep
    only the largest connected part of each label; ``say`` is told where memory runs out; ``scratch``: folder of files
    that memory is too small for. Raises SettingsError where the cards do not agree.
    """

    def __init__(
        self,
        models: Sequence[Model],
        machine: Machine,
        *,
        overlap: float = 0.5,
        batch: int | None = None,
        mirror: Sequence[int] = (),
        largest: bool = False,
        say: Say = silent,
        scratch: Path | None = None,
    ) -> None:
        self.card, self.machine = models[0][1], machine
        for _, card in models[1:]:
            differ = [name for name in _SHARED if getattr(card, name) != getattr(self.card, name)]
            if differ:
                raise SettingsError(
                    f"these networks cannot predict together: they differ in {', '.join(differ)}",
                    "name the folds of one fine-tuning",
                )
        prepare = self.card.prepare
        if self.card.task == "segmentation" and (prepare.get("fit") != "pad" or prepare.get("by_body_part")):
            raise SettingsError(
                "this network was trained on cases resized as a whole, which cannot be led back to their grid",
                "fine-tune with prepare.fit pad, and without prepare.by_body_part",
            )
        tile(self.card.window, self.card.window, overlap)  # says what is wrong with an overlap
        if batch is not None and batch < 1:
            raise SettingsError(f"--batch cannot be {batch}", "predict at least one window at a time")
        self.networks = [swift(network, machine) for network, _ in models]
        written = self.card.written_values()
        # As they leave the device: whole numbers of 64 bits would take eight times as long.
        kind = torch.uint8 if max(self.card.combinations().values()) < 256 else torch.int32
        self.values = torch.tensor(written, dtype=kind, device=machine.device)
        self.together = 1 if machine.device.type == "cpu" else _TOGETHER
        self.regions = Regions(self.card)
        self.overlap, self.batch, self.largest = overlap, batch, largest
        self.say, self.scratch = say, scratch
        self.views = [
            axes for count in range(len(mirror) + 1) for axes in combinations(sorted(mirror), count)
        ]

    def segment(self, array: np.ndarray, affine: np.ndarray, sink: Sink | None = None) -> np.ndarray:
        """Label map (X, Y, Z), uint8 or uint16, of a case (C, X, Y, Z) with ``affine`` (4, 4), in the case's own grid.

        Raises DataError for another number of channels, values that cannot be used, or answers of the network that are
        not finite. See `segment_prepared`.
        """
        return self.segment_prepared(self.prepare(array, affine), sink)

    def prepare(self, array: np.ndarray, affine: np.ndarray) -> Prepared:
        """Prepare a case to segment; after this, the memory of ``array`` may be let go."""
        plan = self.plan(array, affine)
        turned = self.machine.device.type == "cpu"
        return Prepared(torch.from_numpy(apply_plan(array, plan, np.float32, turned)), plan)

    def segment_prepared(
        self, case: Prepared, sink: Sink | None = None, tick: Tick = lambda done, total: None
    ) -> np.ndarray:
        """The label map of a prepared case, in the grid of its source.

        Logits are interpolated linearly back to the source's voxels, then the class is chosen; outside the foreground
        box all is background. ``sink`` gets, plane by plane, probabilities (K, u, v) with the place in the oriented
        volume; ``tick`` hears how many planes are done.
        """
        plan, most = case.plan, max(self.card.combinations().values())
        found = np.zeros(plan.source_shape, np.uint8 if most < 256 else np.uint16)
        oriented, axis = plan.oriented(found), self.axis(plan)
        others = [other for other in range(3) if other != axis]
        waiting: list[tuple[Any, Tensor, Tensor]] = []
        for at, (a, b), (c, d), logits in planes(self._pieces(case), plan, axis):
            where: list[Any] = [0, 0, 0]
            where[axis], where[others[0]], where[others[1]] = at, slice(a, b), slice(c, d)
            if waiting and waiting[0][1].device != logits.device:  # the sums have left the device meanwhile
                self._write(oriented, waiting)
            waiting.append((tuple(where), self._labels(logits), logits.sum()))
            if sink is not None or len(waiting) == self.together:
                self._write(oriented, waiting)
            if sink is not None:
                sink(at, (a, b), (c, d), self._probabilities(logits).cpu().numpy())
            tick(at + 1, oriented.shape[axis])
        self._write(oriented, waiting)
        if self.largest:
            keep_largest(found, self.card)
        return found

    def _write(self, oriented: np.ndarray, waiting: list[tuple[Any, Tensor, Tensor]]) -> None:
        """Write the planes of labels that wait, and forget them."""
        if not waiting:
            return
        found = torch.stack([labels for _, labels, _ in waiting]).cpu().numpy()
        # Behind a copy that has waited for the device anyway.
        self._refuse_overflow(torch.stack([total for *_, total in waiting]))
        for (where, *_), labels in zip(waiting, found, strict=True):
            oriented[where] = labels
        waiting.clear()

    def axis(self, plan: Plan) -> int:
        """The axis of the oriented volume along which planes are finished one after the other."""
        return tile(plan.shape, self.card.window, self.overlap).axis

    def classify(self, array: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Probabilities (K,) of the classes for a whole case (C, X, Y, Z). Raises DataError as `segment` does."""
        plan = self._plan(array, affine, self.card.window)
        images = torch.from_numpy(apply_plan(array, plan, np.float32))[None].to(self.machine.device)
        with torch.no_grad(), self.machine.autocast():
            logits = self._views(images)
        self._refuse_overflow(logits)
        return logits.softmax(1)[0].cpu().double().numpy()

    def plan(self, array: np.ndarray, affine: np.ndarray) -> Plan:
        """How a case to segment is prepared."""
        return self._plan(array, affine, (1, 1, 1))

    def _plan(self, array: np.ndarray, affine: np.ndarray, size: tuple[int, int, int]) -> Plan:
        if len(array) != self.card.in_channels:
            raise DataError(
                f"the case has {counted(len(array), 'image')}, the network takes {self.card.in_channels}: "
                f"{', '.join(self.card.channels)}",
                "name the same channels, in the same order, as in training",
            )
        prepare = PrepareSettings.from_dict(self.card.prepare)
        return plan_case(array, affine, prepare, size, self.card.body_part)

    def _pieces(self, case: Prepared) -> Iterator[tuple[int, Tensor]]:
        return slabs(
            case.images,
            self._predict,
            self.card.window,
            self.overlap,
            batch=self.batch,
            device=self.machine.device,
            say=self.say,
            scratch=self.scratch,
        )

    def _predict(self, windows: Tensor) -> Tensor:
        with self.machine.autocast():
            return self._views(windows)

    def _views(self, images: Tensor) -> Tensor:
        """Mean logits, float32, over all networks and mirrored views."""
        total: Tensor | None = None
        for network in self.networks:
            for axes in self.views:
                dims = [2 + axis for axis in axes]
                logits = network(images.flip(dims) if dims else images).float()  # before they are added
                logits = logits.flip(dims) if dims and logits.ndim == 5 else logits
                total = logits if total is None else total + logits
        assert total is not None
        count = len(self.networks) * len(self.views)
        return total if count == 1 else total / count

    def _refuse_overflow(self, logits: Tensor) -> None:
        """Raise DataError where a logit is not finite: by their sum, which only then is not."""
        if not torch.isfinite(logits.sum()):
            precise = self.machine.precision == "fp32"
            raise DataError(
                f"the network's answers in {self.machine.precision} are not all finite numbers",
                "use other weights, or leave this case out" if precise else "predict with --precision fp32",
            )

    def _labels(self, logits: Tensor) -> Tensor:
        """Voxel values (u, v) of logits (K, u, v)."""
        if self.card.activation == "softmax":
            return self.values.to(logits.device)[logits.argmax(0)]
        return self.regions.chosen(logits > 0).to(self.values.dtype)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(0) if self.card.activation == "softmax" else logits.sigmoid()
