"""Segments of a segmentation as label maps on any grid: taken from the scene at once, drawn later in a thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from VoCoCore.data.names import same_name
from VoCoCore.errors import DataError
from VoCoCore.geometry import cropped_affine
from VoCoSlicerLib.resample import nearestSlabs
from VoCoSlicerLib.titles import titleOf
from VoCoSlicerLib.volumes import toNumpy, voxels, worldMatrix

_SLICES = 4  # of a surface drawn in one call of VTK, which holds Python's lock
_AT_ONCE = 1 << 23  # voxels looked up in one call of numpy
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Segment:
    """One segment, apart from its node. ``data``: voxels (k, j, i) that are ``value`` inside, or a vtkPolyData.

    ``affine`` (4, 4): index of the voxels, or points of the surface, to world RAS mm. ``owner`` keeps VTK's memory.
    """

    name: str
    data: object
    affine: np.ndarray
    value: int = 1
    owner: object = None

    @property
    def isSurface(self) -> bool:
        """Whether it is given by its surface, not by voxels."""
        return not isinstance(self.data, np.ndarray)


@dataclass
class Drawn:
    """A label map (k, j, i), uint8 or uint16, and sentences on what was odd about its segments."""

    labels: np.ndarray
    warnings: list[str] = field(default_factory=list)


def segmentNames(node) -> list[str]:
    """Names of the segments of a segmentation, in order, each once."""
    segmentation = node.GetSegmentation()
    names = [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]
    return list({same_name(name): " ".join(name.split()) for name in reversed(names)}.values())[::-1]


def takeSegments(node) -> list[Segment]:
    """The segments of a vtkMRMLSegmentationNode, without copying voxels; the node may change afterwards.

    Raises DataError for a parent transform that is not linear, and for contents other than label maps and surfaces.
    """
    world = worldMatrix(node)
    segmentation = node.GetSegmentation()
    kind = _kind(node)
    taken: dict[str, tuple] = {}
    found = []
    for number in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(number)
        data = segment.GetRepresentation(kind)
        name = " ".join(segment.GetName().split())
        if kind == _surface():
            found.append(Segment(name, _copied(data), world))
            continue
        key = data.GetAddressAsString("") if data is not None else ""
        if key not in taken:
            taken[key] = _voxelsOf(data, world)
        array, affine, owner = taken[key]
        found.append(Segment(name, array, affine, segment.GetLabelValue(), owner))
    return found


def segmentsStamp(node) -> tuple:
    """What tells whether the segments have changed since: compare two of them."""
    segmentation, kind = node.GetSegmentation(), _kind(node)
    parts = []
    for number in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(number)
        data = segment.GetRepresentation(kind)
        parts.append((segment.GetName(), segment.GetLabelValue(), data.GetMTime() if data is not None else 0))
    return (worldMatrix(node).tobytes(), kind, *parts)


def _surface() -> str:
    return slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()


def _kind(node) -> str:
    """Which representation is the truth of this segmentation, or the nearest to it."""
    segmentation = node.GetSegmentation()
    labelmap = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    source = segmentation.GetSourceRepresentationName()
    if source in (labelmap, _surface()):
        return source
    for kind in (_surface(), labelmap):
        if segmentation.ContainsRepresentation(kind):
            return kind
    if segmentation.GetNumberOfSegments() == 0:
        return labelmap
    raise DataError(
        f"the segments of {titleOf(node)} are kept as '{source}', which has no voxels or surface yet",
        "create a binary label map or a closed surface in the module Segmentations",
    )


def _copied(data):
    if data is None:
        return vtk.vtkPolyData()
    copy = vtk.vtkPolyData()
    copy.ShallowCopy(data)
    return copy


def _voxelsOf(data, world: np.ndarray) -> tuple[np.ndarray, np.ndarray, object]:
    if data is None or data.GetNumberOfPoints() == 0 or data.GetPointData().GetScalars() is None:
        return np.zeros((0, 0, 0), np.uint8), world, None
    copy = slicer.vtkOrientedImageData()
    copy.ShallowCopy(data)
    matrix = vtk.vtkMatrix4x4()
    copy.GetImageToWorldMatrix(matrix)
    return voxels(copy), cropped_affine(world @ toNumpy(matrix), copy.GetExtent()[::2]), copy


def drawLabels(
    segments: Sequence[Segment],
    values: Mapping[str, int],
    shape: Sequence[int],
    affine: np.ndarray,
    tick: Tick = lambda done: None,
) -> Drawn:
    """The label map on the grid (``shape`` (i, j, k), ``affine`` to world) of segments; no node is touched.

    ``values``: `same_name` of a segment -> voxel value; others are left out. Where some overlap, the later one wins,
    and that is said. ``tick`` hears how many voxels are drawn, and may raise to stop.
    """
    wanted = [segment for segment in segments if values.get(same_name(segment.name), 0)]
    drawn = Drawn(np.zeros(tuple(shape)[::-1], np.uint8 if len(wanted) < 256 else np.uint16))
    present = np.zeros(len(wanted) + 1, bool)
    overlaps = np.zeros((len(wanted) + 1, len(wanted) + 1), np.int64)
    # While drawing, voxels hold the segment's number: the largest number is the latest segment.
    for _, layer in groupby(enumerate(wanted, 1), key=lambda pair: id(pair[1].data)):
        for where, found in _layer(list(layer), shape, affine, drawn.labels.dtype):
            present[found] = True
            _paint(drawn.labels[where], found, overlaps)
            tick(found.size)
    _tell(drawn, wanted, present, overlaps, values)
    final = np.array([0, *(values[same_name(segment.name)] for segment in wanted)])
    small = np.uint8 if final.max(initial=0) < 256 else np.uint16
    if drawn.labels.dtype != small or not np.array_equal(final, np.arange(len(final))):
        drawn.labels = looked(final.astype(small), drawn.labels)
    return drawn


def looked(table: np.ndarray, places: np.ndarray) -> np.ndarray:
    """``table[places]`` for whole numbers ``places`` (k, j, i), in parts: numpy needs eight bytes for each of them."""
    out = np.empty(places.shape, table.dtype)
    thick = max(1, _AT_ONCE // max(1, places[0].size)) if len(places) else 1
    for start in range(0, len(places), thick):
        np.take(table, places[start : start + thick], out=out[start : start + thick], mode="clip")
    return out


def _layer(layer: list[tuple[int, Segment]], shape: Sequence[int], affine: np.ndarray, dtype):
    """(place, numbers of segments) of segments that share voxels, or of one surface."""
    number, first = layer[0]
    if first.isSurface:
        for number, segment in layer:
            for where, inside in surfaceSlabs(segment.data, segment.affine, shape, affine):
                yield where, inside.astype(dtype) * dtype.type(number)
        return
    table = np.zeros(max(segment.value for _, segment in layer) + 2, dtype)
    for number, segment in layer:
        table[segment.value] = number
    for where, found in nearestSlabs(first.data, first.affine, shape, affine):
        if len(layer) == 1:
            yield where, np.equal(found, first.value).view(np.uint8) * dtype.type(number)
        else:  # values of segments that are not wanted are looked up beyond them, where the table holds 0
            yield where, looked(table, found)


def _paint(labels: np.ndarray, found: np.ndarray, overlaps: np.ndarray) -> None:
    both = np.logical_and(labels, found)
    if both.any():
        pairs, counts = np.unique(np.stack([labels[both], found[both]]), axis=1, return_counts=True)
        overlaps[pairs[0], pairs[1]] += counts
    np.maximum(labels, found, out=labels)


def _tell(drawn: Drawn, wanted: Sequence[Segment], present: np.ndarray, overlaps: np.ndarray, values) -> None:
    for first, second in zip(*np.nonzero(overlaps), strict=True):
        one, other = wanted[min(first, second) - 1], wanted[max(first, second) - 1]
        if values[same_name(one.name)] != values[same_name(other.name)]:
            amount = int(overlaps[first, second])
            drawn.warnings.append(
                f"segments {one.name} and {other.name} overlap in {amount} voxels, which become {other.name}"
            )
    names: dict[str, list[str]] = {}
    for segment in (each for number, each in enumerate(wanted, 1) if present[number]):
        names.setdefault(same_name(segment.name), []).append(segment.name)
    for first, *others in names.values():
        if others:
            drawn.warnings.append(f"{1 + len(others)} segments are called {first}, and become one label")
    for segment in (each for number, each in enumerate(wanted, 1) if not present[number]):
        drawn.warnings.append(f"segment {segment.name} is empty, or lies outside the volume")


def surfaceSlabs(surface, affine: np.ndarray, shape: Sequence[int], target: np.ndarray):
    """Voxels whose centres lie inside a closed surface, in slabs: (slices k, j, i of the grid, bool array)."""
    polygons = _onGrid(surface, np.linalg.inv(target) @ affine)
    if polygons is None:
        return
    bounds = np.reshape(polygons.GetBounds(), (3, 2))
    low = np.clip(np.ceil(bounds[:, 0]), 0, shape).astype(int)
    high = np.clip(np.floor(bounds[:, 1]) + 1, 0, shape).astype(int)
    if (high <= low).any():
        return
    for start in range(low[2], high[2], _SLICES):
        end = min(start + _SLICES, high[2])
        where = (slice(start, end), slice(low[1], high[1]), slice(low[0], high[0]))
        yield where, _inside(polygons, where)


def _onGrid(surface, matrix: np.ndarray):
    """The surface as triangles in a grid's index space, in memory of its own; None where it is empty."""
    if surface.GetNumberOfPoints() == 0 or surface.GetNumberOfCells() == 0:
        return None
    points = vtk_to_numpy(surface.GetPoints().GetData()) @ matrix[:3, :3].T + matrix[:3, 3]
    copy = vtk.vtkPolyData()
    made = vtk.vtkPoints()
    made.SetDataTypeToDouble()
    made.SetData(numpy_to_vtk(np.ascontiguousarray(points, float), deep=True))
    copy.SetPoints(made)
    for name in ("Polys", "Strips"):
        # Walking along cells changes the array that holds them, so the scene's own is not used here.
        cells = vtk.vtkCellArray()
        cells.DeepCopy(getattr(surface, f"Get{name}")())
        getattr(copy, f"Set{name}")(cells)
    triangles = vtk.vtkTriangleFilter()
    triangles.SetInputData(copy)
    triangles.Update()
    return triangles.GetOutput()


def _inside(polygons, where) -> np.ndarray:
    k, j, i = where
    stencil = vtk.vtkPolyDataToImageStencil()
    stencil.SetInputData(polygons)
    stencil.SetOutputWholeExtent(i.start, i.stop - 1, j.start, j.stop - 1, k.start, k.stop - 1)
    image = vtk.vtkImageStencilToImage()
    image.SetInputConnection(stencil.GetOutputPort())
    image.SetInsideValue(1)
    image.SetOutsideValue(0)
    image.SetOutputScalarTypeToUnsignedChar()
    image.Update()
    return voxels(image.GetOutput()).astype(bool)
