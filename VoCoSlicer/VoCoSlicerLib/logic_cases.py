"""From volumes of the scene, or from what is checked in the table, to the cases of a job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from VoCoCore.errors import DataError, SettingsError
from VoCoSlicerLib.channels import splitName
from VoCoSlicerLib.choices import CaseChoice
from VoCoSlicerLib.preview_nodes import nodesByClass
from VoCoSlicerLib.segments import segmentNames
from VoCoSlicerLib.snapshots import SceneCase, patientOf
from VoCoSlicerLib.titles import titleOf
from VoCoSlicerLib.volumes import Suggestions, VolumeRow, groupChannels, isStillThere


def nodesOf(scene: Any, items: Iterable[Any]) -> list[Any]:
    """The volumes that ``items`` name: nodes, IDs or names. Raises SettingsError for one that is not in the scene, and
    for a name that several of them have.
    """
    return [_node(scene, item) for item in items]


def listed(items: Iterable[Any], what: str = "volume") -> list[Any]:
    """``items``, which must be a list, as one. Raises SettingsError for one node, ID, name or path alone."""
    if isinstance(items, str | Path) or hasattr(items, "GetID"):
        raise SettingsError(f"one {what} was given instead of a list of them", "put it into [ ]")
    try:
        return list(items)
    except TypeError:
        hint = "give a list, such as [first, second]"
        raise SettingsError(f"{type(items).__name__} is no list of {what}s", hint) from None


def casesOf(
    scene: Any,
    volumes: Sequence[Any],
    segmentations: Sequence[Any] | None = None,
    classLabels: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    labelled: bool = False,
) -> list[SceneCase]:
    """A SceneCase of each volume (node, ID or name; a list of them is one case of several channels).

    ``labelled`` takes the segmentation that was drawn on a volume, or on any channel, or whose name fits, where none is
    given. Raises SettingsError for lists of different lengths and for what is no list, DataError where a segmentation
    is wanted and none found.
    """
    volumes = listed(volumes)
    given: dict[str, list[Any]] = {}
    for what, items in (("segmentation", segmentations), ("classLabel", classLabels), ("name", names)):
        given[what] = [None] * len(volumes) if items is None else listed(items, what)
        if len(given[what]) != len(volumes):
            count = f"{len(volumes)} volumes and {len(given[what])} {what}s"
            raise SettingsError(count, "give one for each volume")
    made, suggestions = [], Suggestions(scene)
    for item, label, classLabel, name in zip(volumes, *given.values(), strict=True):
        nodes = nodesOf(scene, item if isinstance(item, list | tuple) else [item])
        segmentation = None if label is None else _node(scene, label, _isLabels)
        if labelled and segmentations is None:
            segmentation = _suggested(suggestions, nodes)
        made.append(
            SceneCase(
                volumeIds=tuple(node.GetID() for node in nodes),
                segmentationId=segmentation.GetID() if segmentation is not None else None,
                # numpy's own numbers are none to JSON
                classLabel=classLabel.item() if hasattr(classLabel, "item") else classLabel,
                name="" if name is None else str(name),
            )
        )
    return made


def chosenCases(
    scene: Any, choices: Iterable[CaseChoice], grouped: bool = False, task: str = ""
) -> list[SceneCase]:
    """The cases of the boxes that are checked, in the order of the choices; ``grouped``: channels of one case together.

    With the ``task`` segmentation or classification, a case has the segmentation, best one chosen by hand, or the class
    that any of its volumes has; without one it has neither.
    """
    chosen = {choice.volumeId: choice for choice in choices if choice.chosen}
    made = []
    for group in groupsOf(scene, list(chosen), grouped):
        members = sorted((chosen[volumeId] for volumeId in group), key=lambda one: not one.byHand)
        made.append(
            SceneCase(
                volumeIds=tuple(group),
                segmentationId=_first(one.segmentationId for one in members)
                if task == "segmentation"
                else None,
                classLabel=_first(one.classLabel for one in members) if task == "classification" else None,
            )
        )
    return made


def groupsOf(scene: Any, volumeIds: Sequence[str], grouped: bool) -> list[list[str]]:
    """The volumes that there still are, as cases: each alone, or ``grouped`` as channels by their names.

    Volumes that the data tree has below different patients are never put together, whatever their names.
    """
    nodes = [node for node in map(scene.GetNodeByID, volumeIds) if node is not None]
    if not grouped:
        return [[node.GetID()] for node in nodes]
    place = {node.GetID(): number for number, node in enumerate(nodes)}
    groups = []
    for patient in dict.fromkeys(patients := _patientsOf(scene, nodes)):
        own = [node for node, other in zip(nodes, patients, strict=True) if other == patient]
        groups += groupChannels([_rowOf(node) for node in own])
    return sorted(groups, key=lambda group: min(place[one] for one in group))


def _patientsOf(scene: Any, nodes: Sequence[Any]) -> list[str]:
    """Each volume's patient; one without, as modules make them, is the only patient's who has a case of its name."""
    cases = [splitName(node.GetName() or "")[0] for node in nodes]
    patients = [patientOf(scene, node) for node in nodes]
    known: dict[str, set[str]] = {}
    for case, patient in zip(cases, patients, strict=True):
        known.setdefault(case, set()).update({patient} - {""})
    found = zip(cases, patients, strict=True)
    return [next(iter(known[case])) if len(known[case]) == 1 else patient for case, patient in found]


def _rowOf(node: Any) -> VolumeRow:
    """What grouping needs of a volume; nothing of its voxels is looked at."""
    image = node.GetImageData()
    size = tuple(image.GetDimensions()) if image is not None else (0, 0, 0)
    return VolumeRow(node.GetID(), node.GetName() or "", size, (0.0, 0.0, 0.0), "", (), True, "")


def labelNames(scene: Any, cases: Iterable[SceneCase]) -> list[str]:
    """Names of all segments, or all classes, of these cases, each once, in order."""
    names: dict[str, None] = {}
    for case in cases:
        node = scene.GetNodeByID(case.segmentationId) if case.segmentationId else None
        if node is not None and node.IsA("vtkMRMLSegmentationNode"):
            names |= dict.fromkeys(segmentNames(node))
        elif case.classLabel:
            names[str(case.classLabel)] = None
    return list(names)


def _first(texts: Iterable[str]) -> str | None:
    return next((text for text in texts if text), None)


def _suggested(suggestions: Suggestions, volumes: Sequence[Any]) -> Any:
    found = next(filter(None, map(suggestions.of, volumes)), None)
    if found is None:
        raise DataError(
            f"no segmentation belongs to {titleOf(volumes[0])}",
            "name it like the volume, whose name no other may have, or give it by hand",
        )
    return found


def _isLabels(node: Any) -> bool:
    return any(node.IsA(kind) for kind in ("vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode"))


def _isVolume(node: Any) -> bool:
    return node.IsA("vtkMRMLScalarVolumeNode") and not _isLabels(node)


def _node(scene: Any, item: Any, wanted: Callable[[Any], bool] = _isVolume) -> Any:
    if hasattr(item, "GetID"):
        if not isStillThere(scene, item):
            raise SettingsError(f"{titleOf(item)} is no longer in the scene", "load it again")
        return item
    hint = "give a node, its ID or its name"
    if not isinstance(item, str):
        raise SettingsError(f"{type(item).__name__} is no node of the scene", hint)
    if (node := scene.GetNodeByID(item)) is not None:
        return node
    # A name may be a segmentation's and its volume's; of two patients' "CT" the first would be taken for both.
    named = [node for node in nodesByClass(scene, "vtkMRMLNode") if node.GetName() == item]
    named = [node for node in named if wanted(node)] or named[:1]
    if not named:
        raise SettingsError(f"the scene has no node {item!r}", hint)
    if len(named) > 1:
        raise SettingsError(
            f"{len(named)} nodes of the scene are called {item!r}", "give the nodes or their IDs"
        )
    return named[0]
