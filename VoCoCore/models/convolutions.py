"""Convolutions that train sooner on a CPU than torch's own, with the same names, weights and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from VoCoCore.models.convolutions_avx2 import cubic, has_avx2_alone, is_quicker
from VoCoCore.models.rows import LAST


class FlatConv3d(nn.Conv3d):
    """A convolution that is safe on a CPU in bf16: maps of one or two voxels along an axis are computed in float32.

    There torch's (2.13: oneDNN's) leaves parts of the result or of the weights' gradient unwritten: whatever was in
    memory before, or NaN. Encoders end in such maps, where float32 costs next to nothing.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The convolved maps."""
        if not (_in_bf16(input) and _is_flat(input, self.stride)):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())


class FlatTransposed3d(nn.ConvTranspose3d):
    """A transposed convolution that is safe on a CPU in bf16, as `FlatConv3d` is."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The convolved maps."""
        if not (_in_bf16(input) and _is_flat(input, (1, 1, 1))):
            return super().forward(input, output_size)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float(), output_size)


class SingleConv3d(FlatConv3d):
    """A convolution that gives a single crop on a CPU to oneDNN too, and with AVX2 alone goes a quicker way.

    A single crop in float32 torch has computed by a kernel of its own, two to four times slower, where one sample's
    channels x depth x height are 20480 or fewer: the lower maps of every network.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding
        if isinstance(padding, str) or self.padding_mode != "zeros" or not _takes_onednn(input):
            return super()._conv_forward(input, weight, bias)
        if input.is_contiguous(memory_format=LAST) and has_avx2_alone() and is_quicker(self):
            return cubic(input, weight, bias)
        if len(input) > 1:
            return super()._conv_forward(input, weight, bias)
        return torch.mkldnn_convolution(input, weight, bias, padding, self.stride, self.dilation, self.groups)


class PointwiseConv3d(SingleConv3d):
    """A convolution of one voxel whose gradients are matrix products over maps in channels-last order.

    oneDNN's take four times as long where channels are few, as they are in a network's last convolution.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        trained = torch.is_grad_enabled() and _takes_onednn(input) and input.is_contiguous(memory_format=LAST)
        if not trained:
            return super()._conv_forward(input, weight, bias)
        return _Pointwise.apply(input, weight, bias)


def is_pointwise(part: nn.Conv3d) -> bool:
    """Whether a voxel of the result depends on the same voxel of the input and on no other."""
    return (
        part.kernel_size == (1, 1, 1)
        and part.stride == (1, 1, 1)
        and part.groups == 1
        and not any(part.padding)
    )


def quick_convolutions(module: nn.Module) -> None:
    """Make every convolution of ``module`` a `SingleConv3d` or `PointwiseConv3d`; weights, names and values stay.

    The transposed ones are made safe.
    """
    for part in module.modules():
        if type(part) is nn.Conv3d:
            part.__class__ = PointwiseConv3d if is_pointwise(part) else SingleConv3d
    safe_convolutions(module)


def safe_convolutions(module: nn.Module) -> None:
    """Make every convolution of ``module`` one that bf16 does not spoil; weights, names and values stay."""
    safe = {nn.Conv3d: FlatConv3d, nn.ConvTranspose3d: FlatTransposed3d}
    for part in module.modules():
        if type(part) in safe:
            part.__class__ = safe[type(part)]


def _in_bf16(x: Tensor) -> bool:
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return x.device.type == "cpu" and (half or x.dtype == torch.bfloat16)


def _is_flat(x: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether maps, or what a convolution of ``stride`` makes of them, have one or two voxels along an axis."""
    return any(edge <= 2 * step for edge, step in zip(x.shape[2:], stride, strict=False))


def _takes_onednn(x: Tensor) -> bool:
    plain = x.ndim == 5 and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return (
        plain and torch.backends.mkldnn.is_available() and not traced and not torch.is_autocast_enabled("cpu")
    )


class _Pointwise(torch.autograd.Function):
    """Maps (N, C, X, Y, Z), weight (K, C, 1, 1, 1) and bias (K,) to maps (N, K, X, Y, Z)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.mkldnn_convolution(x, weight, bias, (0,) * 3, (1,) * 3, (1,) * 3, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows, inputs = _rows(gradient), _rows(x)
        back = (rows @ weight.flatten(1)).view(x.movedim(1, -1).shape).movedim(-1, 1) if of_x else None
        return (
            back,
            (rows.T @ inputs).view_as(weight) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).reshape(-1, x.shape[1])
