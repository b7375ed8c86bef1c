"""What the training loop knows of a pretext task. It knows none by name.

A task owns the encoder, its heads and its teacher, and is one module whose forward pass gives the losses of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from VoCoCore.settings import PretrainSettings

Batch = Mapping[str, Tensor]
Arrays = dict[str, np.ndarray]


@dataclass
class Outcome:
    """Loss terms of one batch, weighted, and whatever the task's diagnostics need later."""

    terms: dict[str, Tensor]
    details: dict[str, Tensor] = field(default_factory=dict)

    @property
    def loss(self) -> Tensor:
        """The sum of all terms."""
        return sum(self.terms.values(), start=next(iter(self.terms.values())).new_zeros(()))


@runtime_checkable
class PretextTask(Protocol):
    """The interface of a task; it is also an `nn.Module`."""

    @staticmethod
    def views(settings: PretrainSettings, number: int, shape: Sequence[int], stream: int) -> Arrays:
        """What to read of a prepared volume of ``shape`` (3,) and what to cut from it; runs in loader workers.

        Must hold ``region`` (2, 3): first voxel and size of the part to read. All randomness comes from the sample's
        own generator.
        """

    def forward(self, batch: Batch) -> Outcome:
        """Losses of a batch: ``volumes`` (B, C, X, Y, Z) uint8 and the arrays of `views`, stacked."""

    def diagnostics(self, outcome: Outcome) -> dict[str, Tensor]:
        """Named scalars that tell whether training works, without gradient."""

    def after_step(self, step: int) -> None:
        """Called after each optimiser step (moving averages, queues)."""

    def export(self) -> nn.Module:
        """The part that fine-tuning keeps: the encoder, under its published names."""
