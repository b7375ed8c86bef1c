"""Instance norm of bfloat16 maps in channels-last order on a CPU: float32 inside, a cacheful at a time.

torch's own turns each map round and back and spends more on that than on the norm. Here each map is read twice in
either direction, in pieces that stay in the cache while they are float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from VoCoCore.models.rows import LAST, over_voxels, wide_rows

_NUMBERS = 1 << 16  # of a piece: 256 kB of float32
Piece = tuple[slice, slice]


def half_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Maps (N, C, X, Y, Z), bfloat16 and channels last, normalised over the voxels of each crop and channel."""
    channels = x.shape[1]
    return _HalfNorm.apply(
        x,
        torch.ones(channels) if weight is None else weight,
        torch.zeros(channels) if bias is None else bias,
        eps,
    )


def half_norm_(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
    """The same in the place of ``x``, with the leaky ReLU that follows it (``slope`` 1: none), without gradient."""
    mean, factor = _moments(x, eps)
    scale = factor * weight
    _write(x, scale, bias - mean * scale, x, slope)
    return x


class _HalfNorm(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        mean, factor = _moments(x, eps)
        scale = factor * weight
        out = torch.empty_like(x, memory_format=LAST)
        _write(x, scale, bias - mean * scale, out)
        ctx.save_for_backward(x, mean, factor, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, factor, scale = ctx.saved_tensors
        (flat, wide), (given, _) = wide_rows(x), wide_rows(gradient.contiguous(memory_format=LAST))
        sums, products = (torch.zeros(len(flat), flat.shape[2]) for _ in range(2))
        for crops, rows in _pieces(flat):
            part = given[crops, rows].float()
            sums[crops] += part.sum(1)
            products[crops] += part.mul_(flat[crops, rows]).sum(1)
        voxels = flat.shape[1] * wide
        shifted = over_voxels(sums, wide)
        weighted = (over_voxels(products, wide) - mean * shifted) * factor
        # scale * (gradient - mean(gradient) - normalised * mean(gradient * normalised))
        along = scale * factor * weighted / -voxels
        off = scale * shifted / -voxels - along * mean
        across, along, off = (_wide(t, wide) for t in (scale, along, off))
        result = torch.empty_like(x, memory_format=LAST)
        out = wide_rows(result)[0]
        for crops, rows in _pieces(flat):
            part = flat[crops, rows].float().mul_(along[crops]).add_(off[crops])
            out[crops, rows] = part.addcmul_(given[crops, rows].float(), across[crops])
        return result, weighted.sum(0), shifted.sum(0), None


def _moments(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps) of each crop and channel, (N, C) float32."""
    flat, wide = wide_rows(x)
    sums, squares = (torch.zeros(len(flat), flat.shape[2]) for _ in range(2))
    # Squares of differences from some voxel: of the numbers themselves they would lose digits far from zero.
    near = x[:, :, 0, 0, 0].float()
    shift = _wide(near, wide)
    for crops, rows in _pieces(flat):
        part = flat[crops, rows].float().sub_(shift[crops])
        sums[crops] += part.sum(1)
        squares[crops] += part.square_().sum(1)
    voxels = flat.shape[1] * wide
    off = over_voxels(sums, wide) / voxels
    variance = (over_voxels(squares, wide) / voxels - off.square()).clamp_(min=0)
    return near + off, torch.rsqrt(variance + eps)


def _write(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor, slope: float = 1) -> None:
    """Put x * scale + shift, each (N, C), into ``out``, where it is negative times ``slope``."""
    (flat, wide), (to, _) = wide_rows(x), wide_rows(out)
    scale, shift = _wide(scale, wide), _wide(shift, wide)
    for crops, rows in _pieces(flat):
        part = flat[crops, rows].float().mul_(scale[crops]).add_(shift[crops])
        to[crops, rows] = part if slope == 1 else F.leaky_relu_(part, slope)


def _pieces(flat: Tensor) -> Iterator[Piece]:
    """Slices of crops and rows: several crops where they are small, parts of one where they are large."""
    count, rows, width = flat.shape
    crops, step = max(1, _NUMBERS // (rows * width)), max(1, _NUMBERS // width)
    for first in range(0, count, crops):
        for row in range(0, rows, step):
            yield slice(first, first + crops), slice(row, row + step)


def _wide(values: Tensor, wide: int) -> Tensor:
    """(N, C) to (N, 1, wide * C)."""
    return values.repeat(1, wide)[:, None]
