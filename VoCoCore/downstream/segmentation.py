"""Segmentation as a task of the loop: crops with labels in, losses out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from VoCoCore.data.apply import LEVELS
from VoCoCore.data.augment_intensity import augment_intensity
from VoCoCore.data.augment_space import augment_space
from VoCoCore.data.patches import OPTIONAL
from VoCoCore.downstream.losses import deep_loss, segmentation_loss
from VoCoCore.downstream.scores import confusion_counts, dice, region_counts
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.models.card import OutputClass
from VoCoCore.models.networks import SegmentationNetwork
from VoCoCore.models.teacher import Teacher
from VoCoCore.pretext.task import Outcome

Batch = Mapping[str, Tensor]
_SPACE = ("flips", "turns", "matrix", "warped")
_INTENSITY = ("scale", "shift", "gamma", "noise", "blur")


class Downstream(nn.Module):
    """What segmentation and classification share: augmented crops, and the moving average of the network."""

    def __init__(self, settings: FinetuneSettings, network: nn.Module) -> None:
        super().__init__()
        self.settings, self.network = settings, network
        self.average = Teacher(copy.deepcopy(network)) if settings.optim.ema else None

    def crops(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Images (M, C, X, Y, Z) in [0, 1] and labels (M, X, Y, Z), augmented in training."""
        images = batch["images"].flatten(0, 1).float().mul_(1 / LEVELS["int16"])
        labels = batch["labels"].flatten(0, 1) if "labels" in batch else None
        if not self.training:
            return images, labels
        given: dict[str, Any] = {name: batch[name].flatten(0, 1) for name in (*_SPACE, *_INTENSITY)}
        for name, needed in zip(OPTIONAL, batch["host_needed"].any(0).tolist(), strict=True):
            given[name] = given[name] if needed else None
        none = labels if labels is not None else torch.zeros_like(images[:, 0], dtype=torch.int16)
        images, moved = augment_space(images, none, **{name: given[name] for name in _SPACE})
        values = {name: given[name] for name in _INTENSITY}
        images = augment_intensity(images, **values, seeds=batch["host_seeds"].flatten().tolist())
        return images, None if labels is None else moved

    def after_step(self, step: int) -> None:
        """Let the average follow; early in training it follows faster, or it would remember the random start."""
        if self.average is not None:
            self.average.follow(self.network, min(self.settings.optim.ema, (1 + step) / (10 + step)))

    def export(self) -> nn.Module:
        """The network to keep: the average where there is one."""
        return self.network if self.average is None else self.average.network


class Segmentation(Downstream):
    """A segmentation network with its loss.

    ``classes`` and ``activation`` as in `ModelCard`: with softmax each voxel has one class, with sigmoid each class is
    a region of one or several label values.
    """

    lookup: Tensor

    def __init__(
        self,
        settings: FinetuneSettings,
        network: SegmentationNetwork,
        classes: Sequence[OutputClass],
        activation: str,
    ) -> None:
        super().__init__(settings, network)
        self.count, self.activation = len(classes), activation
        self.register_buffer("lookup", lookup_table(classes, activation), persistent=False)

    def target(self, labels: Tensor) -> Tensor:
        """Label values (M, X, Y, Z), -1 where none, to class numbers (M, X, Y, Z) or regions (M, K, X, Y, Z) bool."""
        # Logits, and labels with them, may have left the device for want of room.
        lookup = self.lookup.to(labels.device)
        found = lookup[(labels.long() + 1).clamp(max=len(lookup) - 1)]
        return found if self.activation == "softmax" else found.movedim(-1, 1)

    def forward(self, batch: Batch) -> Outcome:
        """Losses of a batch: ``images`` (B, k, C, X, Y, Z) int16, ``labels`` (B, k, X, Y, Z) and the augmentation."""
        images, labels = self.crops(batch)
        assert labels is not None
        logits, target = self.network(images), self.target(labels)
        loss = self.settings.loss
        options: dict[str, Any] = {
            "kind": loss.kind,
            "activation": self.activation,
            "background": loss.background,
            "valid": None if self.activation == "softmax" else labels >= 0,
            "gamma": loss.gamma,
            "alpha": loss.alpha,
            "beta": loss.beta,
        }
        if isinstance(logits, list):
            terms, first = deep_loss(logits, target, **options), logits[0]
        else:
            terms, first = segmentation_loss(logits, target, **options), logits
        return Outcome(terms, {"logits": first.detach(), "labels": labels})

    @torch.no_grad()
    def diagnostics(self, outcome: Outcome) -> dict[str, Tensor]:
        """``dice``: mean over the classes that the batch or its prediction shows, background left out."""
        counts = self.counts(outcome.details["logits"], outcome.details["labels"])
        values = dice(counts)[1 if self.activation == "softmax" else 0 :]
        return {"dice": torch.nanmean(values).float().to(counts.device)}

    def counts(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Voxels (3, K) that are both, predicted, true, from logits (M, K, X, Y, Z) and label values (M, X, Y, Z)."""
        target = self.target(labels)
        if self.activation == "softmax":
            return confusion_counts(logits.argmax(1), target, self.count)
        return region_counts(logits > 0, target, labels >= 0)


def lookup_table(classes: Sequence[OutputClass], activation: str) -> Tensor:
    """Row value + 1 says what a label value is: its class number (V + 3,), or its regions (V + 3, K) bool.

    Values of no class are background. Row 0 is for voxels that do not count (-1), the last one for all values above V,
    the highest of any class: regions need not name every value that labels have.
    """
    most = max(value for kind in classes for value in kind.values)
    if activation == "softmax":
        table = torch.zeros(most + 3, dtype=torch.long)
        table[0] = -1
        for number, kind in enumerate(classes):
            table[[value + 1 for value in kind.values]] = number
        return table
    regions = torch.zeros(most + 3, len(classes), dtype=torch.bool)
    for number, kind in enumerate(classes):
        regions[[value + 1 for value in kind.values], number] = True
    return regions
