"""Maps in channels-last order as rows of numbers, and sums over their voxels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LAST = torch.channels_last_3d
WIDE = 16  # voxels whose channels are treated as one row: sums over rows of a few numbers are slow
_BLOCK = 512  # voxels whose products are summed in float32 before the blocks' sums are


def wide_rows(x: Tensor) -> tuple[Tensor, int]:
    """A view (N, voxels / wide, wide * C) of channels-last maps (N, C, X, Y, Z), and ``wide``."""
    count, channels = x.shape[:2]
    rows = x.movedim(1, -1).reshape(count, -1, channels)
    wide = math.gcd(rows.shape[1], WIDE)
    return rows.view(count, -1, wide * channels), wide


def row_sums(flat: Tensor, wide: int) -> Tensor:
    """Sums over the voxels of `wide_rows`: (N, C)."""
    return over_voxels(flat.sum(1), wide)


def over_voxels(sums: Tensor, wide: int) -> Tensor:
    """Sums over the rows of `wide_rows`, (N, wide * C), added up over the voxels of a row: (N, C)."""
    return sums.view(len(sums), wide, -1).sum(1)


def row_products(a: Tensor, b: Tensor, wide: int) -> Tensor:
    """Sums of a * b over the voxels of `wide_rows`, (N, C): diagonals of matrix products, which need no copy."""
    count, voxels = len(a), a.shape[1] * wide
    block = math.gcd(voxels, _BLOCK)
    if block < 32 and voxels <= 4096:
        block = voxels
    a, b = (part.view(count * voxels // block, block, -1) for part in (a, b))
    parts = torch.bmm(a.transpose(1, 2), b).diagonal(dim1=1, dim2=2)
    return parts.reshape(count, voxels // block, -1).sum(1)
