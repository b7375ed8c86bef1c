"""What of a network is trained, and how fast: freezing, and the learning rates of the encoder's levels."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from VoCoCore.finetune_settings import FinetuneOptimSettings
from VoCoCore.models.interface import Encoder

# Level of a parameter of an encoder, counted from the input: which stage of the network its name belongs to.
_LEVELS = (
    (re.compile(r"^(input_block|vit\.patch_embedding|swinViT\.patch_embed|encoder1)\b"), lambda found: 0),
    (re.compile(r"^downsamples\.(\d+)"), lambda found: 1 + int(found[1])),
    (re.compile(r"^bottleneck"), lambda found: 4),
    (re.compile(r"^swinViT\.layers(\d)"), lambda found: int(found[1])),
    (re.compile(r"^vit\.blocks\.(\d+)"), lambda found: 1 + int(found[1]) // 3),
    (re.compile(r"^encoder(\d+)"), lambda found: min(int(found[1]) - 1, 4)),
)
DEEPEST = 4


def level_of(name: str) -> int:
    """Level of an encoder's parameter, 0 (next to the input) to 4 (next to the last map)."""
    for pattern, level in _LEVELS:
        if found := pattern.match(name):
            return min(level(found), DEEPEST)
    return DEEPEST


def freeze(encoder: Encoder, what: str) -> None:
    """Take the ``stem`` (first convolutions) or the whole ``encoder`` out of training; ``none``: nothing."""
    for name, parameter in encoder.named_parameters():
        if what == "encoder" or (what == "stem" and name in encoder.stem):
            parameter.requires_grad_(False)


def parameter_groups(network: nn.Module, optim: FinetuneOptimSettings) -> list[dict[str, Any]]:
    """Groups for the optimiser: the decoder's at the schedule's rate, the encoder's by level at its share of it.

    A level l of the encoder gets encoder_lr * layer_decay^(4 - l), and nothing during the first share
    ``decoder_first`` of the steps.
    """
    encoder = network.encoder
    assert isinstance(encoder, Encoder) and optim.steps and optim.encoder_lr is not None
    freeze(encoder, optim.freeze)
    own = {id(parameter) for parameter in encoder.parameters()}
    groups: list[dict[str, Any]] = [{"params": [p for p in network.parameters() if id(p) not in own]}]
    for level in range(DEEPEST + 1):
        members = [p for name, p in encoder.named_parameters() if level_of(name) == level and p.requires_grad]
        if members:
            share = optim.encoder_lr * optim.layer_decay ** (DEEPEST - level)
            first = round(optim.decoder_first * optim.steps)
            groups.append({"params": members, "share": share, "first_step": first})
    return groups
