"""Surfaces of predicted segments, as Slicer makes them, one at a time and beside the window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import slicer
import vtk

from VoCoSlicerLib.results_read import LabelMap, LabelNames
from VoCoSlicerLib.threads import inThread
from VoCoSlicerLib.volumes import toNumpy, toVtk

BINARY = "Binary labelmap"
SURFACE = "Closed surface"
_SMOOTHING = "Smoothing factor"
_DECIMATION = "Decimation factor"


def identityOf(value: int) -> str:
    """What the segment of a label is found by."""
    return f"Segment_{value}"


@contextmanager
def drawnOnce(node) -> Iterator[None]:
    """While a segmentation is changed, the views draw nothing of it; they hear of all changes together, at the end."""
    display = node.GetDisplayNode()
    shown = display is not None and display.GetVisibility()
    if shown:
        display.SetVisibility(False)
    try:
        with slicer.util.NodeModify(node):
            yield
    finally:
        if shown:
            display.SetVisibility(True)


def surfaces(node, labelMap: LabelMap, names: LabelNames) -> Iterator[None]:
    """Make the surfaces of `addSegmentation`'s node, one after the other, then show them in 3D.

    Yields between small steps. Each is made in a thread, from the box that the segment fills: VTK lets go of Python's
    lock while it works, so a large segment, which takes a second, does not hold the window.
    """
    segmentation = node.GetSegmentation()
    factors = [float(segmentation.GetConversionParameter(name)) for name in (_SMOOTHING, _DECIMATION)]
    made = {}
    for identity, values in ((identityOf(value), names.valuesOf(value)) for value in names.labels):
        segment = segmentation.GetSegment(identity)
        image = segment.GetRepresentation(BINARY) if segment is not None else None
        if image is None:  # it may have been deleted between two steps, or be a surface alone by now
            continue
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        work = partial(_surfaceOf, labelMap, values, toNumpy(matrix), *factors)
        made[identity] = yield from inThread(work, "the surfaces")
    # At once: as soon as one segment has a surface, the views make those of all others by themselves.
    with drawnOnce(node):
        for identity, surface in made.items():
            segment = segmentation.GetSegment(identity)
            if segment is not None:
                segment.AddRepresentation(SURFACE, surface)
        node.CreateClosedSurfaceRepresentation()  # makes those that are not there, and tells the views
    display = node.GetDisplayNode()
    if display is not None:
        display.SetPreferredDisplayRepresentationName3D(SURFACE)
        display.SetVisibility3D(True)
    yield


def _surfaceOf(
    labelMap: LabelMap, values: tuple[int, ...], matrix: np.ndarray, smoothing: float, decimation: float
) -> Any:
    """The surface around ``values`` as vtkPolyData, by the filters of Slicer's own rule; an empty one around nothing.

    All of them run in one call, for each call has to wait until the window lends Python's lock.
    """
    part = labelMap.part(values)
    if part is None:
        return vtk.vtkPolyData()
    image = vtk.vtkImageData()
    image.SetExtent(part[1])
    image.GetPointData().SetScalars(part[0])
    edges = vtk.vtkDiscreteFlyingEdges3D()
    edges.SetInputData(image)
    edges.ComputeGradientsOff()
    edges.ComputeNormalsOff()
    edges.SetValue(0, 1)
    moved, normals = vtk.vtkTransformPolyDataFilter(), vtk.vtkPolyDataNormals()
    toWorld = vtk.vtkTransform()
    toWorld.SetMatrix(toVtk(matrix))
    moved.SetTransform(toWorld)
    normals.ConsistencyOn()
    normals.SplittingOff()
    shaping = [_decimator(decimation)] * (decimation > 0) + [_smoother(smoothing)] * (smoothing > 0)
    filters = [edges, *shaping, moved, normals]
    for one, following in pairwise(filters):
        following.SetInputConnection(one.GetOutputPort())
    normals.Update()
    return normals.GetOutput()


def _decimator(factor: float):
    made = vtk.vtkDecimatePro()
    made.SetFeatureAngle(60)
    made.SplittingOff()
    made.PreserveTopologyOn()
    made.SetMaximumError(1)
    made.SetTargetReduction(factor)
    return made


def _smoother(factor: float):
    made = vtk.vtkWindowedSincPolyDataFilter()
    made.SetNumberOfIterations(int(20 + 40 * factor))
    made.SetPassBand(10 ** (-4 * factor))
    made.BoundarySmoothingOff()
    made.FeatureEdgeSmoothingOff()
    made.NonManifoldSmoothingOn()
    made.NormalizeCoordinatesOn()
    return made
