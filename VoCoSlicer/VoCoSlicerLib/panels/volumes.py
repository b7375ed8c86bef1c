"""The section "Volumes": which volumes of the scene and folders on disk the jobs read, and what is wrong."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from VoCoCore.errors import DataError
from VoCoSlicerLib import adapter
from VoCoSlicerLib.choices import (
    FolderChoice,
    readCases,
    readFolders,
    readSettings,
    writeCases,
    writeFolders,
)
from VoCoSlicerLib.logic_cases import chosenCases
from VoCoSlicerLib.logic_check import CheckJob, casesListed
from VoCoSlicerLib.panels.base import Panel
from VoCoSlicerLib.panels.check_notes import Asked, CheckNotes
from VoCoSlicerLib.panels.volume_rows import Shown, VolumeRows, summary
from VoCoSlicerLib.volume_table import VolumeTable, edgeText, merged

_LOOK = 300  # milliseconds between two looks at the scene
_WORK = 100  # and at work in the background
_MOST_TOLD = 8  # rows whose notes are repeated below the table; all are in its last column


class VolumesPanel(Panel):
    """Table of volumes and cohorts with check boxes; "Check" opens every voxel of what is chosen, in the background."""

    form = "Volumes.ui"

    def __init__(self, logic: Any, host: Any) -> None:
        super().__init__(logic, host)
        self._table = VolumeTable(logic.scene)
        self._rows = VolumeRows(self.ui.volumesTable, self._onChange)
        self._notes = CheckNotes(logic.scene)
        # (kind; source of a cohort or what is asked of the scene; job or task) waiting or under way, in order
        self._work: list[tuple[str, str | Asked, Any]] = []
        self._under = False  # whether the first of them has been started
        self._look = adapter.makeTimer(_LOOK, self.refresh)
        self._tick = adapter.makeTimer(_WORK, self._go)
        ui = self.ui
        adapter.onClicked(ui.allButton, lambda: self._chooseAll(True))
        adapter.onClicked(ui.noneButton, lambda: self._chooseAll(False))
        adapter.onClicked(ui.addFolderButton, self._askFolder)
        adapter.onClicked(ui.addListButton, self._askList)
        adapter.onClicked(ui.removeFolderButton, self._removeFolders)
        ui.volumesTable.itemSelectionChanged.connect(lambda *_: self._enable())
        adapter.onClicked(ui.checkButton, self.check)
        adapter.onClicked(ui.cancelButton, self.cancel)
        self._showWork("")

    def enter(self) -> None:
        """Watch the scene."""
        self.refresh()
        self._look.start()

    def exit(self) -> None:
        """Watch it no longer; checks go on."""
        self._look.stop()

    def cleanup(self) -> None:
        """Stop everything."""
        self._look.stop()
        self._rows.cleanup()
        self.cancel()
        super().cleanup()

    def update(self) -> None:
        """Show the choices of the parameter node."""
        self._table.refresh()
        self._keep()
        self._show()

    def state(self) -> Any:
        """The choices of volumes and cohorts, and whether these want classes."""
        return readCases(self.parameters.parameterNode), self.parameters.folders, self._wantsClasses()

    def refresh(self) -> None:
        """Look at the scene: volumes that came, went, changed or have another name."""
        if self.parameters is None or self.logic.scene.IsBatchProcessing():
            return  # a scene that is loaded or closed is not whole before the end
        if self._table.refresh():
            self._keep()
            self._show()

    # Cohorts on disk

    def addFolder(self, source: str) -> None:
        """Add a folder, dataset.json, CSV or list of cases: it is listed and checked in the background."""
        if not source or self.parameters is None:
            return
        source = os.path.abspath(os.path.expanduser(source))
        folders = [item for item in readFolders(self.parameters) if item.source != source]
        name = f"{Path(source).stem}-{hashlib.sha256(source.encode()).hexdigest()[:8]}.json"
        index = self.logic.folder / "lists" / name
        writeFolders(self.parameters, [*folders, FolderChoice(source, str(index), chosen=False)])
        try:
            self._queue("index", source, self.logic.indexFolder(source, index))
            self._queue("check", source, CheckJob(self.logic, index=index))
        except Exception as error:
            self.host.showError(error)

    def _askFolder(self) -> None:
        self.addFolder(adapter.chooseFolder(_("Folder of cases")))

    def _askList(self) -> None:
        self.addFolder(adapter.chooseFile(_("List of cases"), "", "*.json *.csv (*.json *.csv)"))

    def _removeFolders(self) -> None:
        gone = self._selectedFolders()
        writeFolders(self.parameters, [one for one in readFolders(self.parameters) if one.source not in gone])

    def _selectedFolders(self) -> set[str]:
        folders = readFolders(self.parameters) if self.parameters is not None else []
        return {one.source for one in folders} & set(self._rows.selectedKeys())

    def _enable(self) -> None:
        self.ui.removeFolderButton.setEnabled(bool(self._selectedFolders()))

    # Checking

    def check(self) -> None:
        """Open every voxel of what is chosen, in the background; what is wrong is said in the rows."""
        if self.parameters is None:
            return
        cases = chosenCases(self.logic.scene, self._choices(), bool(self.parameters.groupChannels))
        if cases:
            self._queue("check", self._notes.asked(cases), CheckJob(self.logic, cases))
        for folder in readFolders(self.parameters):
            if folder.chosen:
                self._queue("check", folder.source, CheckJob(self.logic, index=folder.index))
        if not self._work:
            self.host.showError(DataError("no volume is chosen", "check the box of at least one"))

    def cancel(self) -> None:
        """Give up what is under way and what waits."""
        for _kind, _key, job in self._work[: int(self._under)]:
            job.cancel()
        self._work, self._under = [], False
        self._tick.stop()
        self._showWork("")

    def _queue(self, kind: str, key: str | Asked, job: Any) -> None:
        self._work.append((kind, key, job))
        self._showWork(_("waiting"))
        self._tick.start()

    def _go(self) -> None:
        """A moment of work: start what waits, look at what is under way."""
        if not self._work:
            self._tick.stop()
            self._showWork("")
            return
        kind, key, job = self._work[0]
        try:
            if not self._under:
                self._under = True
                job.start()
            elif self._isDone(kind, key, job):
                self._work.pop(0)
                self._under = False
        except Exception as error:
            self._work, self._under = [entry for entry in self._work[1:] if entry[1] != key], False
            self.host.showError(error, getattr(job, "log", None) or None)

    def _isDone(self, kind: str, key: str | Asked, job: Any) -> bool:
        now = job.poll()
        name = Path(key).name if isinstance(key, str) else _("volumes of the scene")
        if kind == "index":
            self._showWork(_("Listing the cases of {name}").format(name=name))
            if now.running:
                return False
            if error := job.error():
                raise error
            self._takeCount(str(key), casesListed(job))
            return True
        words = _("Writing {name}: {done} of {total}") if now.stage == "exporting" else _("Checking {name}")
        self._showWork(words.format(name=name, done=now.done, total=now.total))
        if now.finished and now.error is not None:
            raise now.error
        if now.finished:
            self._note(key, job)
        return bool(now.finished)

    def _takeCount(self, source: str, count: int) -> None:
        folders = readFolders(self.parameters) if self.parameters is not None else []
        made = [replace(one, cases=count, chosen=True) if one.source == source else one for one in folders]
        if self.parameters is not None:
            writeFolders(self.parameters, made)

    def _note(self, key: str | Asked, job: CheckJob) -> None:
        """Put what a check has found into the rows."""
        if isinstance(key, Asked):
            self._notes.take(key, job)
        elif self.parameters is not None:
            words = summary(job)
            folders = readFolders(self.parameters)
            made = [replace(one, warnings=words) if one.source == key else one for one in folders]
            writeFolders(self.parameters, made)
        self._show()
        self.host.say(_("Checked {n} cases").format(n=job.checked))
        self.host.advance("pretraining")

    # The table

    def _choices(self) -> list[Any]:
        kept = readCases(self.parameters.parameterNode)
        return merged(self._table.rows, kept, self._table.labelNodes())

    def _keep(self) -> None:
        """Let what is kept follow the scene: segmentations drawn since, volumes that went; other panels hear of it."""
        node = self.parameters.parameterNode
        kept = readCases(node)
        writeCases(node, [choice for choice in self._choices() if choice.volumeId in kept])

    def _chooseAll(self, chosen: bool) -> None:
        if self.parameters is not None:
            choices = [replace(choice, chosen=chosen) for choice in self._choices()]
            writeCases(
                self.parameters.parameterNode,
                merged(self._table.rows, _byId(choices), self._table.labelNodes()),
            )

    def _onChange(self, key: str, what: str, value: Any) -> None:
        if self.parameters is None:
            return
        folders = readFolders(self.parameters)
        if any(folder.source == key for folder in folders):
            made = [replace(one, chosen=bool(value)) if one.source == key else one for one in folders]
            writeFolders(self.parameters, made)
            return
        change = {"segmentationId": value, "byHand": True} if what == "segmentation" else {what: value}
        choices = [replace(one, **change) if one.volumeId == key else one for one in self._choices()]
        writeCases(self.parameters.parameterNode, choices)
        if what == "chosen" and value:
            self.host.advance("cropPreview")

    def _show(self) -> None:
        if self.parameters is None:
            return
        choices, shown = _byId(self._choices()), []
        for row in self._table.rows:
            choice = choices[row.nodeId]
            shown.append(
                Shown(
                    row.nodeId,
                    row.name,
                    edgeText(row.size, "d"),
                    edgeText(row.spacing, ".3g"),
                    row.modality,
                    choice.chosen,
                    row.usable,
                    (*row.warnings, *self._notes.of(row.nodeId)),
                    choice.segmentationId,
                    choice.classLabel,
                )
            )
        for folder in readFolders(self.parameters):
            size = _("{n} cases").format(n=folder.cases) if folder.cases else ""
            usable = bool(folder.cases)
            shown.append(
                Shown(
                    folder.source,
                    Path(folder.source).name,
                    size,
                    "",
                    _("folder"),
                    folder.chosen,
                    usable,
                    folder.warnings,
                )
            )
        self._rows.show(shown, self._table.labelNodes(), self._wantsClasses())
        told = [f"{row.name}: {'; '.join(row.notes)}" for row in shown if row.notes]
        self.ui.notesLabel.setText("\n".join(told[:_MOST_TOLD]))
        self.ui.notesLabel.setVisible(bool(told))
        chosen = sum(row.chosen for row in shown)
        self._enable()
        self.ui.countLabel.setText(_("{n} of {total} chosen").format(n=chosen, total=len(shown)))

    def _wantsClasses(self) -> bool:
        return readSettings(self.parameters, "finetune").get("task") == "classification"

    def _showWork(self, text: str) -> None:
        self.ui.workLabel.setText(text)
        self.ui.workLabel.setVisible(bool(text))
        self.ui.cancelButton.setEnabled(bool(self._work))


def _byId(choices: list[Any]) -> dict[str, Any]:
    return {choice.volumeId: choice for choice in choices}
