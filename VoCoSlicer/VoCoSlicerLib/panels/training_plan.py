"""What a training would read, by the choices of a scene: how many cases, which labels, and what is missing."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from slicer.i18n import tr as _

from VoCoCore.errors import DataError, VocoError
from VoCoSlicerLib.choices import FolderChoice, readCases, readFolders, readSettings
from VoCoSlicerLib.logic_cases import chosenCases, labelNames
from VoCoSlicerLib.titles import titleOf


class TrainingPlan:
    """The cases that are chosen in ``parameters`` for a ``pretrain`` or ``finetune`` job; looks at no voxel.

    Each is read once: make another plan when the choices may be others.
    """

    def __init__(self, scene: Any, parameters: Any, kind: str) -> None:
        self._scene, self._parameters, self._kind = scene, parameters, kind

    @cached_property
    def task(self) -> str:
        """segmentation or classification; "" for a pre-training, which wants no labels."""
        if self._kind == "pretrain":
            return ""
        return str(readSettings(self._parameters, self._kind).get("task", "segmentation"))

    @cached_property
    def cases(self) -> list[Any]:
        """A SceneCase of each case of the scene."""
        choices = readCases(self._parameters.parameterNode).values()
        return chosenCases(self._scene, choices, bool(self._parameters.groupChannels), self.task)

    @cached_property
    def folders(self) -> list[FolderChoice]:
        """The cohorts on disk that are chosen and have been listed."""
        return [folder for folder in readFolders(self._parameters) if folder.chosen and folder.cases]

    @cached_property
    def indexes(self) -> list[str]:
        """The lists of cases of these cohorts."""
        return [folder.index for folder in self.folders]

    @cached_property
    def count(self) -> int:
        """How many cases there are in all."""
        return len(self.cases) + sum(folder.cases for folder in self.folders)

    @cached_property
    def channels(self) -> tuple[Any, ...]:
        """What of the cases the figures of a pre-training depend on: how many channels they have."""
        return tuple(sorted({len(case.volumeIds) for case in self.cases})) or tuple(self.indexes[:1])

    def words(self) -> str:
        """How many cases, and the names of their labels or classes."""
        count = self.count
        text = _("1 case") if count == 1 else _("{n} cases").format(n=count)
        names = labelNames(self._scene, self.cases) if self.task else []
        if not names:
            return text
        kind = _("labels") if self.task == "segmentation" else _("classes")
        return _("{cases}; {kind}: {names}").format(cases=text, kind=kind, names=", ".join(names))

    def problems(self) -> list[VocoError]:
        """What the cases lack to start a job; empty where nothing is."""
        cases = self.cases
        if not cases and not self.folders:
            return [DataError(_("no volume is chosen"), _("check at least one in the section Volumes"))]
        bare = [case for case in cases if self.task and not (case.segmentationId or case.classLabel)]
        if bare:
            node = self._scene.GetNodeByID(bare[0].volumeIds[0])
            what = _("segmentation") if self.task == "segmentation" else _("class")
            text = _("{name} has no {what}").format(name=titleOf(node), what=what)
            return [DataError(text, _("choose one in the section Volumes, or leave the volume out"))]
        return []
