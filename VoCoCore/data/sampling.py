"""Which volume, which crops, which augmentation: a pure function of (seed, sample number), numpy only.

Nothing else is random in a job's data, so the same numbers come out whatever the number of loader workers, ranks
or restarts. The generator is numpy's counter-based Philox, keyed by seed and sample number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from VoCoCore.geometry import Box, Grid
from VoCoCore.settings import PretrainSettings

# Streams of one seed that must not meet.
TRAIN, VALIDATION, ORDER, CONTROL = 0, 1, 2, 3


@dataclass(frozen=True)
class Draw:
    """Everything random about one sample: k random crops, then the n base crops, of one region of one volume.

    ``region``: first voxel (3,) of the region that the grid divides, in the prepared volume; ``starts`` and ``sizes``
    (k + n, 3) int64 in the region's index space; ``labels`` (k, n) float64; ``flips`` (k + n, 3) bool; ``turns``
    (k + n,) quarter turns in the xy plane, 0 to 3; ``shifts`` (k + n,) added to intensities in [0, 1]; ``keep``
    (k + n,) bool.
    """

    region: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    flips: np.ndarray
    turns: np.ndarray
    shifts: np.ndarray
    keep: np.ndarray


def generator(seed: int, number: int, stream: int = TRAIN) -> np.random.Generator:
    """The generator of one sample: independent for each (seed, number, stream)."""
    key = np.array([seed, number], dtype=np.uint64)
    return np.random.Generator(
        np.random.Philox(key=key, counter=np.array([0, 0, 0, stream], dtype=np.uint64))
    )


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, cases: int) -> np.ndarray:
    return generator(seed, epoch, ORDER).permutation(cases)


def case_of(seed: int, number: int, cases: int) -> int:
    """Position of the case of sample ``number``: every case once per epoch, in an order of the epoch's own."""
    epoch, place = divmod(number, cases)
    return int(_order(seed, epoch, cases)[place])


def random_starts(
    rng: np.random.Generator, count: int, volume_size: Sequence[int], crop_size: Sequence[int]
) -> np.ndarray:
    """First voxels (count, 3) int64 of random crops: uniform whole numbers, as the published sampler draws them.

    The crop flush with the far end is excluded, an axis that the crop spans whole has only 0.
    """
    room = np.maximum(np.subtract(volume_size, crop_size), 1)
    return rng.integers(0, room, size=(count, 3))


def draw(settings: PretrainSettings, number: int, shape: Sequence[int], stream: int = TRAIN) -> Draw:
    """The draw of sample ``number`` from a prepared volume of ``shape`` (3,), at least crops.volume_size."""
    crops, augment = settings.crops, settings.augment
    assert crops.volume_size and crops.random_size and crops.input_size
    grid, rng = Grid(crops.volume_size, crops.counts), generator(settings.run.seed, number, stream)
    region = rng.integers(0, np.subtract(shape, crops.volume_size) + 1)
    starts = random_starts(rng, crops.random_crops, crops.volume_size, crops.random_size)
    sizes = np.broadcast_to(np.asarray(crops.random_size), starts.shape)
    labels = grid.labels_of(_label_starts(settings, starts, number, stream), sizes)
    base_starts, base_sizes = grid.starts_and_sizes
    total = len(starts) + grid.n
    active = 1.0 if stream == TRAIN else 0.0
    # A quarter turn needs equal edges in the plane; a half turn always fits.
    square = crops.input_size[0] == crops.input_size[1]
    turns = rng.integers(1, 4, size=total) if square else np.full(total, 2)
    return Draw(
        region=region,
        starts=np.concatenate([starts, base_starts]),
        sizes=np.concatenate([sizes, base_sizes]),
        labels=labels,
        flips=rng.random((total, 3)) < augment.flip * active,
        turns=np.where(rng.random(total) < augment.turn * active, turns, 0),
        shifts=np.where(
            rng.random(total) < augment.shift * active,
            rng.uniform(-augment.shift_range, augment.shift_range, size=total),
            0.0,
        ).astype(np.float32),
        keep=rng.random(total) >= settings.pretext.drop_crops * active,
    )


def _label_starts(settings: PretrainSettings, starts: np.ndarray, number: int, stream: int) -> np.ndarray:
    """Starts whose labels are taught: the crops' own, or in the control run those of other random places."""
    if not settings.pretext.shuffle_labels or stream != TRAIN:
        return starts
    crops = settings.crops
    assert crops.volume_size and crops.random_size
    rng = generator(settings.run.seed, number, CONTROL)
    return random_starts(rng, len(starts), crops.volume_size, crops.random_size)


def chance_accuracy(volume_size: Sequence[int], counts: Sequence[int], crop_size: Sequence[int]) -> float:
    """Share of random crops that the best constant answer gets right, exact for `random_starts`.

    The best-overlapping base factors into one per axis, so every possible start of each axis is simply counted.
    """
    share = 1.0
    for axis in range(3):
        line = Grid((volume_size[axis], 1, 1), (counts[axis], 1, 1))
        room = max(int(volume_size[axis]) - int(crop_size[axis]), 1)
        starts = np.zeros((room, 3))
        starts[:, 0] = np.arange(room)
        sizes = np.broadcast_to(np.array([crop_size[axis], 1, 1]), starts.shape)
        best = line.labels_of(starts, sizes).argmax(axis=1)
        share *= np.bincount(best).max() / room
    return share


def random_boxes(draw: Draw) -> list[Box]:
    """The random crops of a draw as boxes in the region's index space."""
    k = len(draw.labels)
    return [Box(tuple(a), tuple(b)) for a, b in zip(draw.starts[:k], draw.sizes[:k], strict=True)]
