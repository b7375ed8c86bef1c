"""What checks have found in volumes of the scene, for as long as the volumes are those that were checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

from VoCoSlicerLib.logic_check import CheckJob
from VoCoSlicerLib.snapshots import SceneCase


@dataclass(frozen=True)
class Asked:
    """The cases of one check, and what their volumes were like when it was asked for."""

    cases: tuple[SceneCase, ...]
    marks: dict[str, Any]


class CheckNotes:
    """Sentences for the rows of volumes. Closed scenes give IDs of nodes again: the image tells whose note it is."""

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        self._kept: dict[str, tuple[Any, tuple[str, ...]]] = {}

    def asked(self, cases: Iterable[SceneCase]) -> Asked:
        """Remember what is checked, before its job starts."""
        cases = tuple(cases)
        return Asked(cases, {one: self._mark(one) for case in cases for one in case.volumeIds})

    def take(self, asked: Asked, job: CheckJob) -> None:
        """Take what a check has found; it names the cases in the order given."""
        found: dict[str, list[str]] = {}
        for one in job.found:
            found.setdefault(one.case, []).append(f"{one.message} ({one.hint})" if one.hint else one.message)
        for name, case in zip(job.names, asked.cases, strict=True):
            for volumeId in case.volumeIds:
                words: Sequence[str] = found.get(name, [_("checked: nothing found")])
                self._kept[volumeId] = (asked.marks[volumeId], tuple(words))

    def of(self, volumeId: str) -> tuple[str, ...]:
        """What is known of a volume; nothing of one whose image is another by now."""
        mark, words = self._kept.get(volumeId, (None, ()))
        if words and mark != self._mark(volumeId):
            del self._kept[volumeId]
            return ()
        return words

    def _mark(self, volumeId: str) -> Any:
        node = self._scene.GetNodeByID(volumeId)
        image = node.GetImageData() if node is not None else None
        return (image.GetMTime(), node.GetSpacing()) if image is not None else None
