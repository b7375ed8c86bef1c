"""Convolutions of 3^3 voxels where the processor has AVX2 and nothing newer: torch's values, sooner.

oneDNN (of torch 2.13) has no kernel of its own there for the gradient to the weights of channels-last maps; its way
over general matrix products reaches half of the processor's speed. Here neighbours are laid beside each other, plane by
plane within the cache, so that the products are fewer and larger. And it fills 12 channels up to 16: where two voxels
of a row are convolved at once, their 24 channels fill its vectors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from VoCoCore.models.rows import LAST

_PAIRED = (4, 12)  # channels of a result that is quicker by two voxels: 0.7 and 0.8 of the time
_PRODUCTS = range(12, 193)  # channels on both sides with which the products below are quicker
_BYTES = 4 << 20  # that a thread's products read, or add to: more leave the cache
_ONE, _TAPS = (1, 1, 1), 3


def has_avx2_alone() -> bool:
    """Whether torch computes with AVX2 here and with nothing newer."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def is_quicker(part: nn.Conv3d) -> bool:
    """Whether `cubic` computes ``part``, and sooner: a map by neighbours of 3^3 voxels, of as many voxels again."""
    padded = part.kernel_size == (_TAPS,) * 3 and part.padding == _ONE and part.padding_mode == "zeros"
    dense = part.stride == part.dilation == _ONE and part.groups == 1
    channels = part.in_channels, part.out_channels
    gains = any(n in _PAIRED for n in channels) or all(n in _PRODUCTS for n in channels)
    return padded and dense and gains


def cubic(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of float32 maps (N, C, X, Y, Z), in channels-last order, by ``weight`` (K, C, 3, 3, 3).

    Maps (N, K, X, Y, Z); outside the maps are zeros.
    """
    return _Cubic.apply(x, weight, bias) if torch.is_grad_enabled() else _convolved(x, weight, bias)


class _Cubic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolved(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=LAST)
        return (
            _map_gradient(gradient, x, weight) if of_x else None,
            _weight_gradient(gradient, x, weight) if of_weight else None,
            gradient.sum((0, 2, 3, 4)) if of_bias else None,
        )


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if len(weight) not in _PAIRED or x.shape[-1] % 2:
        return torch.mkldnn_convolution(x, weight, bias, _ONE, _ONE, _ONE, 1)
    # Both voxels of a pair see its four neighbours along the row, each through weights that are zero for one.
    wide = torch.cat([nn.functional.pad(weight, side) for side in ((0, 1), (1, 0))])
    twice = None if bias is None else bias.repeat(2)
    pairs = torch.mkldnn_convolution(x, wide.contiguous(memory_format=LAST), twice, _ONE, (1, 1, 2), _ONE, 1)
    rows = pairs.movedim(1, -1)
    return rows.reshape(*rows.shape[:3], x.shape[-1], len(weight)).movedim(-1, 1)


def _torchs(gradient: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, ...]:
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, _ONE, _ONE, _ONE, False, (0, 0, 0), 1, wanted
    )


def _map_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    if weight.shape[1] not in _PAIRED:
        return _torchs(gradient, x, weight, [True, False, False])[0]
    return _convolved(gradient, weight.flip(2, 3, 4).transpose(0, 1), None)


def _weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Sum over voxels v of gradient(v) x(v + tap): (K, C, 3, 3, 3), in channels-last order."""
    if not all(n in _PRODUCTS for n in weight.shape[:2]):
        return _torchs(gradient, x, weight, [False, True, False])[1]
    g, x = gradient.movedim(1, -1), x.movedim(1, -1)
    width, height, depth, outputs = g.shape[1:]
    inputs, threads = x.shape[-1], torch.get_num_threads()
    read, added = height * depth * _TAPS * (outputs + inputs), outputs * inputs * _TAPS**3
    planes = min(width, threads * max(1, _BYTES // (max(read, added) * x.element_size())))
    # A product has the taps along X in its rows and those along Z in its columns; there are three, along Y.
    sums = x.new_zeros(_TAPS, planes, _TAPS * outputs, _TAPS * inputs)
    left = x.new_empty(planes, height, depth, _TAPS, outputs)
    right = x.new_zeros(planes, height + 2, depth, _TAPS, inputs)  # zeros stay where neighbours are outside
    for one_g, one_x in zip(g, x, strict=True):
        for first in range(0, width, planes):
            count = min(planes, width - first)
            _neighbours_along_rows(one_x[first : first + count], right)
            _neighbouring_planes(one_g, first, left[:count])
            columns = left[:count].flatten(1, 2).flatten(2).transpose(1, 2)
            for tap, products in enumerate(sums):
                shifted = right[:count, tap : tap + height].flatten(1, 2).flatten(2)
                products[:count].baddbmm_(columns, shifted)
    taps = sums.sum(1).view(_TAPS, _TAPS, outputs, _TAPS, inputs)
    return taps.permute(2, 1, 0, 3, 4).contiguous().movedim(-1, 1)


def _neighbours_along_rows(planes: Tensor, into: Tensor) -> None:
    """Beside each voxel of ``planes`` (P, Y, Z, C) the one before and the one behind it: (P, 1 + Y + 1, Z, 3, C)."""
    inner = into[: len(planes), 1:-1]
    inner[:, :, 1:, 0] = planes[:, :, :-1]
    inner[:, :, :, 1] = planes
    inner[:, :, :-1, 2] = planes[:, :, 1:]


def _neighbouring_planes(maps: Tensor, first: int, into: Tensor) -> None:
    """For planes ``first`` ... of an input those of ``maps`` (X, Y, Z, K) that see them: (P, Y, Z, 3, K)."""
    for tap in range(_TAPS):
        begin = first + 1 - tap
        low, high = max(begin, 0), min(begin + len(into), len(maps))
        into[: low - begin, :, :, tap] = 0
        into[low - begin : high - begin, :, :, tap] = maps[low:high]
        into[high - begin :, :, :, tap] = 0
