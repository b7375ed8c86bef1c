"""Where the slice views are: one that shows little of the grid is brought to it, and goes back afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from VoCoCore.geometry import Box
from VoCoSlicerLib.preview_grid import WorldGrid
from VoCoSlicerLib.preview_nodes import nodesByClass

MARGIN = 1.05  # the field of view, in sizes of the grid
# What the view and the grid have in common, as a share of the smaller one: a view that is close to a detail, or far
# away from all, is where its user wants it.
ENOUGH = 0.6


@dataclass(frozen=True)
class _Place:
    """The plane (16 numbers of SliceToRAS) and the field of view (3,) in mm of a slice view."""

    plane: tuple[float, ...]
    field: tuple[float, ...]


class SlicePlaces:
    """Brings slice views to a grid and back."""

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        # By slice node: the user's place, and the plane as it was left.
        self._moved: dict[str, tuple[_Place, tuple[float, ...]]] = {}
        self._known: set[str] = set()

    def bring(self, world: WorldGrid, box: Box) -> None:
        """Let each view that shows little of ``world`` show all of it, and cut the crop ``box``; each view once.

        Slicer does so for the first volume of a scene; others may lie anywhere, and a user would see black, or half of
        the grid. Views that come with another layout are at the origin.
        """
        for view in nodesByClass(self._scene, "vtkMRMLSliceNode"):
            if view.GetID() in self._known:
                continue  # where its user goes from there he stays
            self._known.add(view.GetID())
            extent = _extent(view, world)
            if not _isSeen(extent, view.GetFieldOfView()):
                before = _placeOf(view)
                _fit(view, np.ptp(extent, axis=0))
                view.JumpSliceByCentering(*world.centres.mean(axis=0))
                view.JumpSliceByOffsetting(*world.centreOf(box))
                self._moved[view.GetID()] = before, _placeOf(view).plane

    def restore(self) -> None:
        """Take the views back that are still where they were brought."""
        for nodeId, (before, left) in self._moved.items():
            view = self._scene.GetNodeByID(nodeId)
            # The field of view alone is no sign of its user: Slicer changes it with the view's size.
            if view is not None and _placeOf(view).plane == left:
                blocked = view.StartModify()
                view.SetFieldOfView(*before.field)
                view.GetSliceToRAS().DeepCopy(before.plane)
                view.UpdateMatrices()
                view.EndModify(blocked)
        self._moved.clear()


def _placeOf(view: Any) -> _Place:
    plane = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
    return _Place(tuple(plane.ravel().tolist()), tuple(view.GetFieldOfView()))


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
