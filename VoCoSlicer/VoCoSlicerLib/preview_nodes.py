"""Nodes that belong to the preview: hidden from the data tree and the node selectors, never saved, never undone."""

from __future__ import annotations

import colorsys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import slicer
import vtk

OWNER = "VoCo.Preview"  # attribute of every node of the preview
BUDGET = 0.015  # seconds that a window may wait for steps
# Anchors of a heat scale from violet to light yellow, evenly spaced; also readable by the colour-blind.
_HEAT = (
    (20, 11, 53),
    (87, 16, 110),
    (143, 35, 105),
    (188, 55, 84),
    (227, 89, 51),
    (249, 140, 10),
    (249, 201, 50),
)


def nodesByClass(scene: Any, className: str) -> list[Any]:
    """All nodes of a class in ``scene``; slicer.util asks Slicer's own scene, whatever it is told."""
    found = scene.GetNodesByClass(className)
    found.UnRegister(None)  # it comes with a reference that Python does not count
    return [found.GetItemAsObject(number) for number in range(found.GetNumberOfItems())]


class HiddenNodes:
    """Adds nodes to a scene and takes all of them out again."""

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        self._nodes: list[Any] = []  # not their IDs: after a scene is closed these are given to others

    def add(
        self, className: str, name: str, display: str = "", prepare: Callable[..., None] | None = None
    ) -> Any:
        """A new node, with a display node of class ``display`` where one is named.

        ``prepare(node)``, or ``prepare(node, displayNode)``, is called before the scene has them: a change afterwards
        is a change for every view, and may cost more than all of the node.
        """
        node = self._made(className, name)
        shown = self._made(display, f"{name} display") if display else None
        nodes = (node, shown) if shown else (node,)
        if prepare is not None:
            prepare(*nodes)
        # The display node first: Slicer's logics give a node that arrives without one another that nobody hides.
        if shown is not None:
            self._enter(shown)
            node.SetAndObserveDisplayNodeID(shown.GetID())
        self._enter(node)
        return node

    def complete(self) -> bool:
        """Whether all nodes are still in the scene."""
        return all(self._scene.IsNodePresent(node) for node in self._nodes)

    def removing(self) -> Iterator[None]:
        """Take out of the scene what is left of the nodes, one a step: Slicer's views need some 10 ms for each."""
        while self._nodes:
            if self._scene.IsNodePresent(node := self._nodes.pop()):
                self._scene.RemoveNode(node)
                yield

    def _made(self, className: str, name: str) -> Any:
        node = self._scene.CreateNodeByClass(className)
        node.UnRegister(None)  # CreateNodeByClass leaves a reference that Python does not count
        node.SetName(name)
        # Before the node is added: the data tree looks once, when a node arrives.
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        node.SetUndoEnabled(False)
        node.SetAttribute(OWNER, "1")
        node.SetAttribute("SubjectHierarchy.ExcludeFromTree", "1")
        return node

    def _enter(self, node: Any) -> None:
        with _placing(self._scene):
            self._scene.AddNode(node)
        self._nodes.append(node)


def advance(steps: Iterator[None]) -> bool:
    """Do steps for BUDGET seconds, one at least; whether none is left."""
    until = time.perf_counter() + BUDGET
    return all(time.perf_counter() <= until for _ in steps)


@contextmanager
def renderedOnce() -> Iterator[None]:
    """A block that all views show as one change; else they may be rendered again for each node that comes or goes."""
    if getattr(slicer, "app", None) is None:  # a scene without views
        yield
        return
    with slicer.util.RenderBlocker():
        yield


@contextmanager
def _placing(scene: Any) -> Iterator[None]:
    """A block in which no new node becomes the one that a user's clicks place points in, as Slicer makes any markup."""
    selection = scene.GetFirstNodeByClass("vtkMRMLSelectionNode")
    before = selection and (selection.GetActivePlaceNodeClassName(), selection.GetActivePlaceNodeID())
    yield
    if selection and before != (selection.GetActivePlaceNodeClassName(), selection.GetActivePlaceNodeID()):
        selection.SetReferenceActivePlaceNodeClassName(before[0])
        selection.SetReferenceActivePlaceNodeID(before[1])


def setAffine(volume: Any, affine: np.ndarray) -> None:
    """Set the IJK-to-RAS matrix (4, 4) of a volume node."""
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.asarray(affine, float)))


def setValues(volume: Any, values: np.ndarray) -> None:
    """Make ``values`` (X, Y, Z) the image of a volume node."""
    slicer.util.updateVolumeFromArray(volume, np.ascontiguousarray(values.transpose(2, 1, 0)))


def classColours(n: int) -> np.ndarray:
    """``n`` colours (n, 3) in [0, 1], all different, neighbours far apart in hue."""
    golden = 0.618033988749895
    return np.array(
        [
            colorsys.hsv_to_rgb((i * golden) % 1.0, (0.55, 0.8, 0.95)[i // 7 % 3], (1.0, 0.85)[i % 2])
            for i in range(n)
        ]
    )


def heatColours(n: int) -> np.ndarray:
    """``n`` colours (n, 3) in [0, 1] from dark to light."""
    anchors = np.asarray(_HEAT) / 255
    at = np.linspace(0, len(anchors) - 1, n)
    return np.stack([np.interp(at, np.arange(len(anchors)), anchors[:, c]) for c in range(3)], axis=1)


def fillColourTable(node: Any, colours: np.ndarray, names: Sequence[str], clearFirst: bool) -> None:
    """Write ``colours`` (n, 3) with ``names`` into a colour table node; ``clearFirst``: value 0 is transparent."""
    blocked = node.StartModify()  # one word for all colours, not one for each
    node.SetTypeToUser()
    first = int(clearFirst)
    node.SetNumberOfColors(len(colours) + first)
    if clearFirst:
        node.SetColor(0, "outside", 0.0, 0.0, 0.0, 0.0)
    for value, (colour, name) in enumerate(zip(colours, names, strict=True), start=first):
        node.SetColor(value, name, *(float(c) for c in colour), 1.0)
    node.EndModify(blocked)


def boxesPolyData(corners: np.ndarray) -> vtk.vtkPolyData:
    """Closed surfaces of m boxes with ``corners`` (m, 8, 3) in RAS mm, in double precision."""
    from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray

    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(corners.reshape(-1, 3), np.float64), deep=True))
    # The corners of a unit cube with x slowest: corner = 4 x + 2 y + z.
    faces = np.array(
        [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]], np.int64
    )
    quads = (np.arange(len(corners), dtype=np.int64)[:, None, None] * 8 + faces[None]).reshape(-1, 4)
    cells = vtk.vtkCellArray()
    cells.SetData(4, numpy_to_vtkIdTypeArray(np.ascontiguousarray(quads).ravel(), deep=True))
    data = vtk.vtkPolyData()
    data.SetPoints(points)
    data.SetPolys(cells)
    return data
