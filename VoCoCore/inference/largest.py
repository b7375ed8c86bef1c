"""Only the largest connected part of each label is kept."""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from VoCoCore.inference.regions import Regions
from VoCoCore.models.card import ModelCard


def keep_largest(labels: np.ndarray, card: ModelCard) -> None:
    """Leave of each output of ``card`` only its largest part connected by faces, in place; large regions first.

    ``labels`` (X, Y, Z) as `Regions` writes them. Where a part of a region goes, regions that lie in it go too, and the
    others that hold there stay: a second core becomes whole tumour, and background only where there is none.
    """
    boxes, regions = ndimage.find_objects(labels), Regions(card)
    for number in card.writing_order():
        values = [v for v in card.classes[number].values if 0 < v <= len(boxes) and boxes[v - 1]]
        if not values:
            continue
        inside = labels[_around([boxes[value - 1] for value in values])]
        parts, count = ndimage.label(reduce(np.logical_or, (inside == value for value in values)))
        if count > 1:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            gone = (parts > 0) & (parts != sizes.argmax())
            left = regions.chosen(_without(card, number, len(boxes))).numpy()
            inside[gone] = left[inside[gone]]


def _around(boxes: list[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The box that holds all ``boxes``."""
    return tuple(
        slice(min(s.start for s in along), max(s.stop for s in along)) for along in zip(*boxes, strict=True)
    )


def _without(card: ModelCard, number: int, most: int) -> Tensor:
    """What holds, bool (K, most + 1), at values from 0 to ``most`` where the output ``number`` holds no more."""
    region = set(card.classes[number].values)
    holds = torch.zeros(card.outputs, most + 1, dtype=torch.bool)
    for other, kind in enumerate(card.classes):
        if not set(kind.values) <= region:
            holds[other, [value for value in kind.values if value <= most]] = True
    return holds
