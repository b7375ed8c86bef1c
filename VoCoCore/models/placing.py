"""A network on its device, laid out so that the device's convolutions are quick; values and names stay."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from VoCoCore.devices import Machine
from VoCoCore.models.norms import norms_in_place_of

SomeModule = TypeVar("SomeModule", bound=nn.Module)


class SingleConv3d(nn.Conv3d):
    """A convolution that gives a single crop on a CPU to oneDNN too.

    torch has it computed by a kernel of its own, two to four times slower, where one sample's channels x depth x height
    are 20480 or fewer: the lower maps of every network.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding
        if (
            isinstance(padding, str)
            or self.padding_mode != "zeros"
            or len(input) > 1
            or not _takes_onednn(input)
        ):
            return super()._conv_forward(input, weight, bias)
        return torch.mkldnn_convolution(input, weight, bias, padding, self.stride, self.dilation, self.groups)


def _takes_onednn(x: Tensor) -> bool:
    plain = x.ndim == 5 and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return (
        plain and torch.backends.mkldnn.is_available() and not traced and not torch.is_autocast_enabled("cpu")
    )


def quick_with_one(module: nn.Module) -> None:
    """Make every convolution of ``module`` a `SingleConv3d`; weights, names and values stay."""
    for part in module.modules():
        if type(part) is nn.Conv3d:
            part.__class__ = SingleConv3d


def placed(module: SomeModule, machine: Machine) -> SomeModule:
    """``module`` on its machine's device, laid out as suits it; values and names stay.

    On a CPU the weights' channels become the innermost axis, and with them the maps': oneDNN's 3D convolutions then
    train in 0.7 of the time. Batches of one crop get these too, see `SingleConv3d`; instance norms stay in that
    order, see `norms.py`.
    """
    module = module.to(machine.device)
    if machine.device.type != "cpu":
        return module
    quick_with_one(module)
    norms_in_place_of(module)
    return module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
