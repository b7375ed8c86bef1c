"""Where the 3D views' cameras are: one that shows little of the grid, or all of it tiny, looks at it meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from math import radians, sin, tan
from typing import Any

import numpy as np

from VoCoSlicerLib.preview_grid import WorldGrid
from VoCoSlicerLib.preview_moves import Moves

ASIDE = 0.5  # how far from the middle of a view the grid's may be, in halves of the view's height
NEAR, FAR = 0.4, 3.0  # distances that show the grid well, in those that show just all of it


@dataclass(frozen=True)
class _Place:
    """Where a camera is and what it looks at, RAS in mm; half of what it sees where it has no perspective, in mm."""

    position: tuple[float, ...]
    focus: tuple[float, ...]
    scale: float


class CameraPlaces(Moves):
    """Turns the cameras of 3D views to a grid and back."""

    kind = "vtkMRMLCameraNode"

    def bring(self, world: WorldGrid) -> None:
        """Let each camera that shows ``world`` badly look at its middle, from the same side; each camera once."""
        centre = world.centres.mean(axis=0)
        radius = float(np.linalg.norm(world.corners.reshape(-1, 3) - centre, axis=1).max())
        for camera in self.newNodes():
            place = self.placeOf(camera)
            half = radians(camera.GetCamera().GetViewAngle()) / 2
            direction = np.subtract(place.focus, place.position)
            direction /= np.linalg.norm(direction) or 1.0
            away = radius / sin(half)
            if not _isSeen(centre - place.position, direction, half, away):
                self.put(camera, _Place(tuple(centre - away * direction), tuple(centre), radius))

    def placeOf(self, node: Any) -> _Place:
        """The place of a camera node."""
        camera = node.GetCamera()
        return _Place(camera.GetPosition(), camera.GetFocalPoint(), camera.GetParallelScale())

    def put(self, node: Any, place: _Place) -> None:
        """Move a camera node in one step."""
        blocked = node.StartModify()
        node.SetPosition(place.position)
        node.SetFocalPoint(place.focus)
        node.SetParallelScale(place.scale)
        node.ResetClippingRange()
        node.EndModify(blocked)


def _isSeen(offset: np.ndarray, direction: np.ndarray, half: float, away: float) -> bool:
    """``offset``: (3,) from a camera that looks along ``direction`` to the grid; ``half`` of its angle of view."""
    depth = float(offset @ direction)
    aside = float(np.linalg.norm(offset - depth * direction))
    return NEAR * away <= depth <= FAR * away and aside <= ASIDE * depth * tan(half)
