"""The voxel value of overlapping regions: a network says of each whether it holds, a map has one value a voxel."""

from __future__ import annotations

import torch
from torch import Tensor

from VoCoCore.models.card import ModelCard


class Regions:
    """What the outputs of a network write into a label map, alone and together."""

    def __init__(self, card: ModelCard) -> None:
        written = card.written_values()
        self.alone = [(number, written[number]) for number in card.writing_order()]
        self.together = card.joint_values()

    def chosen(self, holds: Tensor) -> Tensor:
        """Voxel values (...), int64, of what holds, bool (K, ...): that which lies in just these; 0 for none.

        Where no value lies in just these, because the network contradicts itself, that of the largest combination among
        them counts, and without one, that of the smallest region.
        """
        found = torch.zeros_like(holds[0], dtype=torch.long)
        for number, value in self.alone:
            found = torch.where(holds[number], value, found)
        for numbers, value in self.together:
            found = torch.where(holds[numbers].all(0), value, found)
        return found
