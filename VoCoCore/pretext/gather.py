"""Embeddings of all ranks in sample order, with their gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        ctx.count = len(x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # Every rank computes the same loss from the same gathered rows, so its own rows hold the full gradient.
        # Gradients of parameters are averaged over ranks afterwards, which the factor undoes.
        first = dist.get_rank() * ctx.count
        return grad[first : first + ctx.count] * dist.get_world_size()


def ranks_together() -> int:
    """How many ranks share a training batch; 1 alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(x: Tensor) -> Tensor:
    """Concatenate ``x`` (rows, ...) over ranks in rank order; the same tensor where there is one rank."""
    return x if ranks_together() == 1 else _Gather.apply(x)
