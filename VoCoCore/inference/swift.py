"""A copy of a network that gives the same values sooner on a CPU.

Channels become the innermost axis of all maps, where oneDNN's 3D convolutions take half the time. torch's instance
norm would turn each map round and back, and its group norm loses three digits in that order; so the norm is written
out here, with sums over small blocks, and works in place. Convolutions of one voxel become matrix products, and one
window alone is given to oneDNN as several are.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock
from torch import Tensor, nn

from VoCoCore.devices import Machine
from VoCoCore.models.convolutions import is_pointwise, quick_convolutions
from VoCoCore.models.norms_half import half_norm_
from VoCoCore.models.placing import placed
from VoCoCore.models.rows import LAST, WIDE, row_products, row_sums, wide_rows


def swift(network: nn.Module, machine: Machine) -> nn.Module:
    """``network`` for prediction on ``machine``: a quicker copy on a CPU, else itself, moved there.

    Crops (N, C, X, Y, Z) in, logits out, with the network's values to the machine's precision. Both are in evaluation
    mode; to be called within the machine's autocast.
    """
    if machine.device.type != "cpu":
        return placed(network, machine).eval()
    made = copy.deepcopy(network).eval().requires_grad_(False)
    quick_convolutions(made)
    for module in list(made.modules()):
        slope = _slope_taken_over(module)
        for name, part in list(module.named_children()):
            if _follows_a_convolution(module, part):
                setattr(module, name, _Norm(part, slope))
            elif isinstance(part, nn.Conv3d) and is_pointwise(part):
                setattr(module, name, _Pointwise(part))
    return _ChannelsLast(made.to(memory_format=LAST))  # type: ignore[call-overload]


def _follows_a_convolution(block: nn.Module, norm: nn.Module) -> bool:
    """Whether nobody else reads what the norm takes, so that it may be overwritten."""
    instance = isinstance(norm, nn.InstanceNorm3d) and not norm.track_running_stats
    return instance and isinstance(block, UnetBasicBlock | UnetResBlock)


def _slope_taken_over(block: nn.Module) -> float:
    """Slope of the leaky ReLU behind each norm of ``block``, which the norms do from now on; 1: none."""
    if not isinstance(block, UnetBasicBlock) or not isinstance(block.lrelu, nn.LeakyReLU):
        return 1.0
    if not all(_follows_a_convolution(block, norm) for norm in (block.norm1, block.norm2)):
        return 1.0
    slope = block.lrelu.negative_slope
    block.lrelu = nn.Identity()
    return slope


class _ChannelsLast(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.contiguous(memory_format=LAST))


class _Norm(nn.Module):
    """Instance norm of (N, C, X, Y, Z), with its leaky ReLU, in channels-last order and in place; else torch's own."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: Any, slope: float) -> None:
        super().__init__()
        self.eps, self.slope = norm.eps, slope
        ones, zeros = torch.ones(norm.num_features), torch.zeros(norm.num_features)
        self.register_buffer("scale", ones if norm.weight is None else norm.weight.detach())
        self.register_buffer("shift", zeros if norm.bias is None else norm.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        last = x.is_contiguous(memory_format=LAST)
        if last and x.dtype == torch.bfloat16:
            return half_norm_(x, self.scale, self.shift, self.eps, self.slope)
        if not last or x.dtype != torch.float32:
            scale, shift = self.scale.to(x.dtype), self.shift.to(x.dtype)
            x = F.instance_norm(x, weight=scale, bias=shift, eps=self.eps)
        else:
            with torch.autocast("cpu", enabled=False):
                x = self._in_place(x)
        return x if self.slope == 1 else F.leaky_relu_(x, self.slope)

    def _in_place(self, x: Tensor) -> Tensor:
        flat, wide = wide_rows(x)
        voxels = flat.shape[1] * wide
        flat -= (row_sums(flat, wide) / voxels).repeat(1, wide)[:, None]
        factor = self.scale * torch.rsqrt(row_products(flat, flat, wide) / voxels + self.eps)
        torch.addcmul(self.shift.repeat(wide), flat, factor.repeat(1, wide)[:, None], out=flat)
        return x


class _Pointwise(nn.Module):
    """A convolution of one voxel as a matrix product over the innermost axis."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, part: nn.Conv3d) -> None:
        super().__init__()
        self.register_buffer("weight", part.weight.detach().flatten(1))
        self.register_buffer("bias", None if part.bias is None else part.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        rows = x.movedim(1, -1)
        out = rows.reshape(-1, rows.shape[-1]) @ self.weight.to(x.dtype).T
        if self.bias is not None:
            wide = math.gcd(len(out), WIDE)
            out.view(-1, wide * out.shape[1]).add_(self.bias.to(x.dtype).repeat(wide))
        return out.view(*rows.shape[:-1], -1).movedim(-1, 1)
