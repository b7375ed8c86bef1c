"""Instance norm of maps whose innermost axis are the channels, as they are after `placing.placed`.

torch's own turns each map round and back, forward and backward, which costs more than the norm; its batch norm of one
crop at a time does not, but loses two digits in that order.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LAST = torch.channels_last_3d
WIDE = 16  # voxels whose channels are treated as one row: sums over rows of a few numbers are slow
_BLOCK = 512  # voxels whose products are summed in float32 before the blocks' sums are


class LastNorm3d(nn.InstanceNorm3d):
    """The same values and gradients; float32 maps (N, C, X, Y, Z) in channels-last order stay in it."""

    def forward(self, x: Tensor) -> Tensor:
        """The normalised maps."""
        if not self._suits(x):
            return super().forward(x)
        return _Norm.apply(x, self.weight, self.bias, self.eps)

    def _suits(self, x: Tensor) -> bool:
        plain = x.ndim == 5 and x.dtype == torch.float32 and x.device.type == "cpu" and x[0, 0].numel() > 1
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled("cpu")
        return plain and not traced and not self.track_running_stats and x.is_contiguous(memory_format=LAST)


def norms_in_place_of(module: nn.Module) -> None:
    """Make every instance norm of ``module`` a `LastNorm3d`; weights, names and values stay."""
    for part in module.modules():
        if type(part) is nn.InstanceNorm3d:
            part.__class__ = LastNorm3d


class _Norm(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the voxels of each crop and channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        flat, wide = wide_rows(x)
        voxels = flat.shape[1] * wide
        centred = flat - (row_sums(flat, wide) / voxels).repeat(1, wide)[:, None]
        factor = torch.rsqrt(row_products(centred, centred, wide) / voxels + eps)
        scale = factor if weight is None else factor * weight
        shift = torch.zeros(x.shape[1]) if bias is None else bias
        out = torch.empty_like(x, memory_format=LAST)
        torch.addcmul(shift.repeat(wide), centred, scale.repeat(1, wide)[:, None], out=wide_rows(out)[0])
        ctx.save_for_backward(centred, factor, scale)
        ctx.affine = weight is not None, bias is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        centred, factor, scale = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=LAST)
        flat, wide = wide_rows(gradient)
        voxels = centred.shape[1] * wide
        sums, products = row_sums(flat, wide), row_products(flat, centred, wide)
        result = torch.empty_like(gradient, memory_format=LAST)
        out = wide_rows(result)[0]
        # scale * (gradient - mean(gradient) - centred * factor^2 * mean(gradient * centred))
        along, off = scale * factor.square() * products / -voxels, scale * sums / -voxels
        torch.addcmul(off.repeat(1, wide)[:, None], centred, along.repeat(1, wide)[:, None], out=out)
        out.addcmul_(flat, scale.repeat(1, wide)[:, None])
        weighted, shifted = ctx.affine
        return (
            result,
            (products * factor).sum(0) if weighted else None,
            sums.sum(0) if shifted else None,
            None,
        )


def wide_rows(x: Tensor) -> tuple[Tensor, int]:
    """A view (N, voxels / wide, wide * C) of channels-last maps (N, C, X, Y, Z), and ``wide``."""
    count, channels = x.shape[:2]
    rows = x.movedim(1, -1).reshape(count, -1, channels)
    wide = math.gcd(rows.shape[1], WIDE)
    return rows.view(count, -1, wide * channels), wide


def row_sums(flat: Tensor, wide: int) -> Tensor:
    """Sums over the voxels of `wide_rows`: (N, C)."""
    return flat.sum(1).view(len(flat), wide, -1).sum(1)


def row_products(a: Tensor, b: Tensor, wide: int) -> Tensor:
    """Sums of a * b over the voxels of `wide_rows`, (N, C): diagonals of matrix products, which need no copy."""
    count, voxels = len(a), a.shape[1] * wide
    block = math.gcd(voxels, _BLOCK)
    if block < 32 and voxels <= 4096:
        block = voxels
    a, b = (part.view(count * voxels // block, block, -1) for part in (a, b))
    parts = torch.bmm(a.transpose(1, 2), b).diagonal(dim1=1, dim2=2)
    return parts.reshape(count, voxels // block, -1).sum(1)
