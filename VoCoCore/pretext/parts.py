"""Crops through an encoder a few at a time, so that only these hold activations."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from VoCoCore.models.interface import run_block

# Voxels that pass at a time: an accelerator wants enough of them to be busy, a processor is so with a single crop.
VOXELS = {"cpu": 0, "mps": 2**19, "cuda": 2**20}


def crops_at_once(device_type: str, size: tuple[int, ...]) -> int:
    """How many crops of ``size`` (3,) voxels pass the encoder together; at least one."""
    return max(1, VOXELS[device_type] // prod(size))


def embeddings_in_parts(embed: Callable[[Tensor], Tensor], crops: Tensor) -> Tensor:
    """``embed`` of crops (M, C, X, Y, Z), as if all were given at once; for the backward pass each part is done again.

    No layer of an encoder looks from one crop to another, so values and gradients are those of one call. Of all
    activations only the embeddings of all crops, and those of one part, are held at a time.
    """
    parts = crops.split(crops_at_once(crops.device.type, tuple(crops.shape[2:])))
    return torch.cat([run_block(embed, part, again=True) for part in parts])
