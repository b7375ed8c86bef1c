"""What the losses of a softmax over classes need, in one pass over the logits and with nothing of their size kept.

Written out, such a loss keeps several tensors as large as the logits (probabilities, their squares, one-hot labels)
until the backward pass. Here both passes go through the voxels in blocks; only one number a voxel is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers in a block on a CPU: half a megabyte of float32 stays in a core's cache. An accelerator takes whole crops.
BLOCK = 1 << 17


def _blocks(logits: Tensor) -> Iterator[tuple[int, slice]]:
    crops, classes, voxels = logits.shape
    step = max(BLOCK // classes, 1024) if logits.device.type == "cpu" else voxels
    for crop in range(crops):
        for first in range(0, voxels, step):
            yield crop, slice(first, first + step)


class _SoftmaxSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, classes: Tensor, valid: Tensor, squared: bool
    ) -> tuple[Tensor, Tensor]:
        kind = torch.promote_types(logits.dtype, torch.float32)
        sums = torch.zeros(logits.shape[:2], dtype=kind, device=logits.device)
        log_true = torch.zeros(classes.shape, dtype=kind, device=logits.device)
        log_norm = torch.empty_like(log_true)
        for crop, part in _blocks(logits):
            z, counts = logits[crop, :, part].to(kind), valid[crop, part]
            top = z.amax(0)
            p = (z - top).exp_()
            total = p.sum(0)
            norm = top + total.log()
            true = z.gather(0, classes[crop, part].unsqueeze(0)).squeeze(0) - norm
            log_true[crop, part] = torch.where(counts, true, 0.0)
            # A voxel that does not count has no probabilities, now and in the backward pass.
            log_norm[crop, part] = torch.where(counts, norm, torch.inf)
            p *= counts / total
            sums[crop] += (p.square_() if squared else p).sum(1)
        ctx.save_for_backward(logits, classes, log_norm)
        ctx.squared = squared
        return sums, log_true

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sums: Tensor, of_true: Tensor) -> tuple[Tensor, None, None, None]:
        logits, classes, log_norm = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for crop, part in _blocks(logits):
            norm = log_norm[crop, part]
            true = torch.where(norm == torch.inf, 0.0, of_true[crop, part])
            p = (logits[crop, :, part].to(norm.dtype) - norm).exp_()
            factor = of_sums[crop].unsqueeze(1)
            pull = p.square().mul_(2 * factor) if ctx.squared else p * factor
            # d p_j / d z_k = p_k (1[j = k] - p_j), d log p_t / d z_k = 1[t = k] - p_k
            pull -= p.mul_(pull.sum(0).add_(true))
            pull.scatter_add_(0, classes[crop, part].unsqueeze(0), true.unsqueeze(0))
            gradient[crop, :, part] = pull
        return gradient, None, None, None


def softmax_sums(logits: Tensor, classes: Tensor, valid: Tensor, *, squared: bool) -> tuple[Tensor, Tensor]:
    """Per crop and class the sum of probabilities (or of their squares), per voxel the true class' log-probability.

    ``logits`` (M, K, N), ``classes`` (M, N) int64 in [0, K), ``valid`` (M, N) bool: voxels that count. Returns sums
    (M, K) and log-probabilities (M, N), float32 or wider; what does not count has 0, and its logits no gradient.
    """
    sums, log_true = _SoftmaxSums.apply(logits, classes, valid, squared)
    return sums, log_true


def per_class(values: Tensor, classes: Tensor, count: int, *, by_rows: bool | None = None) -> Tensor:
    """Sum the numbers of each class: ``values``, ``classes`` (M, N) -> (M, count).

    ``by_rows`` writes each number into its class' row first: no two sums race on an accelerator, so its result is the
    same every time (the default there); a CPU adds in order.
    """
    by_rows = values.device.type != "cpu" if by_rows is None else by_rows
    if by_rows:
        crops = zip(values, classes, strict=True)
        rows = [v.new_zeros(count, len(v)).scatter(0, c[None], v[None]).sum(1) for v, c in crops]
        return torch.stack(rows)
    wide = values.double()
    return wide.new_zeros(len(values), count).scatter_add(1, classes, wide).to(values.dtype)
