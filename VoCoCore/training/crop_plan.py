"""Which crops suit the cases, the network and the memory: their shape, how many a step sees, and their flips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from VoCoCore.data.sides import sides
from VoCoCore.training.memory import SAFE

# Share of the voxels that could be had, which a better shape may cost.
ENOUGH = 0.88
FLIPS = (0.2, 0.0, 0.0)  # bodies are nearly symmetric from left to right, and in no other way


@dataclass(frozen=True)
class Need:
    """What was measured of one crop going forward and backward: MB for it, MB for weights and optimiser whatever the
    number of crops, MB that can be had, and seconds (None: not measured).
    """

    crop: float
    fixed: float
    room: float
    seconds: float | None = None

    @property
    def crops(self) -> int:
        """Crops that fit, with some memory left for others."""
        return max(0, int((SAFE * self.room - self.fixed) / max(self.crop, 1e-6)))


def crop_size(
    voxels: Sequence[int], weight: Sequence[float] | np.ndarray, low: int, step: int, most: float
) -> tuple[int, int, int]:
    """The crop (3,) for a case of ``voxels`` (3,) with edges that are multiples of ``step`` and at least ``low``.

    Of those with nearly as many voxels as can be had, ``most`` at the utmost (more where ``low`` asks for it), it is
    the one whose edges times ``weight`` (3,) are the most alike: with the voxel size as weight, a cube in mm. An axis
    along which the crop spans the whole case may be as short as it is; more of the longest axes is seen otherwise.
    """
    whole = np.maximum(low, -(-np.asarray(voxels) // step) * step)
    edges = [np.arange(low, edge + 1, step) for edge in whole]
    sizes = np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1).reshape(-1, 3)
    counts = sizes.prod(axis=1)
    fits = counts <= max(most, low**3)
    fits &= counts >= ENOUGH * counts[fits].max()
    sizes, counts = sizes[fits], counts[fits]
    lengths = sizes * np.asarray(weight, float)
    shortest = np.where(sizes == whole, np.inf, lengths).min(axis=1)
    stretch = np.maximum(1.0, np.round(lengths.max(axis=1) / shortest, 3))
    cover = (sizes / whole).min(axis=1)
    best = np.lexsort((-cover, -counts, stretch))[0]
    x, y, z = (int(edge) for edge in sizes[best])
    return x, y, z


def cases_and_crops(cases: int, each: int, fit: int, fixed: tuple[int | None, int | None]) -> tuple[int, int]:
    """Cases that one rank sees in a step, up to ``cases``, and crops of each, up to ``each``: at most ``fit`` together.

    As many crops as fit, of as many cases as possible. ``fixed``: what is not to be chosen (None where it is).
    """
    numbers = [
        range(1, most + 1) if asked is None else (asked,)
        for most, asked in ((cases, fixed[0]), (each, fixed[1]))
    ]
    pairs = [(n, k) for n in numbers[0] for k in numbers[1]]
    fitting = [pair for pair in pairs if pair[0] * pair[1] <= fit] or [min(pairs)]
    return max(fitting, key=lambda pair: (pair[0] * pair[1], pair[0]))


def flips_for(names: Sequence[str]) -> tuple[tuple[float, float, float], str]:
    """Probabilities of flips along x, y, z for classes called ``names``, and why: none where left is not right."""
    if why := sides(names):
        return (0.0, *FLIPS[1:]), why
    return FLIPS, "bodies are nearly symmetric from left to right, and no label has a side"
