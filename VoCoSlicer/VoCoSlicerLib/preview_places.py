"""Where the slice views are: one that shows little of the grid is brought to it, and goes back afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from VoCoCore.geometry import Box
from VoCoSlicerLib.preview_grid import WorldGrid
from VoCoSlicerLib.preview_moves import Moves

MARGIN = 1.05  # the field of view, in sizes of the grid
# What the view and the grid have in common, as a share of the smaller one: a view that is close to a detail, or far
# away from all, is where its user wants it.
ENOUGH = 0.6


@dataclass(frozen=True)
class _Place:
    """The plane (16 numbers of SliceToRAS) and the field of view (3,) in mm of a slice view."""

    plane: tuple[float, ...]
    field: tuple[float, ...]


class SlicePlaces(Moves):
    """Brings slice views to a grid and back."""

    kind = "vtkMRMLSliceNode"

    def bring(self, world: WorldGrid, box: Box) -> None:
        """Let each view that shows little of ``world`` show all of it, and cut the crop ``box``; each view once.

        Slicer does so for the first volume of a scene; others may lie anywhere, and a user would see black, or half of
        the grid. Views that come with another layout are at the origin.
        """
        for view in self.newNodes():
            extent = _extent(view, world)
            if not _isSeen(extent, view.GetFieldOfView()):
                _fit(view, np.ptp(extent, axis=0))
                view.JumpSliceByCentering(*world.centres.mean(axis=0))
                view.JumpSliceByOffsetting(*world.centreOf(box))

    def placeOf(self, node: Any) -> _Place:
        """The place of a slice view."""
        plane = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
        return _Place(tuple(plane.ravel().tolist()), tuple(node.GetFieldOfView()))

    def put(self, node: Any, place: _Place) -> None:
        """Move a slice view in one step."""
        blocked = node.StartModify()
        node.SetFieldOfView(*place.field)
        node.GetSliceToRAS().DeepCopy(place.plane)
        node.UpdateMatrices()
        node.EndModify(blocked)

    def isAt(self, node: Any, place: _Place) -> bool:
        """By its plane: the field of view is no sign of its user, Slicer changes it with the view's size."""
        return self.placeOf(node).plane == place.plane


def _extent(view: Any, world: WorldGrid) -> np.ndarray:
    """Least and greatest coordinates (2, 3) of the grid's corners along the view's axes, in mm from its middle."""
    toSlice = np.linalg.inv(slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS()))
    corners = world.corners.reshape(-1, 3) @ toSlice[:3, :3].T + toSlice[:3, 3]
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def _isSeen(extent: np.ndarray, field: Sequence[float]) -> bool:
    half, (low, high) = np.asarray(field[:2]) / 2, extent
    if not low[2] <= 0 <= high[2]:
        return False
    common = np.minimum(high[:2], half) - np.maximum(low[:2], -half)
    smaller = min((2 * half).prod(), np.ptp(extent[:, :2], axis=0).prod())
    return bool(common.min() > 0 and common.prod() >= ENOUGH * smaller)


def _fit(view: Any, size: np.ndarray) -> None:
    wide, high = view.GetDimensions()[:2]
    ratio = wide / high if wide and high else 1.0
    width = MARGIN * max(size[0], size[1] * ratio)
    view.SetFieldOfView(float(width), float(width / ratio), view.GetFieldOfView()[2])
