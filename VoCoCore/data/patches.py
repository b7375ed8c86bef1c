"""Which crops of a labelled case, and which augmentation: a pure function of (seed, sample number), numpy only.

Nothing is searched for at a step: where each label value lies was found when the case was prepared (`places.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from VoCoCore.data.places import Places
from VoCoCore.data.sampling import TRAIN, generator
from VoCoCore.finetune_settings import FinetuneAugmentSettings, PatchSettings

# What many batches have none of: nothing is computed for it then, and a card is not asked either.
OPTIONAL = ("warped", "gamma", "noise", "blur")
LEAST_DEVIATION = 0.3  # voxels; a blur below it does nothing


@dataclass(frozen=True)
class Patches:
    """k crops of one case, and what is done to them.

    ``starts`` (k, 3) int64: first voxels, outside the volume where it is smaller than a crop; ``flips`` (k, 3) bool;
    ``turns`` (k,) quarter turns in the xy plane; ``matrix`` (k, 3, 3) float32 takes offsets from the centre of the
    augmented crop to offsets in the original, in voxels, and is used where ``warped`` (k,) holds; ``scale``, ``shift``,
    ``gamma``, ``noise``, ``blur`` (k,) float32 as `augment_intensity` takes them; ``seeds`` (k,) int64 of the noise.
    """

    starts: np.ndarray
    flips: np.ndarray
    turns: np.ndarray
    matrix: np.ndarray
    warped: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    gamma: np.ndarray
    noise: np.ndarray
    blur: np.ndarray
    seeds: np.ndarray

    def needed(self) -> np.ndarray:
        """Which of `OPTIONAL` any crop has: (4,) bool."""
        return np.array([self.warped.any(), (self.gamma != 1).any(), self.noise.any(), self.blur.any()])


def draw_patches(
    patches: PatchSettings,
    augment: FinetuneAugmentSettings,
    seed: int,
    number: int,
    shape: Sequence[int],
    places: Places | None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> Patches:
    """The crops of sample ``number`` from a prepared case of ``shape`` (3,) with ``spacing`` (3,) in mm.

    ``places`` None: one view of the whole case, for a classification, whose size the crop then has.
    """
    assert patches.size and augment.flip
    rng, size = generator(seed, number, TRAIN), np.asarray(patches.size)
    if places is None:
        starts = np.zeros((1, 3), np.int64)
    else:
        centres = _centres(rng, patches, places, shape)
        starts = starts_around(centres, size, shape)
    k = len(starts)
    square = size[0] == size[1]
    turns = rng.integers(1, 4, size=k) if square else np.full(k, 2)
    matrix, warped = _maps(rng, k, augment, np.asarray(spacing, float))
    return Patches(
        starts=starts,
        flips=rng.random((k, 3)) < augment.flip,
        turns=np.where(rng.random(k) < augment.turn, turns, 0),
        matrix=matrix,
        warped=warped,
        scale=_some(rng, k, augment.scale, 1 + rng.uniform(-1, 1, k) * augment.scale_range, 1.0),
        shift=_some(rng, k, augment.shift, rng.uniform(-1, 1, k) * augment.shift_range, 0.0),
        gamma=_some(rng, k, augment.gamma, np.exp(rng.uniform(-1, 1, k) * augment.gamma_range), 1.0),
        noise=_some(rng, k, augment.noise, rng.uniform(0, 1, k) * augment.noise_range, 0.0),
        blur=_some(rng, k, augment.blur, _widths(rng, k, augment.blur_range), 0.0),
        seeds=rng.integers(0, 2**62, size=k),
    )


def starts_around(centres: np.ndarray, size: Sequence[int] | np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """First voxels (k, 3) of crops around ``centres`` (k, 3), moved inside; a larger crop surrounds the volume."""
    room = np.subtract(shape, size)
    inside = np.clip(centres - np.asarray(size) // 2, 0, np.maximum(room, 0))
    return np.where(room < 0, -((-room) // 2), inside).astype(np.int64)


def _centres(
    rng: np.random.Generator, patches: PatchSettings, places: Places, shape: Sequence[int]
) -> np.ndarray:
    """Centres (k, 3): on a labelled voxel with probability ``positive``, else on the background."""
    assert patches.per_case
    positive = rng.random(patches.per_case) < patches.positive
    centres = np.empty((patches.per_case, 3), np.int64)
    for row, wanted in enumerate(positive):
        kind = _kind(rng, patches.balance, places, bool(wanted))
        if kind is None:
            centres[row] = rng.integers(0, shape)
        else:
            voxels = places.voxels[kind]
            centres[row] = voxels[rng.integers(len(voxels))]
    return centres


def _kind(rng: np.random.Generator, balance: str, places: Places, positive: bool) -> int | None:
    """Position in ``places`` of the value to stand on; None where the case has no such voxel."""
    kinds = np.flatnonzero(places.values > 0 if positive else places.values == 0)
    if len(kinds) == 0:
        return None
    if balance == "classes" or not positive:
        return int(kinds[rng.integers(len(kinds))])
    share = places.counts[kinds] / places.counts[kinds].sum()
    return int(kinds[np.searchsorted(np.cumsum(share), rng.random(), side="right").clip(max=len(kinds) - 1)])


def _maps(
    rng: np.random.Generator, k: int, augment: FinetuneAugmentSettings, spacing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rotations and changes of size in space, as maps (k, 3, 3) of offsets in voxels; and which do anything (k,)."""
    turned, resized = rng.random(k) < augment.rotate, rng.random(k) < augment.zoom
    angles = np.radians(rng.uniform(-1, 1, (k, 3)) * augment.degrees) * turned[:, None]
    # A change of size and its reverse are equally likely.
    factors = np.exp(rng.uniform(-1, 1, k) * np.log1p(augment.zoom_range) * resized)
    maps = np.stack([_rotation(angle) / factor for angle, factor in zip(angles, factors, strict=True)])
    in_voxels = maps * spacing[None, None, :] / spacing[None, :, None]
    return in_voxels.astype(np.float32), turned | resized


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) about x, then y, then z, by angles in radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _widths(rng: np.random.Generator, k: int, most: float) -> np.ndarray:
    """Widths (k,) of blurs in voxels, up to ``most``."""
    return rng.uniform(min(LEAST_DEVIATION, most), most, k)


def _some(
    rng: np.random.Generator, k: int, probability: float, values: np.ndarray, otherwise: float
) -> np.ndarray:
    return np.where(rng.random(k) < probability, values, otherwise).astype(np.float32)
