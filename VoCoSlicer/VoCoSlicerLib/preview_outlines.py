"""Outlines of the base crops and of the foreground box, as models: edges in 3D, their cuts on slices."""

from __future__ import annotations

from typing import Any

import numpy as np

from VoCoCore.data.plan import Plan
from VoCoSlicerLib.preview_grid import WorldGrid, foregroundCorners
from VoCoSlicerLib.preview_nodes import HiddenNodes, boxesPolyData

GRID_COLOUR = (0.95, 0.95, 0.95)
FOREGROUND_COLOUR = (0.2, 0.9, 0.9)


class Outlines:
    """The models ``grid`` (n boxes) and ``foreground`` (one box)."""

    def __init__(self, nodes: HiddenNodes) -> None:
        self.grid = _wires(nodes, "VoCo base crop outlines", GRID_COLOUR, 1)
        self.foreground = _wires(nodes, "VoCo foreground box", FOREGROUND_COLOUR, 2)

    def place(self, world: WorldGrid, plan: Plan) -> None:
        """Draw the bases of ``world`` and the foreground box of ``plan``."""
        self.grid.SetAndObservePolyData(boxesPolyData(world.corners))
        self.foreground.SetAndObservePolyData(boxesPolyData(np.asarray(foregroundCorners(plan))[None]))

    def setVisible(self, visible: bool) -> None:
        """Show or hide both, in 3D and on slices."""
        for node in (self.grid, self.foreground):
            node.GetDisplayNode().SetVisibility(visible)


def _wires(nodes: HiddenNodes, name: str, colour: tuple[float, float, float], thickness: int) -> Any:
    def prepare(node: Any, display: Any) -> None:
        display.SetColor(*colour)
        display.SetRepresentation(display.WireframeRepresentation)
        display.SetLineWidth(thickness)
        display.SetLighting(False)
        display.SetBackfaceCulling(False)
        display.SetVisibility2D(True)
        display.SetSliceIntersectionThickness(thickness)
        node.SetSelectable(False)  # clicks and drags belong to the crop

    return nodes.add("vtkMRMLModelNode", name, "vtkMRMLModelDisplayNode", prepare)
