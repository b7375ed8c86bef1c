"""Classification as a task of the loop: whole cases with their class in, losses out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from VoCoCore.downstream.losses import classification_loss
from VoCoCore.downstream.segmentation import Batch, Downstream
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.models.networks import ClassificationNetwork
from VoCoCore.pretext.task import Outcome


class Classification(Downstream):
    """A classification network with its loss; ``counts``: training cases of each class, which weigh the rare ones."""

    weights: Tensor | None

    def __init__(
        self, settings: FinetuneSettings, network: ClassificationNetwork, counts: Sequence[int]
    ) -> None:
        super().__init__(settings, network)
        weights = None
        if settings.loss.class_weights:
            shares = torch.tensor([max(count, 1) for count in counts], dtype=torch.float32)
            weights = shares.sum() / (len(counts) * shares)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, batch: Batch) -> Outcome:
        """Losses of a batch: ``images`` (B, 1, C, X, Y, Z) int16, ``target`` (B, 1) and the augmentation."""
        images, _ = self.crops(batch)
        logits, target = self.network(images), batch["target"].flatten()
        loss = classification_loss(logits, target, self.weights, self.settings.loss.smoothing)
        if self.weights is not None:
            # Divided by the number of cases, not by their weights, which would undo them in a batch of one.
            loss = loss * self.weights[target].mean()
        return Outcome({"cross_entropy": loss}, {"logits": logits.detach(), "target": target})

    @torch.no_grad()
    def diagnostics(self, outcome: Outcome) -> dict[str, Tensor]:
        """``accuracy`` on the batch."""
        right = outcome.details["logits"].argmax(1) == outcome.details["target"]
        return {"accuracy": right.float().mean()}
