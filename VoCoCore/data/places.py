"""Where each label value lies in a prepared volume, found once so that no step has to search; numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STORED_PLACES = 4096  # positions kept of each value: enough that crops seldom repeat


@dataclass(frozen=True)
class Places:
    """Label values that are present, in order.

    ``values`` (n,), ``counts`` (n,) voxels of each, ``voxels``: n arrays int16 (m, 3) of up to STORED_PLACES of them,
    drawn evenly.
    """

    values: np.ndarray
    counts: np.ndarray
    voxels: tuple[np.ndarray, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that these take: up to 24 kB a value."""
        return sum(array.nbytes for array in (self.values, self.counts, *self.voxels))


def places_of(label: np.ndarray, seed: int) -> Places:
    """Where each value lies in a prepared label (X, Y, Z), negative ones left out; the same for the same ``seed``."""
    flat = np.ascontiguousarray(label).ravel()
    counts = np.bincount(flat[flat >= 0])
    values = np.flatnonzero(counts)
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    voxels = []
    for value in values:
        found = np.flatnonzero(flat == value)
        if len(found) > STORED_PLACES:
            found = np.sort(rng.choice(found, STORED_PLACES, replace=False))
        voxels.append(np.stack(np.unravel_index(found, label.shape), axis=1).astype(np.int16))
    return Places(values, counts[values], tuple(voxels))
