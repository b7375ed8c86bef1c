"""The list "Free space" in the section "Jobs": what can be deleted, with its size, and deleting it on consent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from VoCoCore.runs.narrate import size
from VoCoSlicerLib import adapter, space
from VoCoSlicerLib.tasks import Task


class JobSpace:
    """Drives the frame with its table and buttons. Call `poll` by a timer; ``host`` hears of errors."""

    def __init__(self, ui: Any, logic: Any, host: Any) -> None:
        self._ui, self._logic, self._host = ui, logic, host
        self._places: list[space.Place] = []
        self._task: Task | None = None
        self._then: Callable[[Task], None] | None = None
        heads = [_("Delete"), _("What"), _("Size"), _("Not needed"), _("Runs"), _("Folder")]
        ui.spaceTable.setColumnCount(len(heads))
        ui.spaceTable.setHorizontalHeaderLabels(heads)
        ui.spaceTable.setWordWrap(False)
        ui.spaceTable.verticalHeader().setVisible(False)
        ui.spaceTable.horizontalHeader().setStretchLastSection(True)
        ui.spaceTable.itemChanged.connect(lambda *_: self._enable())
        ui.spaceButton.clicked.connect(lambda *_: self.open())
        ui.closeSpaceButton.clicked.connect(lambda *_: ui.spaceFrame.setVisible(False))
        ui.deleteButton.clicked.connect(lambda *_: self.delete())
        ui.unusedButton.clicked.connect(lambda *_: self.deleteUnused())
        ui.spaceFrame.setVisible(False)

    @property
    def busy(self) -> bool:
        """Whether it measures or deletes right now."""
        return self._task is not None

    def open(self) -> None:
        """Show the list, and measure in the background."""
        self._ui.spaceFrame.setVisible(True)
        self._ui.spaceLabel.setText(_("Measuring..."))
        self._begin(lambda: space.look(self._runs(), self._logic.volumesInUse()), self._onLooked)

    def poll(self) -> None:
        """Go on where a task has ended."""
        if self._task is None or self._task.poll().running:
            return
        task, then, self._task = self._task, self._then, None
        try:
            then(task)
        except Exception as error:  # a timer has nobody to raise to
            self._host.showError(error, task.log)
        self._enable()

    def delete(self) -> None:
        """Delete the checked places, after a question."""
        chosen = self._checked()
        text = _(
            "{count} folders with {amount} will be deleted:\n\n{folders}\n\n{given}No scan is lost. Go on?"
        )
        lost = _("Without these volumes one cannot resume {runs} any more.")
        runs = dict.fromkeys(run.name for place in chosen for run in place.resumable)
        text = text.format(
            count=len(chosen),
            amount=size(sum(place.size for place in chosen)),
            folders="\n".join(str(place.path) for place in chosen),
            given=lost.format(runs=", ".join(runs)) + "\n\n" if runs else "",
        )
        if chosen and self._agreed(text):
            self._free(lambda: space.free(chosen, (), self._runs(), self._logic.volumesInUse()))

    def deleteUnused(self) -> None:
        """Delete the cases of the checked stores that no known run needs, after a question."""
        chosen = [place for place in self._checked() if place.kind == "store"]
        text = _("Prepared cases with {amount} that no known run needs will be deleted. Go on?").format(
            amount=size(sum(place.unused for place in chosen))
        )
        if chosen and self._agreed(text):
            self._free(lambda: space.free((), chosen))

    def _runs(self) -> list[Path]:
        return list(self._logic.jobs.list.paths())

    def _agreed(self, text: str) -> bool:
        return adapter.ask(_("VoCo"), text, [_("Delete"), _("Cancel")]) == 0

    def _free(self, work: Callable[[], Task]) -> None:
        self._ui.spaceLabel.setText(_("Deleting..."))
        if not self._begin(work, self._onFreed):
            self.open()

    def _onFreed(self, task: Task) -> None:
        if error := task.error():
            self._host.showError(error, task.log)
        else:
            self._host.say(task.result().strip().splitlines()[-1])
        self.open()

    def _onLooked(self, task: Task) -> None:
        self._places = space.places(task)
        total = size(sum(place.size for place in self._places))
        none = _("There is nothing to delete.")
        text = _("{count} folders with {amount} in all.").format(count=len(self._places), amount=total)
        self._ui.spaceLabel.setText(text if self._places else none)
        self._ui.spaceTable.setVisible(bool(self._places))
        self._fill()

    def _begin(self, work: Callable[[], Task], then: Callable[[Task], None]) -> bool:
        """Start ``work``; False where it cannot be done."""
        if self._task is not None:
            return True
        try:
            self._task = work()
        except Exception as error:  # nor has a button
            self._host.showError(error)
        self._then = then
        self._enable()
        return self._task is not None

    def _fill(self) -> None:
        words = {
            "store": _("prepared volumes"),
            "export": _("export for a cluster"),
            "leftover": _("left of a deletion"),
            "volumes": _("volumes exported from scenes"),
        }
        table = self._ui.spaceTable
        with adapter.blocked(table):
            table.setRowCount(len(self._places))
            for number, place in enumerate(self._places):
                texts = ["", words.get(place.kind, place.kind), size(place.size)]
                if place.resumable:
                    needed = _("{what}, needed to resume {runs}")
                    names = ", ".join(run.name for run in place.resumable)
                    texts[1] = needed.format(what=texts[1], runs=names)
                texts += [size(place.unused) if place.unused else "", str(place.runs), str(place.path)]
                for column, text in enumerate(texts):
                    table.setItem(number, column, qt.QTableWidgetItem(text))
                box = table.item(number, 0)
                box.setCheckState(qt.Qt.Unchecked)
                if place.busy or place.work:
                    box.setFlags(qt.Qt.ItemIsSelectable)
                    job = _("the job in {run}").format(run=place.busy[0]) if place.busy else _(place.work)
                    box.setToolTip(_("In use by {work}").format(work=job))
        table.resizeColumnsToContents()

    def _checked(self) -> list[space.Place]:
        table = self._ui.spaceTable
        boxes = [table.item(number, 0) for number in range(len(self._places))]
        return [
            place
            for place, box in zip(self._places, boxes, strict=True)
            if box is not None and box.checkState() == qt.Qt.Checked
        ]

    def _enable(self) -> None:
        chosen = self._checked() if not self.busy else []
        self._ui.deleteButton.setEnabled(bool(chosen))
        self._ui.unusedButton.setEnabled(any(place.unused for place in chosen))
        self._ui.spaceButton.setEnabled(not self.busy)
