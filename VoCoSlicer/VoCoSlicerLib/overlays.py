"""Volumes of probabilities over the volumes that they belong to, in the slice views."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from VoCoSlicerLib.preview_nodes import nodesByClass
from VoCoSlicerLib.volumes import RESULT

PROBABILITY = "probability"  # what RESULT says of them
LABEL = "VoCo.label"  # an attribute of theirs
VOLUME = "VoCo.volume"  # a node reference, to what they lie on
COMPOSITE = "vtkMRMLSliceCompositeNode"
_OPACITY = 0.5  # until the user sets another
# Of a slice view: a node reference to the overlay in whose place ours is, or was while it shows another volume; and the
# opacity of that overlay.
_COVERED = "VoCo.covered"


class Look(NamedTuple):
    """What of ours belongs over the volume of a slice view, and what is shown there: IDs, "" for nothing."""

    belongs: str
    shown: str


def belongsTo(node: Any, label: str, volumeIds: Iterable[str]) -> None:
    """Write onto a volume of probabilities what it is of: the label, and the volumes that were its case's channels."""
    node.SetAttribute(RESULT, PROBABILITY)
    node.SetAttribute(LABEL, label)
    for identity in volumeIds:
        node.AddNodeReferenceID(VOLUME, identity)


def overlayLabels(scene: Any) -> list[str]:
    """The labels whose probabilities, and a volume below them, are in the scene, in their order."""
    return list(dict.fromkeys(node.GetAttribute(LABEL) for node in _maps(scene) if _volumesOf(node)))


def showOverlay(scene: Any, label: str, *, bring: bool = True) -> None:
    """Show the probabilities of ``label``, the latest, in each slice view whose volume has them; "" takes them away.

    ``bring``: where no view shows such a volume, the latest one comes into all of them. Another overlay than ours stays
    where nothing of ours takes its place, else it comes back when ours goes.
    """
    over, views = _over(scene, label), viewNodes(scene)
    if bring and over and not any(view.GetBackgroundVolumeID() in over for view in views):
        latest = list(over.values())[-1]
        for view in views:
            view.SetBackgroundVolumeID(_volumesOf(latest)[0].GetID())
    for view in views:
        _put(scene, view, over.get(view.GetBackgroundVolumeID()))
        if not label:
            view.SetNodeReferenceID(_COVERED, None)
            view.SetAttribute(_COVERED, None)


def followOverlay(scene: Any, label: str, viewIds: Iterable[str]) -> None:
    """Show the probabilities of ``label`` in these slice views, except over an overlay that ours did not cover."""
    over = _over(scene, label)
    for view in map(scene.GetNodeByID, viewIds):
        givesWay = view.GetForegroundVolumeID() in (None, "", view.GetNodeReferenceID(_COVERED))
        if givesWay or _shownIn(scene, view) is not None:
            _put(scene, view, over.get(view.GetBackgroundVolumeID()))


def lookAt(scene: Any, label: str) -> dict[str, Look]:
    """By ID of a slice view the probabilities of ``label`` that belong into it, and those of ours that it shows."""
    over, found = _over(scene, label), {}
    for view in viewNodes(scene):
        pair = over.get(view.GetBackgroundVolumeID()), _shownIn(scene, view)
        found[view.GetID()] = Look(*("" if node is None else node.GetID() for node in pair))
    return found


def shownOverlay(scene: Any) -> str:
    """The label whose probabilities a slice view shows; "" where none does."""
    shown = (_shownIn(scene, view) for view in viewNodes(scene))
    return next((node.GetAttribute(LABEL) for node in shown if node is not None), "")


def isOfAnother(scene: Any, overlayId: str | None, volumeId: str) -> bool:
    """Whether an overlay is one of ours, and belongs to other volumes than this one."""
    node = scene.GetNodeByID(overlayId or "")
    return node is not None and _isMap(node) and volumeId not in [each.GetID() for each in _volumesOf(node)]


def viewNodes(scene: Any) -> list[Any]:
    """The node of each slice view that says what it shows."""
    return nodesByClass(scene, COMPOSITE)


def volumesBelow(scene: Any) -> list[str | None]:
    """The ID of the volume that each slice view shows below its overlay."""
    return [view.GetBackgroundVolumeID() for view in viewNodes(scene)]


def _maps(scene: Any) -> list[Any]:
    return [node for node in nodesByClass(scene, "vtkMRMLScalarVolumeNode") if _isMap(node)]


def _over(scene: Any, label: str) -> dict[str, Any]:
    """By ID of a volume the latest probabilities of ``label`` that belong to it, the latest of all last."""
    over: dict[str, Any] = {}
    for node in _maps(scene) if label else ():
        for volume in _volumesOf(node) if node.GetAttribute(LABEL) == label else ():
            over.pop(volume.GetID(), None)
            over[volume.GetID()] = node
    return over


def _put(scene: Any, view: Any, node: Any) -> None:
    """Make ``node`` a view's overlay, with the opacity of ours before it; None brings back what ours has covered."""
    shown = _shownIn(scene, view)
    if node is not None:
        if shown is None:
            view.SetNodeReferenceID(_COVERED, view.GetForegroundVolumeID())
            view.SetAttribute(_COVERED, repr(view.GetForegroundOpacity()))
        view.SetForegroundVolumeID(node.GetID())
        view.SetForegroundOpacity(_OPACITY if shown is None else view.GetForegroundOpacity())
    elif shown is not None:
        covered, opacity = view.GetNodeReferenceID(_COVERED), view.GetAttribute(_COVERED)
        view.SetForegroundVolumeID(covered)
        view.SetForegroundOpacity(float(opacity) if covered and opacity else 0.0)


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
