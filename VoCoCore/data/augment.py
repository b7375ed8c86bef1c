"""Flips, quarter turns and intensity shifts for whole batches of crops."""

from __future__ import annotations

import torch
from torch import Tensor


def as_flips_and_swap(flips: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
    """Write flips followed by quarter turns as flips followed by an exchange of x and y.

    ``flips`` (M, 3) bool; ``turns`` (M,) quarter turns in the xy plane as numpy.rot90 turns. Returns flips (M, 3) and
    swap (M,) bool: then a turn costs no pass over the voxels of its own.
    """
    x = flips[:, 0] ^ (turns >= 2)
    y = flips[:, 1] ^ ((turns == 1) | (turns == 2))
    return torch.stack([x, y, flips[:, 2]], dim=1), turns % 2 == 1


def shift_intensities(crops: Tensor, shifts: Tensor) -> Tensor:
    """Add one number to each crop: ``crops`` (M, C, X, Y, Z), ``shifts`` (M,)."""
    return crops + shifts.to(crops.dtype).view(-1, 1, 1, 1, 1)
