"""A network on its device, laid out so that the device's convolutions are quick; values and names stay."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from VoCoCore.cards import slow_half
from VoCoCore.devices import Machine
from VoCoCore.models.compiling import is_compiled
from VoCoCore.models.convolutions import quick_convolutions, safe_convolutions
from VoCoCore.models.norms import norms_in_place_of

SomeModule = TypeVar("SomeModule", bound=nn.Module)


def placed(module: SomeModule, machine: Machine) -> SomeModule:
    """``module`` on its machine's device, laid out as suits it; values and names stay.

    On a CPU the weights' channels become the innermost axis, and with them the maps': oneDNN's 3D convolutions then
    train in 0.7 of the time. Batches of one crop get these too, see `convolutions.py`; instance norms stay in that
    order, see `norms.py`. On a card whose cuDNN has no 3D convolutions in half precision but for that order, it is
    taken too.
    """
    module = module.to(machine.device)
    if machine.device.type == "cuda" and machine.precision != "fp32" and slow_half():
        return module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if machine.device.type != "cpu":
        return module
    if is_compiled(module):  # the compiler makes quick ones of its own, and stops at ours
        safe_convolutions(module)
    else:
        quick_convolutions(module)
        norms_in_place_of(module)
    return module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
