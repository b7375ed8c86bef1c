"""Boxes and grids in a volume's index space, position labels, and the maps to the patient's RAS space.

Conventions: axis i of an array is R, j is A, k is S; an affine maps voxel centres (i, j, k) to RAS millimetres.
Box coordinate b is the face at continuous index b - 0.5, so ``Box((0, 0, 0), shape)`` is exactly the volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from VoCoCore.errors import SettingsError

Triple = tuple[float, float, float]

_USUAL_MM = (0.05, 20.0)  # of a voxel along an axis


def triple(values: Sequence[float] | np.ndarray, what: str) -> Triple:
    """Return ``values`` as three finite floats, or raise SettingsError naming ``what``."""
    numbers = tuple(float(v) for v in values)
    if len(numbers) != 3 or not all(np.isfinite(numbers)):
        raise SettingsError(f"{what} needs three finite numbers, not {tuple(values)}")
    return numbers[0], numbers[1], numbers[2]


@dataclass(frozen=True)
class Box:
    """A half-open, axis-aligned box [start, start + size) in index space; edges may be fractional.

    Raises SettingsError for a size that is not positive.
    """

    start: Triple
    size: Triple

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", triple(self.start, "the start of a box"))
        object.__setattr__(self, "size", triple(self.size, "the size of a box"))
        if min(self.size) <= 0:
            raise SettingsError(f"a box needs a positive size, not {self.size}")

    @property
    def stop(self) -> Triple:
        """First coordinates outside the box."""
        return triple(np.add(self.start, self.size), "the end of a box")

    @property
    def volume(self) -> float:
        """Volume in voxels."""
        return prod(self.size)

    def overlap(self, other: Box) -> float:
        """Volume of the intersection with ``other``, in voxels (0 when they do not meet)."""
        edges = np.minimum(self.stop, other.stop) - np.maximum(self.start, other.start)
        return float(np.prod(np.maximum(edges, 0.0)))

    def to_world(self, affine: np.ndarray) -> np.ndarray:
        """Return the affine (4, 4) that maps the unit cube [0, 1]^3 onto the box in RAS millimetres."""
        unit = np.eye(4)
        unit[:3, :3] = np.diag(self.size)
        unit[:3, 3] = np.asarray(self.start) - 0.5
        return np.asarray(affine, dtype=float) @ unit

    def corners(self, affine: np.ndarray) -> np.ndarray:
        """Return the eight corners (8, 3) in RAS millimetres, x slowest."""
        cube = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1).reshape(8, 3)
        return cube @ (world := self.to_world(affine))[:3, :3].T + world[:3, 3]


@dataclass(frozen=True)
class Grid:
    """Base crops: a volume of ``volume_size`` voxels cut into ``counts`` cells that cover it without overlap.

    Edges are the integers round(i * size / n), so cells may differ by a voxel. Classes are numbered in C order of
    the counts: (i * ny + j) * nz + k. Raises SettingsError when an axis has fewer voxels than cells.
    """

    volume_size: tuple[int, int, int]
    counts: tuple[int, int, int]

    def __post_init__(self) -> None:
        for name in ("volume_size", "counts"):
            values = triple(getattr(self, name), f"grid {name}")
            if any(v != int(v) or v < 1 for v in values):
                raise SettingsError(f"grid {name} needs three positive whole numbers, not {values}")
            object.__setattr__(self, name, tuple(int(v) for v in values))
        if any(size < n for size, n in zip(self.volume_size, self.counts, strict=True)):
            raise SettingsError(
                f"a grid of {self.counts} base crops does not fit a volume of {self.volume_size} voxels",
                "use fewer base crops (crops.counts) or a larger volume (crops.volume_size)",
            )

    @property
    def n(self) -> int:
        """Number of base crops."""
        return prod(self.counts)

    @cached_property
    def edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges of the cells along each axis, int64 arrays of counts + 1."""
        along = [
            np.rint(np.arange(n + 1) * size / n).astype(np.int64)
            for size, n in zip(self.volume_size, self.counts, strict=True)
        ]
        return along[0], along[1], along[2]

    @cached_property
    def starts_and_sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """First voxels (n, 3) and sizes (n, 3) of all base crops, int64, in class order."""
        lows = np.meshgrid(*(e[:-1] for e in self.edges), indexing="ij")
        sizes = np.meshgrid(*(np.diff(e) for e in self.edges), indexing="ij")
        return np.stack(lows, -1).reshape(-1, 3), np.stack(sizes, -1).reshape(-1, 3)

    def boxes(self) -> list[Box]:
        """All base crops in class order."""
        return [Box(tuple(a), tuple(b)) for a, b in zip(*self.starts_and_sizes, strict=True)]

    def overlap_labels(self, box: Box) -> np.ndarray:
        """Position label y of ``box``: float64 (n,), y_i = volume(box and base i) / volume(box).

        In [0, 1]; sums to the share of the box that lies inside the volume (1 for a crop of it).
        """
        return self.labels_of(np.asarray([box.start]), np.asarray([box.size]))[0]

    def labels_of(self, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Position labels (m, n) float64 of m boxes given by starts (m, 3) and sizes (m, 3)."""
        starts, stops = np.asarray(starts, float), np.asarray(starts, float) + np.asarray(sizes, float)
        shares = []
        for axis, edge in enumerate(self.edges):
            low = np.maximum(starts[:, axis, None], edge[None, :-1])
            high = np.minimum(stops[:, axis, None], edge[None, 1:])
            shares.append(np.maximum(high - low, 0.0) / (stops - starts)[:, axis, None])
        # An axis-aligned overlap factors into one share per axis, so no pair of boxes is ever visited.
        return np.einsum("mi,mj,mk->mijk", *shares).reshape(len(starts), self.n)

    def to_world(self, affine: np.ndarray) -> np.ndarray:
        """Affines (n, 4, 4) that map the unit cube onto each base crop in RAS millimetres."""
        return np.stack([box.to_world(affine) for box in self.boxes()])


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Voxel size (3,) in millimetres along the array axes."""
    return np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0)


def cropped_affine(affine: np.ndarray, start: Sequence[float] | np.ndarray) -> np.ndarray:
    """Affine (4, 4) of the part of a volume that begins at voxel ``start`` (negative: padded before)."""
    moved = np.array(affine, dtype=float)
    moved[:3, 3] += moved[:3, :3] @ np.asarray(start, dtype=float)
    return moved


def resized_affine(affine: np.ndarray, old_shape: Sequence[int], new_shape: Sequence[int]) -> np.ndarray:
    """Affine (4, 4) after resizing with align_corners: first voxel centre on first, last on last.

    An axis that has one voxel before or after keeps its total extent instead, centred.
    """
    old, new = np.asarray(old_shape, dtype=float), np.asarray(new_shape, dtype=float)
    both = (old > 1) & (new > 1)
    step = np.where(both, (old - 1) / np.maximum(new - 1, 1), old / new)
    first = np.where(both, 0.0, (old - new * step) / 2 + (step - 1) / 2)
    scaled = cropped_affine(affine, first)
    scaled[:3, :3] = scaled[:3, :3] * step
    return scaled


def to_ras(shape: Sequence[int], affine: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...], np.ndarray]:
    """How to turn an array so that its axes run closest to R, A, S.

    Returns (order, flips, affine): ``np.flip(array.transpose(order), flips)`` has the returned affine (4, 4).
    """
    matrix = np.asarray(affine, dtype=float)
    cosines = matrix[:3, :3] / np.maximum(spacing_of(matrix), 1e-12)
    order = _closest_axes(np.abs(cosines))
    turned = matrix.copy()
    turned[:3, :3] = matrix[:3, list(order)]
    flips = tuple(axis for axis in range(3) if turned[axis, axis] < 0)
    for axis in flips:
        turned[:3, 3] += turned[:3, axis] * (shape[order[axis]] - 1)
        turned[:3, axis] *= -1
    return order, flips, turned


def turning(
    shape: Sequence[int], affine: np.ndarray, along: np.ndarray
) -> tuple[tuple[int, ...], tuple[int, ...], np.ndarray]:
    """As `to_ras`, but for axes that run closest to those of the affine ``along`` (4, 4), which must be invertible."""
    turn = np.eye(4)
    turn[:3, :3] = along[:3, :3] / spacing_of(along)
    order, flips, turned = to_ras(shape, np.linalg.inv(turn) @ affine)
    return order, flips, turn @ turned


def _closest_axes(weights: np.ndarray) -> tuple[int, ...]:
    """Assign array axes to R, A, S, the clearest pair first; weights (3, 3) are |cosines| (RAS, array axis)."""
    order, left = [0, 0, 0], weights.copy()
    for _ in range(3):
        world, axis = np.unravel_index(np.argmax(left), left.shape)
        order[int(world)] = int(axis)
        left[world, :] = left[:, axis] = -1.0
    return tuple(order)


def is_invertible(affine: np.ndarray) -> bool:
    """Whether the affine is finite and its axes span space."""
    if not np.isfinite(affine).all():
        return False
    volume = abs(float(np.linalg.det(affine[:3, :3])))
    return volume > 1e-3 * float(np.prod(spacing_of(affine))) > 0


def shear_of(affine: np.ndarray) -> float:
    """Largest |cosine| between two array axes: 0 for an orthogonal grid."""
    matrix = np.asarray(affine, dtype=float)[:3, :3]
    unit = matrix / np.maximum(spacing_of(affine), 1e-12)
    return float(np.abs(unit.T @ unit - np.eye(3)).max())


def is_sheared(affine: np.ndarray) -> bool:
    """Whether the array axes are not at right angles, by more than the rounding of a header."""
    return shear_of(affine) > 1e-3


def steps_of(affine: np.ndarray) -> np.ndarray:
    """Where one step along each array axis leads, in mm: the voxel size (3,), or of a sheared grid (3, 3), in columns.

    A tilted gantry makes such a grid, whose lengths and volumes are no products of the voxel size.
    """
    return np.asarray(affine, dtype=float)[:3, :3] if is_sheared(affine) else spacing_of(affine)


def unusual_voxels(affine: np.ndarray) -> str:
    """How large voxels are, in words, where a length is below 0.05 or above 20 mm, as in a wrong unit; else empty."""
    spacing = spacing_of(affine)
    if spacing.min() >= _USUAL_MM[0] and spacing.max() <= _USUAL_MM[1]:
        return ""
    return f"voxels of {' x '.join(f'{value:.3g}' for value in spacing)} mm"
