"""The numbers of the base crops: at the cells' centres in 3D, and in the middle of each cell's cut on every slice.

A slice view draws only what lies in its plane. So each view has a node of its own, whose numbers slide along the
grid's axis that is closest to the view's normal; a number is hidden where the plane does not meet its cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import slicer
import vtk

from VoCoSlicerLib.preview_grid import WorldGrid
from VoCoSlicerLib.preview_nodes import HiddenNodes, nodesByClass
from VoCoSlicerLib.signals import weakly

MARKUPS, DISPLAY = "vtkMRMLMarkupsFiducialNode", "vtkMRMLMarkupsFiducialDisplayNode"
MOST_NUMBERS = 256  # more could not be read, and would slow scrolling down
TEXT_COLOUR = (1.0, 1.0, 1.0)


def cutCentres(world: WorldGrid, sliceToRas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the numbers go in the plane of a slice: places (n, 3) in RAS mm, and whether each is shown (n,).

    ``sliceToRas`` (4, 4): its third column is the plane's normal, its fourth a point of the plane.
    """
    normal, point = sliceToRas[:3, 2], sliceToRas[:3, 3]
    axis = int(np.argmax(np.abs(normal @ world.axes)))
    # Each cell's own vector along that axis, from one face to the other.
    along = world.affine[:3, axis] * world.grid.starts_and_sizes[1][:, axis, None]
    # Rounded, and with one of both ends: a plane along the border of two cells would get the numbers of both, one
    # over the other, and the middle of a volume often is a border.
    share = np.round(((point - world.centres) @ normal) / (along @ normal), 6)
    return world.centres + share[:, None] * along, (share >= -0.5) & (share < 0.5)


class CellNumbers:
    """One markups node for 3D and one for each slice view, locked and without glyphs."""

    def __init__(self, scene: Any, nodes: HiddenNodes) -> None:
        self._scene, self._nodes = scene, nodes
        self._world: WorldGrid | None = None
        self._visible = True
        self._inSpace = nodes.add(MARKUPS, "VoCo base crop numbers", DISPLAY, _prepareInSpace)
        self._views: dict[str, tuple[Any, Any, int]] = {}

    def place(self, world: WorldGrid) -> None:
        """Number the cells of ``world`` in all views."""
        for _ in self.placing(world):
            pass

    def placing(self, world: WorldGrid) -> Iterator[None]:
        """The same in steps, one a view: Slicer takes some 10 ms to take note of each."""
        self._world = world
        _write(self._inSpace, world.centres, np.ones(world.grid.n, bool))
        for view, node, _ in self._views.values():
            self._slide(view, node)
        yield from self._addingViews()

    def addViews(self) -> None:
        """Follow slice views that have come into being since."""
        for _ in self._addingViews():
            pass

    def _addingViews(self) -> Iterator[None]:
        for view in nodesByClass(self._scene, "vtkMRMLSliceNode"):
            if view.GetID() in self._views:
                continue

            def prepare(node: Any, display: Any, view: Any = view) -> None:
                _prepare(node, display)
                display.SetVisibility3D(False)
                display.AddViewNodeID(view.GetID())
                display.SetVisibility(self._visible)
                self._slide(view, node)

            name = f"VoCo base crop numbers {view.GetLayoutName() or ''}".strip()
            node = self._nodes.add(MARKUPS, name, DISPLAY, prepare)
            tag = view.AddObserver(vtk.vtkCommand.ModifiedEvent, weakly(self._viewChanged))
            self._views[view.GetID()] = (view, node, tag)
            yield

    def inView(self, view: Any) -> Any:
        """The markups node that numbers the cells in one slice view; KeyError for a view that came later."""
        return self._views[view.GetID()][1]

    def setVisible(self, visible: bool) -> None:
        """Show or hide all numbers."""
        if visible == self._visible:
            return
        self._visible = visible
        for node in (self._inSpace, *(node for _, node, _ in self._views.values())):
            node.GetDisplayNode().SetVisibility(visible)
        for view, node, _ in self._views.values():
            self._slide(view, node)

    def close(self) -> None:
        """Stop listening to the views."""
        for view, _, tag in self._views.values():
            view.RemoveObserver(tag)
        self._views.clear()

    def _viewChanged(self, view: Any, _event: Any = None) -> None:
        entry = self._views.get(view.GetID() or "")
        if entry is not None:
            self._slide(view, entry[1])

    def _slide(self, view: Any, node: Any) -> None:
        if self._world is None or not self._visible:
            return
        sliceToRas = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
        places, shown = cutCentres(self._world, sliceToRas)
        _write(node, places, shown)


def _prepare(node: Any, display: Any) -> None:
    node.SetLocked(True)
    node.SetSelectable(False)
    display.SetUseGlyphScale(False)
    display.SetGlyphSize(0.01)  # mm: there is no glyph "none"
    display.SetTextScale(2.5)
    for setColour in (display.SetColor, display.SetSelectedColor):
        setColour(*TEXT_COLOUR)
    display.SetPointLabelsVisibility(True)
    display.SetPropertiesLabelVisibility(False)
    display.SetOccludedVisibility(True)


def _prepareInSpace(node: Any, display: Any) -> None:
    _prepare(node, display)
    display.SetVisibility2D(False)


def _write(node: Any, places: np.ndarray, shown: np.ndarray) -> None:
    if len(places) > MOST_NUMBERS:
        node.RemoveAllControlPoints()
        return
    blocked = node.StartModify()
    if node.GetNumberOfControlPoints() != len(places):
        node.RemoveAllControlPoints()
        for number, place in enumerate(places):
            node.AddControlPointWorld(vtk.vtkVector3d(*place), str(number))
            node.SetNthControlPointLocked(number, True)
    for number, (place, visible) in enumerate(zip(places, shown, strict=True)):
        if visible:
            node.SetNthControlPointPositionWorld(number, *place)
        if node.GetNthControlPointVisibility(number) != visible:
            node.SetNthControlPointVisibility(number, bool(visible))
    node.EndModify(blocked)
