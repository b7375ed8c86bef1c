"""What the losses of a softmax over classes need, in one pass over the logits and with nothing of their size kept.

Written out, such a loss keeps several tensors as large as the logits (probabilities, their squares, one-hot labels)
until the backward pass. Here both passes go through the voxels in blocks; only one number a voxel is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers in a block on a CPU: a megabyte of float32 stays in its cache. An accelerator takes whole crops.
BLOCK = 1 << 18


def _blocks(logits: Tensor) -> Iterator[tuple[int, slice]]:
    crops, classes, voxels = logits.shape
    step = max(BLOCK // classes, 1024) if logits.device.type == "cpu" else voxels
    for crop in range(crops):
        for first in range(0, voxels, step):
            yield crop, slice(first, first + step)


class SoftmaxSums(NamedTuple):
    """Per crop and class (M, K): sums of p g, of p (or p^2), of g; ``log_true`` (M, N): log p of the true class."""

    both: Tensor
    predicted: Tensor
    true: Tensor
    log_true: Tensor


class _SoftmaxSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, classes: Tensor, squared: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kind = torch.promote_types(logits.dtype, torch.float32)
        both, predicted, true = torch.zeros(3, *logits.shape[:2], dtype=kind, device=logits.device).unbind()
        log_true, log_norm = torch.empty(2, *classes.shape, dtype=kind, device=logits.device).unbind()
        for crop, part in _blocks(logits):
            z, k = logits[crop, :, part].to(kind).contiguous(), classes[crop, part].unsqueeze(0)
            counts, k = k >= 0, k.clamp(min=0)
            top = z.amax(0, keepdim=True)
            p = (z - top).exp_()
            total = p.sum(0, keepdim=True)
            norm = top + total.log()
            log_true[crop, part] = torch.where(counts, z.gather(0, k) - norm, 0.0).squeeze(0)
            # A voxel that does not count has no probabilities, now and in the backward pass.
            log_norm[crop, part] = torch.where(counts, norm, torch.inf).squeeze(0)
            p *= counts / total
            # Labels as rows of this block alone; sums of rows come out the same every time, also on an accelerator.
            rows = torch.zeros_like(p).scatter_(0, k, counts.to(kind))
            true[crop] += rows.sum(1)
            both[crop] += rows.mul_(p).sum(1)
            predicted[crop] += (p.square_() if squared else p).sum(1)
        ctx.save_for_backward(logits, classes, log_norm)
        ctx.squared = squared
        ctx.mark_non_differentiable(true)
        return both, predicted, true, log_true

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_both: Tensor, of_predicted: Tensor, _: None, of_log: Tensor
    ) -> tuple[Tensor, None, None]:
        logits, classes, log_norm = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for crop, part in _blocks(logits):
            norm, k = log_norm[crop, part].unsqueeze(0), classes[crop, part].unsqueeze(0)
            counts, k = k >= 0, k.clamp(min=0)
            p = (logits[crop, :, part].to(norm.dtype) - norm).exp_()
            of_true = torch.where(counts, of_log[crop, part], 0.0)
            of_true += p.gather(0, k).mul_(of_both[crop].index_select(0, k[0]))
            factor = of_predicted[crop].unsqueeze(1)
            pull = p.square().mul_(2 * factor) if ctx.squared else p * factor
            # d p_j / d z_i = p_i (1[i = j] - p_j); for the true class through its logarithm: 1[i = t] - p_i
            pull -= p.mul_(pull.sum(0, keepdim=True).add_(of_true))
            pull.scatter_add_(0, k, of_true)
            gradient[crop, :, part] = pull
        return gradient, None, None


def softmax_sums(logits: Tensor, classes: Tensor, *, squared: bool) -> SoftmaxSums:
    """Everything that a loss of probabilities p and one-hot labels g sums up.

    ``logits`` (M, K, N); ``classes`` (M, N) int64 below K, negative where a voxel does not count: it adds nothing, has
    0 in ``log_true``, and its logits get no gradient. ``squared``: sums of p^2 instead of p. float32 or wider; no
    second derivatives.
    """
    return SoftmaxSums(*_SoftmaxSums.apply(logits, classes, squared))
