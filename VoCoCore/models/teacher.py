"""The teacher: a moving average of a student's parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """Wraps ``network`` as a teacher without gradient, kept in evaluation of autograd only (its mode is the student's).

    The network brings its own initial values: the published code starts it independently of the student.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student, for all parameters in one pass; buffers stay."""
        mine: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = list(student.parameters())
        torch._foreach_mul_(mine, momentum)
        torch._foreach_add_(mine, theirs, alpha=1 - momentum)

    @torch.no_grad()
    def forward(self, *args: object) -> object:
        """What the network gives, without a graph."""
        return self.network(*args)
