"""Small networks, their cards, and files of published names, that several tests share."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets import UNETR, DynUNet, SwinUNETR
from torch import Tensor, nn

from VoCoCore.models.card import ModelCard, OutputClass, palette
from VoCoCore.models.networks import build_network

# Feature size, crop, and MONAI's whole network of it for two channels and three outputs.
WHOLE = {
    "swin_unetr": (12, (64, 64, 64), lambda: SwinUNETR(2, 3, feature_size=12, use_v2=True)),
    "unetr": (4, (32, 48, 32), lambda: UNETR(2, 3, (32, 48, 32), 4, 64, 256, 1)),
    "unet": (
        4,
        (32, 32, 48),
        lambda: DynUNet(3, 2, 3, [3] * 5, [1, 2, 2, 2, 2], [2] * 4, [4, 8, 16, 32, 64]),
    ),
}


def card_of(encoder: str = "unet", task: str = "segmentation", outputs: int = 3, **changes: Any) -> ModelCard:
    """The card of a small network for two images; ``changes`` are fields of it."""
    size, window, _ = WHOLE[encoder]
    names = zip((f"class {i}" for i in range(outputs)), palette(outputs), strict=True)
    facts: dict[str, Any] = {
        "task": task,
        "encoder": encoder,
        "feature_size": size,
        "window": window,
        "classes": tuple(OutputClass(name, (i,), colour) for i, (name, colour) in enumerate(names)),
        "activation": "softmax",
        "prepare": {"spacing": [1.0, 1.0, 1.0]},
        "channels": ("t1", "t2"),
    }
    return ModelCard(**{**facts, **changes})


def network_of(encoder: str = "unet", **changes: Any) -> nn.Module:
    """A network of `card_of`, the same random weights each time."""
    torch.manual_seed(0)
    return build_network(card_of(encoder, **changes))


def published(outputs: int | None = None, channels: int = 1) -> dict[str, Tensor]:
    """A state dict under the published names at feature size 12, with random values: the encoder, or (with
    ``outputs``) the whole network.
    """
    whole = SwinUNETR(channels, outputs or 2, feature_size=12, use_v2=True).state_dict()
    return {
        name: torch.rand_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in whole.items()
        if outputs or not name.startswith(("decoder", "out."))
    }


def nnunet(widths: tuple[int, ...] = (32, 64, 128, 256, 320, 320)) -> dict[str, Tensor]:
    """The names and shapes of nnU-Net's PlainConvUNet, without memory: every tensor is one number, expanded."""
    number, state = torch.zeros(1), {}
    for stage, width in enumerate(widths):
        before = widths[stage - 1] if stage else 1
        for conv, channels in enumerate((before, width)):
            name = f"stages.{stage}.0.convs.{conv}"
            for half in ("encoder", "decoder.encoder"):
                state[f"{half}.{name}.conv.weight"] = number.expand(width, channels, 3, 3, 3)
                state[f"{half}.{name}.all_modules.0.weight"] = number.expand(width, channels, 3, 3, 3)
    for stage in range(len(widths) - 1):
        width = widths[-2 - stage]
        state[f"decoder.stages.{stage}.convs.0.conv.weight"] = number.expand(width, 2 * width, 3, 3, 3)
        state[f"decoder.seg_layers.{stage}.weight"] = number.expand(21, width, 1, 1, 1)
    return state
