"""Instance norm of maps whose innermost axis are the channels, as they are after `placing.placed`.

torch's own turns each map round and back, forward and backward, which costs more than the norm; its batch norm of one
crop at a time does not, but loses two digits in that order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from VoCoCore.models.norms_half import half_norm
from VoCoCore.models.rows import LAST, row_products, row_sums, wide_rows


class LastNorm3d(nn.InstanceNorm3d):
    """The same values and gradients; maps (N, C, X, Y, Z) of float32 or bfloat16 that are channels last stay so."""

    def forward(self, x: Tensor) -> Tensor:
        """The normalised maps."""
        if not self._suits(x):
            return super().forward(x)
        norm = half_norm if x.dtype == torch.bfloat16 else _Norm.apply
        with torch.autocast("cpu", enabled=False):
            return norm(x, self.weight, self.bias, self.eps)

    def _suits(self, x: Tensor) -> bool:
        known = x.dtype in (torch.float32, torch.bfloat16)
        plain = x.ndim == 5 and known and x.device.type == "cpu" and x[0, 0].numel() > 1
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
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
