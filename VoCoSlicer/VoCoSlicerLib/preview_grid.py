"""The grid of one sample in the patient's space: cells, centres, the random crop, its labels; numpy only.

Everything comes from the trainer's own functions (plan, draw, Grid), so what is drawn is what will be trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from VoCoCore.data.plan import Plan
from VoCoCore.data.sampling import draw, random_boxes
from VoCoCore.geometry import Box, Grid, cropped_affine, spacing_of
from VoCoCore.settings import PretrainSettings

MOST_LATTICE_VOXELS = 2**20  # a heat update writes them all, within a few milliseconds
MOST_STRETCH = 2


@dataclass(frozen=True)
class Lattice:
    """A small regular array that covers the grid: ``classes`` (X, Y, Z) int64 says whose base each voxel is.

    ``affine`` (4, 4) maps its voxel centres to RAS mm.
    """

    classes: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class WorldGrid:
    """A grid of base crops and where it lies: ``affine`` (4, 4) maps the grid's index space to RAS mm.

    ``cropSize`` (3,) voxels is the size of every random crop, ``drawn`` the random crops of this sample, ``first`` (3,)
    the voxel of the prepared volume at which the grid begins.
    """

    grid: Grid
    affine: np.ndarray
    cropSize: tuple[int, int, int]
    drawn: tuple[Box, ...]
    first: tuple[int, int, int] = (0, 0, 0)

    @cached_property
    def _inverse(self) -> np.ndarray:
        return np.linalg.inv(self.affine)

    @cached_property
    def corners(self) -> np.ndarray:
        """Corners (n, 8, 3) of all base crops in RAS mm, in class order; x slowest, as `Box.corners`."""
        cube = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1).reshape(1, 8, 3)
        starts, sizes = self.grid.starts_and_sizes
        index = starts[:, None] + cube * sizes[:, None] - 0.5
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def sameAs(self, other: WorldGrid) -> bool:
        """Whether ``other`` has the same bases in the same places, whatever its random crops."""
        return self.grid == other.grid and np.array_equal(self.affine, other.affine)

    @cached_property
    def centres(self) -> np.ndarray:
        """Centres (n, 3) of all base crops in RAS mm, in class order."""
        return self.corners.mean(axis=1)

    @property
    def cropMm(self) -> np.ndarray:
        """Edges (3,) of the random crop in mm, along the prepared volume's axes."""
        return np.asarray(self.cropSize) * spacing_of(self.affine)

    @property
    def axes(self) -> np.ndarray:
        """Unit vectors (3, 3) of the prepared volume's axes as columns, made right-handed for a markups ROI."""
        unit = self.affine[:3, :3] / spacing_of(self.affine)
        if np.linalg.det(unit) < 0:
            unit = unit * [1, 1, -1]  # a box looks the same from its other side
        return unit

    def boxAt(self, centre: Sequence[float] | np.ndarray) -> Box:
        """The random crop whose centre lies at ``centre`` (3,) in RAS mm; it may reach out of the grid."""
        index = self._inverse[:3, :3] @ np.asarray(centre, float) + self._inverse[:3, 3]
        return Box(tuple(index + 0.5 - np.asarray(self.cropSize) / 2), self.cropSize)

    def centreOf(self, box: Box) -> np.ndarray:
        """Centre (3,) of ``box`` in RAS mm."""
        index = np.add(box.start, np.asarray(box.size) / 2) - 0.5
        return self.affine[:3, :3] @ index + self.affine[:3, 3]

    def clamped(self, box: Box) -> Box:
        """``box`` moved by as little as brings it inside the grid; itself where it lies there already."""
        room = np.subtract(self.grid.volume_size, box.size)
        # A start that went through the affine and back is off by a rounding error: that is no reason to move.
        start = np.asarray(box.start)
        inside = np.clip(start, 0, room)
        return box if np.allclose(inside, start, rtol=0, atol=1e-9) else Box(tuple(inside), box.size)

    def labels(self, box: Box) -> np.ndarray:
        """Position label y (n,) float64 of ``box``."""
        return self.grid.overlap_labels(box)

    @cached_property
    def lattice(self) -> Lattice:
        """A small regular array in which every voxel lies in one base alone.

        With bases of one size it has a voxel a base, or a few: voxels are never more than MOST_STRETCH times as long
        as wide, because Slicer's slice views drop the tilt of oblique volumes with longer ones (they round small
        elements of the transform to 0). Where bases differ in size the array gets finer; beyond MOST_LATTICE_VOXELS
        it is regular after all, wrong by at most half a voxel of the prepared volume (outlines and labels stay exact).
        """
        counts = self.grid.counts
        steps = [int(np.gcd.reduce(np.diff(edges))) for edges in self.grid.edges]
        shape = self._compact([size // step for size, step in zip(self.grid.volume_size, steps, strict=True)])
        if prod(shape) > MOST_LATTICE_VOXELS:
            shape = self._compact(counts)
        if prod(shape) > MOST_LATTICE_VOXELS:  # of a header with voxels of 40 x 0.0001 mm, say
            shape = list(counts)
        step = np.asarray(self.grid.volume_size) / shape
        middles = [(np.arange(voxels) + 0.5) * step[axis] for axis, voxels in enumerate(shape)]
        i, j, k = np.meshgrid(
            *(
                np.searchsorted(edges, middle, side="right") - 1
                for edges, middle in zip(self.grid.edges, middles, strict=True)
            ),
            indexing="ij",
        )
        affine = cropped_affine(self.affine, step / 2 - 0.5)
        affine[:3, :3] *= step
        return Lattice((i * counts[1] + j) * counts[2] + k, affine)

    def _compact(self, shape: Sequence[int]) -> list[int]:
        """``shape`` with long voxels divided, so that no edge is over MOST_STRETCH times as long as another."""
        edges = np.asarray(self.grid.volume_size) / shape * spacing_of(self.affine)
        parts = np.ceil(edges / (MOST_STRETCH * edges.min()) - 1e-9)
        return [int(voxels * part) for voxels, part in zip(shape, parts, strict=True)]


def worldGrid(plan: Plan, settings: PretrainSettings, number: int) -> WorldGrid:
    """The grid and the random crops of sample ``number`` (from 0) of the one volume that ``plan`` prepares."""
    crops = settings.crops
    assert crops.volume_size and crops.random_size
    made = draw(settings, number, plan.shape)
    return WorldGrid(
        Grid(crops.volume_size, crops.counts),
        cropped_affine(plan.affine, made.region),
        crops.random_size,
        tuple(random_boxes(made)),
        tuple(int(voxel) for voxel in made.region),
    )


def foregroundCorners(plan: Plan) -> np.ndarray:
    """Corners (8, 3) in RAS mm of the part of the source that is kept: its foreground box."""
    spaced = plan.oriented_affine.copy()
    spaced[:3, :3] *= plan.step
    return Box(plan.start, plan.size).corners(spaced)
