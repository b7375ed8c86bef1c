"""Tables of results: how large each label is, and what a diagnosis says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vtk

from VoCoSlicerLib.results import RESULT, segmentVolumes, sign
from VoCoSlicerLib.results_read import readTable
from VoCoSlicerLib.titles import titleOf, uniqueName


def volumesTable(
    scene,
    nodes: Sequence[Any],
    provenance: Mapping[str, str] | None = None,
    milliliters: Sequence[Mapping[str, float]] | None = None,
    name: str = "VoCo volumes",
):
    """A vtkMRMLTableNode with a row for each label of each segmentation: volume's name, label, ml.

    ``milliliters``: label -> ml for each of ``nodes``, where they are known; else their voxels are counted, which takes
    a moment for large ones. Overlapping regions each count all that belongs to them.
    """
    known = list(milliliters) if milliliters is not None else [segmentVolumes(node) for node in nodes]
    rows = []
    for node, volumes in zip(nodes, known, strict=True):
        rows += [[titleOf(node), label, volume] for label, volume in volumes.items()]
    table = _table(scene, name, ["Segmentation", "Label", "Volume (ml)"], rows)
    table.SetColumnUnitLabel("Volume (ml)", "ml")
    _signed(table, "volumes", provenance)
    return table


def classTable(
    scene,
    path: str | Path,
    volumesById: Mapping[str, Any],
    provenance: Mapping[str, str] | None = None,
    name: str = "VoCo classification",
):
    """A vtkMRMLTableNode of predictions.csv in ``path``: volume's name, predicted class, probability of each class.

    ``volumesById``: id of a case -> its volume's node id; a case without a node is called by its id. Raises DataError
    for a file that is no such table.
    """
    found = readTable(path, ["case", "predicted"])
    classes = [column for column in (found[0] if found else {}) if column not in ("case", "predicted")]
    rows = []
    for row in found:
        probabilities = [row[column] for column in classes]
        rows.append([caseTitle(scene, row["case"], volumesById), row["predicted"], *probabilities])
    table = _table(scene, name, ["Volume", "Class", *classes], rows)
    _signed(table, "classes", provenance)
    return table


def caseTitle(scene, case: str, volumesById: Mapping[str, Any]) -> str:
    """What a case is called in the scene: its first volume's name, or its id where that is gone."""
    node = volumeOf(scene, volumesById.get(case))
    return titleOf(node) if node is not None else case


def volumeOf(scene, identities: Any):
    """The first node of a case, given one id or several; None where there is none."""
    if not identities:
        return None
    return scene.GetNodeByID(identities if isinstance(identities, str) else identities[0])


def _table(scene, name: str, titles: Sequence[str], rows: Sequence[Sequence[Any]]):
    """Columns are text or numbers, as the first row has them."""
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", uniqueName(scene, name))
    for number, title in enumerate(titles):
        isText = not rows or isinstance(rows[0][number], str)
        column = vtk.vtkStringArray() if isText else vtk.vtkDoubleArray()
        column.SetName(title)
        for row in rows:
            column.InsertNextValue(row[number])
        node.AddColumn(column)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    return node


def _signed(table, kind: str, provenance: Mapping[str, str] | None) -> None:
    table.SetAttribute(RESULT, kind)
    if provenance:
        sign(table, provenance)
