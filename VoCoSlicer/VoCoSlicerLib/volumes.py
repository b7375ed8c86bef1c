"""The scene's volumes as the trainer will see them: size, spacing, kind of image, and what is wrong with them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from VoCoCore.data.intensity import recognise
from VoCoCore.errors import DataError
from VoCoCore.geometry import is_invertible, shear_of, spacing_of, to_ras
from VoCoSlicerLib.channels import groupNames
from VoCoSlicerLib.titles import titleOf

# As `voco data check`: voxels that a base crop needs, usual voxel sizes, and the shear that is told (half a degree).
MIN_BASE_VOXELS = 4
USUAL_MM = (0.05, 20.0)
SHEAR = math.sin(math.radians(0.5))
RESULT = "VoCo.result"  # attribute of nodes that we made from predictions: they are no input
DAMAGED = "its voxels have no volume: spacing, axes or transform are damaged"
_SAMPLE = 6e4  # voxels that are looked at
_NOISE = re.compile(r"(?i)[ _.-]*(seg|segmentation|label|labels|labelmap|mask)(\.seg)?$")


@dataclass(frozen=True)
class VolumeRow:
    """One volume of the scene.

    ``size`` (3,) voxels along i, j, k; ``spacing`` (3,) mm, parent transforms included; ``modality`` "CT", "MR" or "";
    ``warnings`` are sentences; ``usable`` says whether it can be trained on and predicted.
    """

    nodeId: str
    name: str
    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    modality: str
    warnings: tuple[str, ...]
    usable: bool
    segmentationId: str


def isStillThere(scene, node) -> bool:
    """Whether a node is in the scene: a scene that was closed gives the IDs of its nodes to others."""
    return scene.GetNodeByID(node.GetID()) is node


def listVolumes(scene) -> list[VolumeRow]:
    """Rows for all scalar volumes, hidden ones, label maps and our own results left out."""
    return [describeVolume(node) for node in volumeNodes(scene)]


def volumeNodes(scene) -> list:
    """The nodes behind `listVolumes`; looks at no voxel."""
    found = scene.GetNodesByClass("vtkMRMLScalarVolumeNode")
    found.UnRegister(None)
    nodes = [found.GetItemAsObject(number) for number in range(found.GetNumberOfItems())]
    return [node for node in nodes if _isListed(node)]


def _isListed(node) -> bool:
    if node.GetHideFromEditors() or node.GetAttribute(RESULT):
        return False
    return not node.IsA("vtkMRMLLabelMapVolumeNode")


def describeVolume(
    node, counts: Sequence[int] = (4, 4, 1), suggestions: Suggestions | None = None
) -> VolumeRow:
    """What a user should know about a volume. Looks at a regular sample of its voxels, so it is cheap.

    ``counts``: base crops along R, A, S that it must have room for; ``suggestions``: those of the scene as it is.
    """
    image = node.GetImageData()
    size = image.GetDimensions() if image is not None else (0, 0, 0)
    fault = _fault(node)
    spacing, warnings, modality = (0.0, 0.0, 0.0), [fault] if fault else [], ""
    if image is not None and min(size) > 0:
        linear = ownMatrix(node) if fault else rasMatrix(node)
        spacing = tuple(float(value) for value in spacing_of(linear))
    if not fault:
        matrix = rasMatrix(node)
        warnings += _geometryWarnings(size, matrix, counts)
        modality, notes = _look(node)
        warnings += notes
    if suggestions is None and node.GetScene() is not None:
        suggestions = Suggestions(node.GetScene())
    segmentation = suggestions.of(node) if suggestions is not None else None
    return VolumeRow(
        node.GetID() or "",
        node.GetName() or "",
        tuple(int(edge) for edge in size),
        spacing,
        modality,
        tuple(warnings),
        not fault,
        "" if segmentation is None else segmentation.GetID(),
    )


def usableVolume(node) -> None:
    """Raise DataError, with the reason, for a volume that cannot be a case."""
    if fault := _fault(node):
        raise DataError(f"{titleOf(node)} cannot be used: {fault}", "leave it out, or choose another volume")


def _fault(node) -> str:
    """Why a volume cannot be used; empty where it can."""
    if not node.IsA("vtkMRMLScalarVolumeNode"):
        return "it is no volume"
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or image.GetNumberOfPoints() == 0:
        return "it holds no image"
    size = image.GetDimensions()
    if min(size) < 2:
        return f"it is not 3D: {' x '.join(map(str, size))} voxels"
    parts = image.GetNumberOfScalarComponents()
    if parts > 1:
        return f"each voxel holds {parts} values (a colour or vector image)"
    if isTimeSeries(node):
        return "it is one frame of a time series; copy the frame into a volume of its own"
    try:
        matrix = rasMatrix(node)
    except DataError as error:
        return error.message
    return "" if is_invertible(matrix) else DAMAGED


def isTimeSeries(node) -> bool:
    """Whether the node shows one frame of a sequence of several."""
    scene = node.GetScene()
    found = scene.GetNodesByClass("vtkMRMLSequenceBrowserNode") if scene is not None else None
    if found is None:
        return False
    found.UnRegister(None)
    browsers = [found.GetItemAsObject(number) for number in range(found.GetNumberOfItems())]
    return any(b.IsProxyNodeID(node.GetID()) and b.GetNumberOfItems() > 1 for b in browsers)


def _geometryWarnings(size: Sequence[int], matrix: np.ndarray, counts: Sequence[int]) -> list[str]:
    warnings = []
    order, _, _ = to_ras(size, matrix)
    have, need = [size[axis] for axis in order], [MIN_BASE_VOXELS * count for count in counts]
    if any(a < b for a, b in zip(have, need, strict=True)):
        shown, wanted = (" x ".join(map(str, edges)) for edges in (have, need))
        warnings.append(f"too small: {shown} voxels along R, A, S; the grid of base crops needs {wanted}")
    if (shear := shear_of(matrix)) > SHEAR:
        angle = math.degrees(math.asin(min(shear, 1.0)))
        warnings.append(
            f"its axes are {angle:.1f} degrees off right angles: it is resampled to straight axes"
        )
    spacing = spacing_of(matrix)
    if spacing.min() < USUAL_MM[0] or spacing.max() > USUAL_MM[1]:
        shown = " x ".join(f"{value:.3g}" for value in spacing)
        warnings.append(f"unusual voxels of {shown} mm: check the unit of the file")
    return warnings


def _look(node) -> tuple[str, list[str]]:
    """Modality and what the sampled values say."""
    sample = thinned(voxels(node.GetImageData()))
    if not np.isfinite(sample).all():
        return "", ["it holds values that are not numbers (NaN or infinite)"]
    if sample.min() == sample.max():
        return "", [f"nearly all voxels have the same value, {sample.min():g}"]
    return recognise(sample.T)[0].upper(), []


def thinned(array: np.ndarray) -> np.ndarray:
    """A view of every n-th voxel of ``array`` (k, j, i), about sixty thousand of them."""
    step = max(1, round((array.size / _SAMPLE) ** (1 / 3)))
    return array[::step, ::step, ::step]


def voxels(image) -> np.ndarray:
    """The voxels (k, j, i) of a vtkImageData with one value each, as a view: no copy is made."""
    i, j, k = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(k, j, i)


def toNumpy(matrix) -> np.ndarray:
    """A vtkMatrix4x4 as float64 (4, 4)."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def toVtk(matrix: np.ndarray):
    """A (4, 4) array as vtkMatrix4x4."""
    made = vtk.vtkMatrix4x4()
    made.DeepCopy(np.asarray(matrix, float).ravel().tolist())
    return made


def rasMatrix(node) -> np.ndarray:
    """IJK -> world RAS (4, 4) float64 of a volume, with all linear parent transforms hardened into it.

    Raises DataError where a parent transform is not linear.
    """
    return worldMatrix(node) @ ownMatrix(node)


def worldMatrix(node) -> np.ndarray:
    """What the parent transforms of any node do, (4, 4); the identity without one. Raises DataError as `rasMatrix`."""
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        raise DataError(
            f"{titleOf(node)} lies under a transform that is not linear ({titleOf(parent)})",
            "harden it in the module Transforms, or take the volume out of it",
        )
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return toNumpy(matrix)


def ownMatrix(node) -> np.ndarray:
    """A volume's own IJK to RAS matrix, (4, 4), without its parent transforms."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return toNumpy(matrix)


class Suggestions:
    """The segmentations of a scene as they are now, to be asked about many volumes: each is looked at once."""

    def __init__(self, scene) -> None:
        found = scene.GetNodesByClass("vtkMRMLSegmentationNode")
        found.UnRegister(None)
        role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
        self._names = {node.GetID(): plainName(node.GetName()) for node in volumeNodes(scene)}
        self._volumes = Counter(self._names.values())
        self._drawn: dict[str, list] = {}  # (node, plain name), by the volume that it was drawn on
        # By plain name; without those that were drawn on another volume of that name.
        self._named: dict[str, list] = {}
        for number in range(found.GetNumberOfItems()):
            node = found.GetItemAsObject(number)
            if node.GetHideFromEditors() or node.GetAttribute(RESULT):
                continue
            name = plainName(node.GetName())
            volume = node.GetNodeReference(role)
            self._drawn.setdefault(node.GetNodeReferenceID(role), []).append((node, name))
            if volume is None or self._nameOf(volume) != name:
                self._named.setdefault(name, []).append(node)

    def of(self, node):
        """As `suggestSegmentation`."""
        name, drawn = self._nameOf(node), self._drawn.get(node.GetID(), [])
        both = [each for each, own in drawn if own == name]
        # Names tell nothing where several volumes have one, as the series of several patients.
        named = self._named.get(name, []) if self._volumes[name] <= 1 else []
        return next(iter(both or [each for each, _ in drawn] or named), None)

    def _nameOf(self, volume) -> str:
        known = self._names.get(volume.GetID())
        return plainName(volume.GetName()) if known is None else known


def suggestSegmentation(scene, node):
    """The segmentation node that most likely belongs to a volume; None where none does.

    One that was drawn on the volume comes first, then one of the same name ("ct" and "ct_seg", "ct segmentation"),
    where no other volume has that name.
    """
    return Suggestions(scene).of(node)


def plainName(name: str | None) -> str:
    """A name in small letters, without the words that say it is a segmentation, and without a file's extension."""
    text = re.sub(r"(?i)\.(seg\.nrrd|nii\.gz|nii|nrrd|mha|mhd)$", "", (name or "").strip())
    return _NOISE.sub("", text).strip().lower()


def groupChannels(rows: Sequence[VolumeRow]) -> list[list[str]]:
    """Node ids grouped into cases: volumes "x_t1", "x_t1ce", "x_t2", "x_flair" are channels of one, others alone.

    Only volumes on grids of one size are put together.
    """
    names = [f"{row.name}" for row in rows]
    groups: list[list[str]] = []
    for group in groupNames(names):
        if len({rows[position].size for position in group}) == 1:
            groups.append([rows[position].nodeId for position in group])
        else:
            groups += [[rows[position].nodeId] for position in group]
    return groups
