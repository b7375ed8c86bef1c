"""Networks as outlines: names and shapes without values, so that a network of GBs costs neither memory nor time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from VoCoCore.models.card import ModelCard
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.identify import CLASSIFIER, NETWORK
from VoCoCore.models.interface import Encoder
from VoCoCore.models.networks import ClassificationNetwork, SegmentationNetwork, build_network


class _RealNumbers(TorchFunctionMode):
    """MONAI reads numbers from a linspace while it builds: that one must hold some."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


@contextmanager
def without_values() -> Iterator[None]:
    """What is built inside has names and shapes alone."""
    with torch.device("meta"), _RealNumbers():
        yield


def outline_of(card: ModelCard) -> nn.Module:
    """The network that a card describes, without values. Raises SettingsError where there can be none such."""
    with without_values():
        return build_network(card)


def outline(description: Mapping[str, str], kind: str = "encoder", outputs: int | None = None) -> nn.Module:
    """The network of a kind (`identify.py`) around the encoder of a description, without values.

    Raises SettingsError for an encoder or a size that cannot be.
    """
    size: Any = [int(edge) for edge in description.get("input_size", "64,64,64").split(",")]
    facts = (description["encoder"], int(description["in_channels"]), int(description["feature_size"]), size)
    with without_values():
        encoder: Encoder = build_encoder(*facts)
        if kind == NETWORK and outputs:
            return SegmentationNetwork(encoder, outputs)
        if kind == CLASSIFIER and outputs:
            return ClassificationNetwork(encoder, outputs)
        return encoder
