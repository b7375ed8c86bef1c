"""The decoders of the three encoders: MONAI's blocks under MONAI's names, so that whole published networks fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from monai.networks.blocks import UnetrUpBlock
from monai.networks.blocks.dynunet_block import UnetOutBlock, UnetUpBlock
from monai.networks.nets import DynUNet
from torch import Tensor, nn

from VoCoCore.models.interface import Encoder, run_block

DEEP_HEADS = "deep_supervision_heads"  # under this name in every decoder; only training knows them
_DEEP = 2  # at 1/2 and 1/4 of the resolution


class Decoder(nn.Module):
    """An encoder's pyramid in, logits (N, outputs, X, Y, Z) out.

    With ``deep``, and in training only, a list of logits at full, 1/2 and 1/4 resolution. Beyond training logits are
    float32, whatever precision the rest is computed in.
    """

    output_name: ClassVar[str]  # what the last convolution is called

    def __init__(self, widths: Sequence[int], outputs: int, deep: bool, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.deep = deep
        self._add_steps(widths)
        self.add_module(self.output_name, UnetOutBlock(3, widths[0], outputs))
        if deep:
            heads = (UnetOutBlock(3, width, outputs) for width in widths[1 : 1 + _DEEP])
            self.add_module(DEEP_HEADS, nn.ModuleList(heads))

    def _add_steps(self, widths: Sequence[int]) -> None:
        raise NotImplementedError

    def steps(self) -> list[nn.Module]:
        """The blocks (map, skipped map) -> map of twice the resolution, lowest first."""
        raise NotImplementedError

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor | list[Tensor]:
        x, decoded = pyramid[-1], []
        for block, skipped in zip(self.steps(), reversed(pyramid[:-1]), strict=True):
            x = run_block(block, x, skipped, again=self.checkpointing)
            decoded.append(x)
        logits = self._logits(x)
        if not (self.deep and self.training):
            return logits
        lower = zip(self.get_submodule(DEEP_HEADS).children(), decoded[-2::-1], strict=False)
        return [logits, *(head(map_) for head, map_ in lower)]

    def _logits(self, x: Tensor) -> Tensor:
        last = self.get_submodule(self.output_name)
        if self.training or not torch.is_autocast_enabled(x.device.type):
            return last(x)
        # Of two logits that are rounded to 8 bits often neither is the larger.
        with torch.autocast(x.device.type, enabled=False):
            return last(x.float())


class _NumberedDecoder(Decoder):
    """Residual blocks called decoder5, decoder4 and so on, the last one ``decoder{last}``, then ``out``."""

    output_name = "out"
    last: ClassVar[int]

    def _add_steps(self, widths: Sequence[int]) -> None:
        for step in range(len(widths) - 2, -1, -1):
            self.add_module(f"decoder{self.last + step}", _up_block(widths[step + 1], widths[step]))

    def steps(self) -> list[nn.Module]:
        return [self.get_submodule(f"decoder{number}") for number in range(5, self.last - 1, -1)]


class SwinUnetrDecoder(_NumberedDecoder):
    """Keys ``decoder5`` (stride 16) to ``decoder1`` (stride 1), and ``out``."""

    last = 1


class UnetrDecoder(_NumberedDecoder):
    """Keys ``decoder5`` (stride 8) to ``decoder2`` (stride 1), and ``out``."""

    last = 2


class UnetDecoder(Decoder):
    """Keys ``upsamples.0`` (stride 8) to ``upsamples.3`` (stride 1), and ``output_block``."""

    output_name = "output_block"

    def __init__(self, widths: Sequence[int], outputs: int, deep: bool, checkpointing: bool) -> None:
        super().__init__(widths, outputs, deep, checkpointing)
        self.apply(DynUNet.initialize_weights)

    def _add_steps(self, widths: Sequence[int]) -> None:
        lowest_first = range(len(widths) - 2, -1, -1)
        self.upsamples = nn.ModuleList(_plain_up_block(widths[i + 1], widths[i]) for i in lowest_first)

    def steps(self) -> list[nn.Module]:
        return list(self.upsamples)


DECODERS: dict[str, type[Decoder]] = {
    "swin_unetr": SwinUnetrDecoder,
    "unetr": UnetrDecoder,
    "unet": UnetDecoder,
}


def build_decoder(encoder: Encoder, outputs: int, deep: bool = False) -> Decoder:
    """A new decoder with random weights (torch's current generator) that fits ``encoder.pyramid``."""
    widths = list(encoder.channels)
    if encoder.name == "swin_unetr":
        widths.insert(4, 8 * encoder.feature_size)
    return DECODERS[encoder.name](widths, outputs, deep, encoder.checkpointing)


def _up_block(in_channels: int, out_channels: int) -> nn.Module:
    return UnetrUpBlock(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=3,
        upsample_kernel_size=2,
        norm_name="instance",
        res_block=True,
    )


def _plain_up_block(in_channels: int, out_channels: int) -> nn.Module:
    norm = ("INSTANCE", {"affine": True})
    return UnetUpBlock(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=3,
        stride=2,
        upsample_kernel_size=2,
        norm_name=norm,
    )
