"""Defects of the libraries below us that would silently spoil a training, and how they are kept away."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from VoCoCore.devices import Machine


def mend(network: nn.Module, machine: Machine) -> None:
    """Keep ``network`` clear of torch's known defects on ``machine``; its weights and names stay as they are.

    On a CPU in bf16, the weight gradient of a 3D convolution over a map that is two voxels deep is left partly
    unwritten (torch 2.13: whatever was in memory before). Encoders end in such maps, so there it runs in float32.
    """
    if machine.device.type != "cpu" or machine.precision != "bf16":
        return
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            setattr(module, "forward", _wide_where_flat(module.forward))  # noqa: B010 - mypy forbids the assignment


def _wide_where_flat(convolve: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if x.shape[2] != 2:
            return convolve(x)
        with torch.autocast("cpu", enabled=False):
            return convolve(x.float())

    return forward
