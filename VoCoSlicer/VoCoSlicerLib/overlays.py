"""Volumes of probabilities over the volumes that they belong to, in the slice views."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from VoCoSlicerLib.preview_nodes import nodesByClass
from VoCoSlicerLib.volumes import RESULT

PROBABILITY = "probability"  # what RESULT says of them
LABEL, VOLUME = (
    "VoCo.label",
    "VoCo.volume",
)  # their label, an attribute; and what they lie on, a node reference
_COMPOSITE = "vtkMRMLSliceCompositeNode"


def belongsTo(node: Any, label: str, volumeIds: Iterable[str]) -> None:
    """Write onto a volume of probabilities what it is of: the label, and the volumes that were its case's channels."""
    node.SetAttribute(RESULT, PROBABILITY)
    node.SetAttribute(LABEL, label)
    for identity in volumeIds:
        node.AddNodeReferenceID(VOLUME, identity)


def overlayLabels(scene: Any) -> list[str]:
    """The labels whose probabilities, and a volume below them, are in the scene, in their order."""
    return list(dict.fromkeys(node.GetAttribute(LABEL) for node in _maps(scene) if _volumesOf(node)))


def showOverlay(scene: Any, label: str, *, bring: bool = True, opacity: float = 0.5) -> None:
    """Show the probabilities of ``label``, the latest, in each slice view whose volume has them; "" takes them away.

    ``bring``: where no view shows such a volume, the latest one comes into all of them. Other overlays than ours stay
    where nothing of ours takes their place.
    """
    found = [node for node in _maps(scene) if label and node.GetAttribute(LABEL) == label]
    over = {volume.GetID(): node for node in found for volume in _volumesOf(node)}
    views = viewNodes(scene)
    if bring and over and not any(view.GetBackgroundVolumeID() in over for view in views):
        latest = next(node for node in reversed(found) if _volumesOf(node))
        for view in views:
            view.SetBackgroundVolumeID(_volumesOf(latest)[0].GetID())
    for view in views:
        node, shown = over.get(view.GetBackgroundVolumeID()), _shownIn(scene, view)
        if node is not None:
            view.SetForegroundVolumeID(node.GetID())
            view.SetForegroundOpacity(opacity if shown is None else view.GetForegroundOpacity())
        elif shown is not None:
            view.SetForegroundVolumeID(None)
            view.SetForegroundOpacity(0.0)


def shownOverlay(scene: Any) -> str:
    """The label whose probabilities a slice view shows; "" where none does."""
    shown = (_shownIn(scene, view) for view in viewNodes(scene))
    return next((node.GetAttribute(LABEL) for node in shown if node is not None), "")


def viewNodes(scene: Any) -> list[Any]:
    """The node of each slice view that says what it shows."""
    return nodesByClass(scene, _COMPOSITE)


def seenVolumes(scene: Any) -> tuple[str | None, ...]:
    """The ID of the volume that each slice view shows below all others."""
    return tuple(view.GetBackgroundVolumeID() for view in viewNodes(scene))


def _maps(scene: Any) -> list[Any]:
    return [node for node in nodesByClass(scene, "vtkMRMLScalarVolumeNode") if _isMap(node)]


def _isMap(node: Any) -> bool:
    return node.GetAttribute(RESULT) == PROBABILITY and bool(node.GetAttribute(LABEL))


def _volumesOf(node: Any) -> list[Any]:
    count = node.GetNumberOfNodeReferences(VOLUME)
    nodes = [node.GetNthNodeReference(VOLUME, number) for number in range(count)]
    return [each for each in nodes if each is not None]


def _shownIn(scene: Any, view: Any) -> Any:
    """The probabilities of ours that are a view's overlay; None: it has none, or another."""
    node = scene.GetNodeByID(view.GetForegroundVolumeID() or "")
    return node if node is not None and _isMap(node) else None
