"""A user's choices as the parameter node keeps them: cases with their references, and settings changed by hand.

References to nodes are MRML references, which survive saving, loading and importing under other IDs; everything
else is JSON in parameters. Nothing here needs Qt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_COUNT = "cases"
KINDS = ("pretrain", "finetune")


@dataclass(frozen=True)
class CaseChoice:
    """What a user chose for one volume of the scene.

    ``chosen``: its box is checked. ``segmentationId``: the segmentation that belongs to it, "" for none;
    ``byHand``: that was chosen by hand, so that no suggestion replaces it while it is there.
    ``classLabel``: for classification.
    """

    volumeId: str
    chosen: bool = False
    segmentationId: str = ""
    byHand: bool = False
    classLabel: str = ""


@dataclass(frozen=True)
class FolderChoice:
    """A cohort that stays on disk: its folder or list, the index made of it, and what checking it found."""

    source: str
    index: str = ""
    chosen: bool = True
    cases: int = 0
    warnings: tuple[str, ...] = ()


def readCases(node: Any) -> dict[str, CaseChoice]:
    """Choices by the volume's ID, from a vtkMRMLScriptedModuleNode; volumes that are gone are left out."""
    found = {}
    for number in range(_number(node.GetParameter(_COUNT))):
        volume = node.GetNodeReference(f"case{number}.volume")
        if volume is None:
            continue
        segmentation = node.GetNodeReference(f"case{number}.segmentation")
        kept = readObject(node.GetParameter(f"case{number}"))
        gone = segmentation is None and bool(kept.get("labelled"))  # deleted since it was chosen
        found[volume.GetID()] = CaseChoice(
            volume.GetID(),
            bool(kept.get("chosen")),
            segmentation.GetID() if segmentation else "",
            bool(kept.get("byHand")) and not gone,
            str(kept.get("classLabel", "")),
        )
    return found


def writeCases(node: Any, choices: Sequence[CaseChoice]) -> None:
    """Replace the choices that ``node`` keeps; it says so once, and only where something is different."""
    count = _number(node.GetParameter(_COUNT))  # also of volumes that are gone
    if count == len(choices) and list(readCases(node).values()) == list(choices):
        return
    before = node.StartModify()
    try:
        for number in range(len(choices), count):
            _forget(node, number)
        for number, choice in enumerate(choices):
            node.SetNodeReferenceID(f"case{number}.volume", choice.volumeId)
            node.SetNodeReferenceID(f"case{number}.segmentation", choice.segmentationId or None)
            kept = {"chosen": choice.chosen, "byHand": choice.byHand, "classLabel": choice.classLabel}
            kept["labelled"] = bool(choice.segmentationId)
            node.SetParameter(f"case{number}", json.dumps(kept))
        node.SetParameter(_COUNT, str(len(choices)))
    finally:
        node.EndModify(before)


def _forget(node: Any, number: int) -> None:
    node.RemoveNodeReferenceIDs(f"case{number}.volume")
    node.RemoveNodeReferenceIDs(f"case{number}.segmentation")
    node.UnsetParameter(f"case{number}")


def readFolders(parameters: Any) -> list[FolderChoice]:
    """Cohorts on disk, from the parameter node's wrapper; entries that make no sense are left out."""
    try:
        listed = json.loads(parameters.folders or "[]")
        return [
            FolderChoice(
                str(item["source"]),
                str(item.get("index", "")),
                bool(item.get("chosen", True)),
                int(item.get("cases", 0)),
                tuple(map(str, item.get("warnings", ()))),
            )
            for item in listed
        ]
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        return []


def writeFolders(parameters: Any, folders: Sequence[FolderChoice]) -> None:
    """Replace the cohorts on disk."""
    parameters.folders = json.dumps([asdict(folder) for folder in folders])


def readSettings(parameters: Any, kind: str) -> dict[str, Any]:
    """Settings of ``pretrain`` or ``finetune`` that were changed by hand: dotted name -> value."""
    return readObject(getattr(parameters, _settingsOf(kind)))


def writeSettings(parameters: Any, kind: str, values: Mapping[str, Any]) -> None:
    """Replace the settings changed by hand; the parameter node says so only where something is different."""
    if readSettings(parameters, kind) != _plain(values):
        setattr(parameters, _settingsOf(kind), json.dumps(_plain(values), sort_keys=True))


def changeSetting(parameters: Any, kind: str, name: str, value: Any) -> None:
    """Set one setting by its dotted name; None takes it back, so that preset, recipe or protocol decide."""
    others = {key: kept for key, kept in readSettings(parameters, kind).items() if key != name}
    writeSettings(parameters, kind, others if value is None else {**others, name: value})


def _settingsOf(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"no kind of job: {kind!r}")
    return f"{kind}Settings"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def readObject(text: str) -> dict[str, Any]:
    """The JSON object that a scene keeps as text; an empty one where somebody's scene holds anything else."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(text: str) -> int:
    # A scene of somebody else's may say anything, and a loop of so many turns would never end.
    return int(text) if text and text.isdecimal() and len(text) < 6 else 0
