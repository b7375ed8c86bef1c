"""The random crop as a markups ROI: dragged by hand, of a size and direction that nobody can change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
import vtk

from VoCoCore.geometry import Box
from VoCoSlicerLib.preview_grid import WorldGrid
from VoCoSlicerLib.preview_nodes import HiddenNodes
from VoCoSlicerLib.signals import weakly
from VoCoSlicerLib.volumes import worldMatrix

SAME_MM = 1e-5  # a node's centre may have gone through single precision: that is no move
ROI_COLOUR = (1.0, 0.85, 0.1)


class CropRoi:
    """``node`` shows a crop of a `WorldGrid`; ``onMoved()``, a bound method, is called once for every new place."""

    def __init__(self, nodes: HiddenNodes, onMoved: Callable[[], None]) -> None:
        self._onMoved = weakly(onMoved)
        self._world: WorldGrid | None = None
        self._box: Box | None = None
        self._writing = False
        classes = "vtkMRMLMarkupsROINode", "vtkMRMLMarkupsROIDisplayNode"
        self.node = nodes.add(classes[0], "VoCo random crop", classes[1], _prepare)
        events = (slicer.vtkMRMLMarkupsNode.PointModifiedEvent, vtk.vtkCommand.ModifiedEvent)
        self._tags = [self.node.AddObserver(event, weakly(self._changed)) for event in events]

    @property
    def box(self) -> Box | None:
        """The crop in the grid's index space; None before `place`."""
        return self._box

    @property
    def world(self) -> WorldGrid | None:
        """The grid that the crop belongs to; None before `place`."""
        return self._world

    def place(self, world: WorldGrid, box: Box) -> None:
        """Show ``box`` of ``world``, moved inside the grid where it reaches out of it."""
        self._world, self._box = world, world.clamped(box)
        self._write()
        self._onMoved()

    def close(self) -> None:
        """Stop listening to the node."""
        for tag in self._tags:
            self.node.RemoveObserver(tag)
        self._tags = []

    def _changed(self, *_: Any) -> None:
        if self._writing or self._world is None or self._box is None:
            return
        centre = np.zeros(3)
        self.node.GetCenterWorld(centre)
        if self._isSpoilt() or not np.isfinite(centre).all():
            self._write()  # the crop stays where it was
            return
        if _same(centre, self._world.centreOf(self._box)):
            return
        self._box = self._world.clamped(self._world.boxAt(centre))
        if not _same(centre, self._world.centreOf(self._box)):
            self._write()  # it was dragged out of the grid
        self._onMoved()

    def _isSpoilt(self) -> bool:
        """Whether the node is no longer a crop: its size was pulled, or a transform turns it."""
        assert self._world is not None
        axes = slicer.util.arrayFromVTKMatrix(self.node.GetObjectToWorldMatrix())[:3, :3]
        sized = np.allclose(self.node.GetSize(), self._world.cropMm, rtol=1e-9)
        return not (sized and np.allclose(axes, self._world.axes, rtol=0, atol=1e-9))

    def _write(self) -> None:
        assert self._world is not None and self._box is not None
        matrix = np.eye(4)
        matrix[:3, :3] = self._world.axes
        matrix[:3, 3] = self._world.centreOf(self._box)
        matrix = np.linalg.inv(worldMatrix(self.node)) @ matrix
        # Not between StartModify and EndModify: the node would then find its centre in single precision.
        self._writing = True
        self.node.SetSize(*(float(edge) for edge in self._world.cropMm))
        self.node.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(matrix))
        self.node.SetFixedNumberOfControlPoints(True)  # its point has a menu that offers to delete it
        self._writing = False


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return np.allclose(one, other, rtol=0, atol=SAME_MM)


def _prepare(_node: Any, display: Any) -> None:
    display.SetSelectedColor(*ROI_COLOUR)
    display.SetColor(*ROI_COLOUR)
    display.SetFillOpacity(0.12)
    display.SetGlyphScale(1.5)  # the point to drag by must not cover a number
    display.SetPropertiesLabelVisibility(False)
    display.SetPointLabelsVisibility(False)
    display.SetHandlesInteractive(True)
    display.SetTranslationHandleVisibility(True)
    display.SetRotationHandleVisibility(False)
    display.SetScaleHandleVisibility(False)
