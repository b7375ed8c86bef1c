"""What fine-tuning trains: an encoder with a decoder for segmentation, or with one layer for classification."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from VoCoCore.errors import SettingsError, nearest
from VoCoCore.models.card import ModelCard
from VoCoCore.models.decoders import build_decoder
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.heads import pool_maps
from VoCoCore.models.interface import Encoder


class SegmentationNetwork(nn.Module):
    """Crops (N, channels, X, Y, Z) in, logits (N, outputs, X, Y, Z) out.

    With ``deep`` (deep supervision) and in training, a list of logits at full, 1/2 and 1/4 resolution. The values are
    those of MONAI's SwinUNETR (v2), UNETR and DynUNet, whose names follow ``encoder.`` and ``decoder.`` in ours.
    """

    def __init__(self, encoder: Encoder, outputs: int, deep: bool = False) -> None:
        super().__init__()
        _check_outputs(outputs)
        self.encoder = encoder
        self.decoder = build_decoder(encoder, outputs, deep)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        return self.decoder(self.encoder.pyramid(x))


class ClassificationNetwork(nn.Module):
    """Crops (N, channels, X, Y, Z) in, logits (N, outputs) out: the means of all maps, dropout, one linear layer."""

    def __init__(self, encoder: Encoder, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        _check_outputs(outputs)
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(sum(encoder.channels), outputs)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.dropout(pool_maps(self.encoder(x)))
        # A few numbers, whose differences decide: no half precision for them.
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head(pooled)


def build_network(card: ModelCard) -> nn.Module:
    """The network that a card describes, with random weights; SettingsError where there can be none such."""
    kinds = {"segmentation": SegmentationNetwork, "classification": ClassificationNetwork}
    if card.task not in kinds:
        raise SettingsError(f"there is no task '{card.task}'.{nearest(card.task, kinds)}", " or ".join(kinds))
    encoder = build_encoder(card.encoder, card.in_channels, card.feature_size, card.window)
    return kinds[card.task](encoder, card.outputs)


def _check_outputs(outputs: int) -> None:
    if outputs < 1:
        raise SettingsError(f"a network needs at least one output, not {outputs}", "name the classes")
