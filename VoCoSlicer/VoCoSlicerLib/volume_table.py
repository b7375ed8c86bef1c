"""What the table of volumes shows: rows of the scene, described a few at a time, with what the user chose for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import slicer

from VoCoSlicerLib.choices import CaseChoice
from VoCoSlicerLib.volumes import Suggestions, VolumeRow, describeVolume, volumeNodes

_DRAWN_ON = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
_CLASSES = ("vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode")


class VolumeTable:
    """The volumes of a scene. Call `refresh` now and then: it costs little where nothing has changed, and describes at
    most one new or changed volume at a call, since that looks at voxels.
    """

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        self._kept: dict[str, tuple[Any, VolumeRow]] = {}
        self._signature: Any = None
        self.pending = 0  # volumes that are not described yet
        self.rows: list[VolumeRow] = []

    def refresh(self) -> bool:
        """Look at the scene; returns whether `rows` is different from before."""
        nodes = volumeNodes(self._scene)
        marks = {node.GetID(): _mark(node) for node in nodes}
        self._kept = {key: kept for key, kept in self._kept.items() if key in marks}
        stale = [node for node in nodes if self._kept.get(node.GetID(), (None,))[0] != marks[node.GetID()]]
        self.pending = max(0, len(stale) - 1)
        labels = [(key, name, self._drawnOn(key)) for key, name in self.labelNodes().items()]
        signature = (tuple(marks.items()), len(stale), labels)
        changed = signature != self._signature
        self._signature = signature
        if changed:
            suggestions = Suggestions(self._scene)
            for node in stale[:1]:
                row = describeVolume(node, suggestions=suggestions)
                self._kept[node.GetID()] = (marks[node.GetID()], row)
            self.rows = [self._row(node, suggestions.of(node)) for node in nodes]
        return changed

    def labelNodes(self) -> dict[str, str]:
        """Names of all segmentations and label maps by their ID."""
        found = {}
        for kind in _CLASSES:
            nodes = self._scene.GetNodesByClass(kind)
            nodes.UnRegister(None)
            for number in range(nodes.GetNumberOfItems()):
                node = nodes.GetItemAsObject(number)
                if not node.GetHideFromEditors():
                    found[node.GetID()] = node.GetName() or ""  # Qt takes no None for a text
        return found

    def _drawnOn(self, labelId: str) -> str:
        return self._scene.GetNodeByID(labelId).GetNodeReferenceID(_DRAWN_ON) or ""

    def _row(self, node: Any, suggested: Any) -> VolumeRow:
        suggestedId = suggested.GetID() if suggested is not None else ""
        if node.GetID() in self._kept:
            kept = self._kept[node.GetID()][1]
            return replace(kept, name=node.GetName() or "", segmentationId=suggestedId)
        return VolumeRow(
            node.GetID(), node.GetName() or "", (0, 0, 0), (0.0, 0.0, 0.0), "", (), True, suggestedId
        )


def merged(
    rows: Iterable[VolumeRow], choices: Mapping[str, CaseChoice], known: Iterable[str]
) -> list[CaseChoice]:
    """A choice for each row: the user's own, with the suggested segmentation where none was chosen by hand.

    ``known``: IDs of the segmentations that there are; a choice of one that is gone falls back to the suggestion.
    """
    there = {*known, ""}
    made = []
    for row in rows:
        choice = choices.get(row.nodeId, CaseChoice(row.nodeId))
        if not choice.byHand or choice.segmentationId not in there:
            choice = replace(choice, segmentationId=row.segmentationId, byHand=False)
        made.append(choice if row.usable else replace(choice, chosen=False))
    return made


def edgeText(values: Iterable[float], form: str, unit: str = "") -> str:
    """Three edges as text, such as ``512 x 512 x 300`` or ``0.7 x 0.7 x 1.5 mm``; empty where they are not known."""
    edges = list(values)
    if not any(edges):
        return ""
    return " x ".join(format(value, form) for value in edges) + (f" {unit}" if unit else "")


def _mark(node: Any) -> tuple[Any, ...]:
    image, transform = node.GetImageData(), node.GetParentTransformNode()
    return (
        node.GetName(),
        node.GetMTime(),
        image.GetMTime() if image is not None else 0,
        # Of all its parents too; a node's own time does not tell of a new matrix.
        (transform.GetID(), transform.GetTransformToWorldMTime()) if transform is not None else None,
    )
