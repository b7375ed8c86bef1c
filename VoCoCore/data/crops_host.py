"""The crops of a batch where the volumes lie in the processor's own memory: one after the other.

A resized voxel mixes two neighbours of each axis. For the first two axes one operation mixes whole rows of the volume,
four at most, and takes flips and quarter turns along; a small matrix then resizes the rows. Only one crop at a time is
float32 in its size in the volume, so that it stays in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Way = tuple[int, int, bool]  # along one axis: voxels before, voxels after, whether they are flipped


def cut_on_host(
    volumes: Tensor,
    starts: Tensor,
    sizes: Tensor,
    out_size: Sequence[int],
    flips: Tensor,
    swap: Tensor,
    shifts: Sequence[float] | None = None,
) -> Tensor:
    """Crops (B * m, C, *out_size) float32 of ``volumes`` (B, C, X, Y, Z), uint8 (read as value / 255) or floating.

    ``starts``, ``sizes`` (B, m, 3) whole voxels; ``flips`` (B * m, 3) and ``swap`` (B * m,) bool as
    `augment.as_flips_and_swap` gives them, ``swap`` only where the first two edges of ``out_size`` are equal;
    ``shifts`` (B * m) is added to each crop.
    """
    each, channels = starts.shape[1], volumes.shape[1]
    crops = torch.empty(len(flips), channels, *out_size)
    boxes = zip(starts.flatten(0, 1).tolist(), sizes.flatten(0, 1).tolist(), strict=True)
    turns = zip(flips.tolist(), swap.tolist(), strict=True)
    for number, ((start, size), (flip, swapped)) in enumerate(zip(boxes, turns, strict=True)):
        x, y, z = zip(size, map(int, out_size), flip, strict=True)
        x, y = (y, x) if swapped else (x, y)
        at, share = _mixing(x, y)
        for channel, crop in zip(volumes[number // each], crops[number], strict=True):
            box = channel[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]
            box = box.transpose(0, 1) if swapped else box
            table = torch.empty(box.shape).copy_(box)  # in this order also where it is a transposed view
            rows = F.embedding_bag(at, table.flatten(0, 1), mode="sum", per_sample_weights=share)
            torch.mm(rows, _matrix(z, volumes.dtype == torch.uint8), out=crop.view(len(rows), -1))
        if shifts is not None and shifts[number]:
            crops[number] += shifts[number]
    return crops


def _neighbours(way: Way) -> tuple[np.ndarray, np.ndarray]:
    """For each voxel along a resized axis those that it mixes (out, 1 or 2), and their weights."""
    size, out, flip = way
    at = np.arange(out) * ((size - 1) / max(out - 1, 1))
    at = at[::-1] if flip else at
    low = np.minimum(np.floor(at).astype(np.int32), size - 1)
    high = (at - low).astype(np.float32)
    if not high.any():
        return low[:, None], np.ones((out, 1), np.float32)
    return np.stack([low, np.minimum(low + 1, size - 1)], 1), np.stack([1 - high, high], 1)


@lru_cache(maxsize=32)
def _mixing(x: Way, y: Way) -> tuple[Tensor, Tensor]:
    """Which rows (X' * Y', 1 to 4) of a box's X * Y make each row of a crop, and their weights."""
    (i, wi), (j, wj) = _neighbours(x), _neighbours(y)
    places = i[:, None, :, None] * y[0] + j[None, :, None, :]
    weights = wi[:, None, :, None] * wj[None, :, None, :]
    at, share = (torch.from_numpy(part.reshape(x[1] * y[1], -1)) for part in (places, weights))
    return at, share


@lru_cache(maxsize=32)
def _matrix(z: Way, whole_numbers: bool) -> Tensor:
    """What rows (.., Z) are multiplied with: (Z, Z'); 255 levels become 1."""
    k, weights = _neighbours(z)
    made = np.zeros(z[:2], np.float32)
    np.add.at(made, (k, np.arange(z[1])[:, None]), weights / (255 if whole_numbers else 1))
    return torch.from_numpy(made)
