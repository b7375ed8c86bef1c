"""What a thread needs of the scene to export a case: taken at once on the GUI's thread, without copying voxels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import slicer
import vtk

from VoCoCore.errors import DataError
from VoCoSlicerLib.channels import caseName
from VoCoSlicerLib.image_files import acceptedKind
from VoCoSlicerLib.segments import Segment, segmentsStamp, takeSegments
from VoCoSlicerLib.titles import titleOf
from VoCoSlicerLib.volumes import rasMatrix, usableVolume, voxels

UNNAMED = "case"  # whose volume has no name
# What Slicer calls colours without a name, and those that a table does not have.
_NO_NAMES = ("(none)", "invalid")


@dataclass(frozen=True)
class SceneCase:
    """One case of the scene: the volumes that are its channels, and what is known about it.

    ``segmentationId``: a segmentation, or a label map volume; ``classLabel``: for classification; ``name``: what the
    case is called (the volume's name); ``split``: train, val, test or None.
    """

    volumeIds: tuple[str, ...]
    segmentationId: str | None = None
    classLabel: int | str | None = None
    name: str = ""
    split: str | None = None


@dataclass(frozen=True)
class VolumeSnapshot:
    """A volume apart from its node. ``array`` (k, j, i) is a view of VTK's memory, which ``owner`` keeps.

    ``affine`` (4, 4): IJK to world RAS mm. ``file``: the file it was read from, where it may still be the same.
    ``stamp``: VTK's time of the voxels; no others of this process have it.
    """

    name: str
    array: np.ndarray
    affine: np.ndarray
    file: str
    owner: object
    stamp: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        k, j, i = self.array.shape
        return i, j, k


@dataclass(frozen=True)
class CaseSnapshot:
    """A case apart from the scene; ``segments``, which may take seconds, gives its labels (None: it has none).

    ``nodes``: what it was taken from.
    """

    case: SceneCase
    name: str
    patient: str
    volumes: tuple[VolumeSnapshot, ...]
    segments: Callable[[], tuple[Segment, ...]] | None
    stamp: tuple
    nodes: tuple


def takeCase(scene, case: SceneCase) -> CaseSnapshot:
    """Snapshot of a case. Raises DataError, naming the node, for what cannot be exported."""
    nodes = [_node(scene, identity) for identity in case.volumeIds]
    if not nodes:
        raise DataError("a case has no volume", "choose a volume for it")
    for node in nodes:
        usableVolume(node)
    label = _node(scene, case.segmentationId, "segmentation") if case.segmentationId else None
    segments = None if label is None else _takeLabel(label)
    return CaseSnapshot(
        case,
        case.name.strip() or caseName([node.GetName() or "" for node in nodes]) or UNNAMED,
        patientOf(scene, nodes[0]),
        tuple(_takeVolume(node) for node in nodes),
        segments,
        caseStamp(scene, case),
        (*nodes, *([label] if label is not None else [])),
    )


def caseStamp(scene, case: SceneCase) -> tuple:
    """What tells whether a case has changed since its snapshot; of nodes that are gone, nothing."""
    parts = []
    for identity in case.volumeIds:
        node = scene.GetNodeByID(identity)
        if node is not None and node.GetImageData() is not None:
            parts.append((identity, node.GetImageData().GetMTime(), rasMatrix(node).tobytes()))
    label = scene.GetNodeByID(case.segmentationId) if case.segmentationId else None
    if label is not None and label.IsA("vtkMRMLSegmentationNode"):
        parts.append((label.GetID(), *segmentsStamp(label)))
    elif label is not None and label.GetImageData() is not None:
        parts.append((label.GetID(), label.GetImageData().GetMTime(), rasMatrix(label).tobytes()))
    return tuple(parts)


def isThere(scene, snapshot: CaseSnapshot) -> bool:
    """Whether all nodes of a case are still in the scene: a closed scene gives their IDs to nodes of another."""
    return all(scene.GetNodeByID(node.GetID()) is node for node in snapshot.nodes)


def _node(scene, identity: str, kind: str = "volume"):
    node = scene.GetNodeByID(identity)
    if node is None:  # nor has anybody its name
        raise DataError(f"a {kind} that was chosen is no longer in the scene", f"choose the {kind}s again")
    return node


def _takeVolume(node) -> VolumeSnapshot:
    image, there = vtk.vtkImageData(), node.GetImageData()
    image.ShallowCopy(there)
    name, file = node.GetName() or "", unchangedFile(node)
    return VolumeSnapshot(name, voxels(image), rasMatrix(node), file, image, there.GetMTime())


def unchangedFile(node) -> str:
    """The file that holds exactly this volume, as far as the node knows; empty where there is none.

    Whether the file still does, and has the node's transforms too, is for `image_files.holdsVolume` to say.
    """
    storage = node.GetStorageNode()
    if storage is None or node.GetModifiedSinceRead():
        return ""
    path = os.path.abspath(storage.GetFullNameFromFileName() or "")
    several = storage.GetNumberOfFileNames() > 0 and list(_fileNames(storage)) != [storage.GetFileName()]
    if several or not acceptedKind(path) or not os.path.isfile(path):
        return ""
    # What Slicer unpacked for itself may be swept away before a job has read it.
    temporary = getattr(getattr(slicer, "app", None), "temporaryPath", "")
    inTemporary = temporary and path.startswith(os.path.join(os.path.abspath(str(temporary)), ""))
    return "" if inTemporary else path


def _fileNames(storage):
    return (storage.GetNthFileName(number) for number in range(storage.GetNumberOfFileNames()))


def _takeLabel(node) -> Callable[[], tuple[Segment, ...]]:
    """Gives the segments of a segmentation or a label map, without the scene; a label map is looked through once."""
    if node.IsA("vtkMRMLSegmentationNode"):
        taken = tuple(takeSegments(node))
        return lambda: taken
    there = node.GetImageData() if node.IsA("vtkMRMLLabelMapVolumeNode") else None
    if there is None or there.GetPointData().GetScalars() is None:
        raise DataError(f"{titleOf(node)} holds no segments", "choose a segmentation or a label map")
    image = vtk.vtkImageData()
    image.ShallowCopy(there)
    array, affine = voxels(image), rasMatrix(node)
    if array.dtype.kind == "f":
        raise DataError(f"{titleOf(node)} has values that are no whole numbers", "choose a label map")
    display = node.GetDisplayNode()
    colours = display.GetColorNode() if display is not None else None
    names = [colours.GetColorName(value) for value in range(colours.GetNumberOfColors())] if colours else []

    def nameOf(value: int) -> str:
        name = names[value] if value < len(names) else ""
        return name if name and name not in _NO_NAMES else f"label {value}"

    @cache
    def segments() -> tuple[Segment, ...]:
        return tuple(Segment(nameOf(value), array, affine, value, image) for value in _values(array))

    return segments


def _values(array: np.ndarray) -> list[int]:
    """The values above 0 of ``array`` (k, j, i), slice by slice: no call may hold Python's lock for long."""
    found: set[int] = set()
    for plane in array:
        if plane.max() < 1 << 16:
            # As intp: numpy 2.0, Slicer 5.10's, counts no uint64.
            there = np.flatnonzero(np.bincount(np.clip(plane, 0, None).ravel().astype(np.intp)))
        else:
            there = np.unique(plane)
        found.update(there.tolist())
    return sorted(value for value in found if value > 0)


def patientOf(scene, node) -> str:
    """A word that is the same for volumes of one patient in the data tree, and tells nothing else; "" if unknown."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = tree.GetItemByDataNode(node) if tree is not None else 0
    top = tree.GetSceneItemID() if tree is not None else 0
    level = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMLevelPatient()
    while item and item != top:
        if tree.GetItemLevel(item) == level:
            uid = tree.GetItemUID(item, slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMUIDName())
            word = uid or tree.GetItemName(item)
            return "patient-" + hashlib.sha256(word.encode()).hexdigest()[:12]
        item = tree.GetItemParent(item)
    return ""
