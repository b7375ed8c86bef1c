"""What all encoders share: crops in, feature maps out, and how weights of other inputs are made to fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Size = tuple[int, int, int]


class Encoder(nn.Module):
    """Crops (N, in_channels, X, Y, Z) in, a list of maps (N, C_i, X / s_i, ...) out, high to low resolution.

    ``channels`` holds the C_i and ``strides`` the s_i. With ``last_only`` the list holds the last map alone, and the
    parts in ``beside``, which that one can do without, stay as they are.
    """

    name: ClassVar[str]
    strides: ClassVar[tuple[int, ...]]
    feature_multiple: ClassVar[int] = 1
    stem: ClassVar[tuple[str, ...]]  # names of the weights whose second axis is the input's channels
    beside: ClassVar[tuple[str, ...]] = ()
    channels: tuple[int, ...]

    def __init__(self, in_channels: int, feature_size: int, input_size: Size, checkpointing: bool) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.feature_size = feature_size
        self.input_size = input_size
        self.checkpointing = checkpointing
        self.last_only = False

    def keep_to_last(self) -> None:
        """Turn ``last_only`` on."""
        self.last_only = True
        for name in self.unreached:
            self.get_submodule(name).requires_grad_(False)

    @property
    def unreached(self) -> tuple[str, ...]:
        """Names of the parts that take no part in what comes out."""
        return self.beside if self.last_only else ()

    def description(self) -> dict[str, str]:
        """What `build_encoder` needs to build this network again; kept with its weights."""
        return {
            "encoder": self.name,
            "in_channels": str(self.in_channels),
            "feature_size": str(self.feature_size),
            "input_size": ",".join(map(str, self.input_size)),
        }

    def adapt(self, name: str, tensor: Tensor, source: Mapping[str, str]) -> tuple[Tensor, str]:
        """Make a tensor of a weights file fit this network, where there is a rule for it.

        ``source`` is the description of the network that the tensor comes from, as far as it is known.
        Returns the tensor and what was done to it ("" for nothing).
        """
        if name not in self.stem or tensor.ndim < 2 or tensor.shape[1] == self.in_channels:
            return tensor, ""
        # Every channel gets its share of the sum: one image in all channels gives what it gave before.
        share = tensor.sum(1, keepdim=True) / self.in_channels
        repeats = [1, self.in_channels] + [1] * (tensor.ndim - 2)
        return share.repeat(repeats), f"{name}: from {tensor.shape[1]} to {self.in_channels} input channels"

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """What a decoder goes up again: a map at each halving of the input, from stride 1 on."""
        return self(x)

    def _run(self, block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return run_block(block, x, again=self.checkpointing)


def run_block(block: Callable[..., Tensor], *inputs: Tensor, again: bool) -> Tensor:
    """The output of a block; with ``again`` it is computed once more for the backward pass instead of kept."""
    if not (again and torch.is_grad_enabled()):
        return block(*inputs)
    # Nothing in these networks is random, so the generators need not be saved and restored.
    return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
