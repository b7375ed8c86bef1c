"""torch.compile for the encoders of a job, whose crops all have one size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch._dynamo
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from VoCoCore.errors import EnvironmentFault
from VoCoCore.models.interface import Encoder

# Pieces of one function's code that torch compiles at most; beyond, it goes on uncompiled. A Swin transformer has one
# for each size of its blocks, with and without shift, and with and without gradient.
_PIECES = 64


def compile_encoders(module: nn.Module, tell: Callable[..., None]) -> None:
    """Have each encoder in ``module`` compiled at its first call, which lasts, and say so by ``tell`` (an event)."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _PIECES)
    for part in module.modules():
        if isinstance(part, Encoder):
            part.compile(dynamic=False)
    # Before a silence that would look like a fault.
    tell("stage", name="compiling", text="the network is compiled by the first steps, which take minutes")


def uncompiled() -> Any:
    """Decorator of work that is done as written: its batches have many sizes, and each would be compiled anew."""
    return torch.compiler.set_stance("force_eager")


def is_compiled(module: nn.Module) -> bool:
    """Whether ``module`` or a part of it was given to `compile_encoders`."""
    return any(part._compiled_call_impl is not None for part in module.modules())


def cannot_compile(error: BaseException) -> EnvironmentFault | None:
    """What an error of torch's compiler means to the user; None for any other error."""
    if not isinstance(error, TorchDynamoException):
        return None
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return EnvironmentFault(
        f"the network cannot be compiled on this machine: {said[:200]}",
        "leave run.compile out, or install what compiles: Triton for a GPU, a C++ compiler for a processor",
    )
