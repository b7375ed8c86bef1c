"""The section "Jobs": all runs that are known, how they stand, and what can be done with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from VoCoCore.errors import DataError
from VoCoCore.runs.describe import CUT
from VoCoCore.runs.narrate import duration, number
from VoCoSlicerLib import adapter
from VoCoSlicerLib.choices import changeSetting
from VoCoSlicerLib.job_rows import GONE, STARTING, JobRow
from VoCoSlicerLib.panels.base import Panel
from VoCoSlicerLib.panels.job_plot import JobPlot
from VoCoSlicerLib.panels.job_rows_table import JobRowsTable, stateWord
from VoCoSlicerLib.panels.job_space import JobSpace
from VoCoSlicerLib.tasks import Task

_POLL = 1000  # milliseconds to the next look at the runs
_SOON = 100  # while there are some that were never read
_BAD = ("failed", "lost")
_PARTS = 1000  # of the progress bar


class JobsPanel(Panel):
    """Table of runs, state and buttons of the chosen one, its plot, and the list of what can be deleted.

    One timer reads the runs, once a second while the module is open or a job of this machine runs.
    """

    form = "Jobs.ui"

    def __init__(self, logic: Any, host: Any) -> None:
        super().__init__(logic, host)
        ui = self.ui
        self._table = JobRowsTable(ui.runsTable, self._onSelection)
        self._space = JobSpace(ui, logic, host)
        self._plot = JobPlot(logic, ui.plotButton, ui.plotCombo, lambda: self.selected)
        self._rows: dict[Path, JobRow] = {}
        self._results: list[tuple[Path, str]] = []  # that the other sections were told of
        self._tasks: list[tuple[Task, str]] = []  # exports, and what to say when they are done
        self._entered = False
        self._timer = adapter.makeTimer(_POLL, self.poll)
        for button, work in (
            (ui.addRunsButton, self.addFolder),
            (ui.refreshButton, self.lookAgain),
            (ui.forgetButton, self.forget),
            (ui.stopButton, self.stop),
            (ui.killButton, self.kill),
            (ui.resumeButton, self.resume),
            (ui.useButton, self.useResult),
            (ui.logButton, self.showLog),
            (ui.reportButton, self.openReport),
            (ui.exportButton, self.export),
        ):
            button.clicked.connect(lambda *_, work=work: self._guarded(work))
        ui.plotButton.toggled.connect(lambda *_: self._guarded(self._plot.toggled))
        adapter.connect(ui.plotCombo, "currentIndexChanged(int)", lambda *_: self._guarded(self._plot.chosen))
        ui.spaceButton.clicked.connect(lambda *_: self._timer.start())
        self._show()

    @property
    def selected(self) -> Path | None:
        """The folder of the chosen run; None where none is chosen."""
        return self._table.selected

    def enter(self) -> None:
        """Read the runs, and go on doing so."""
        self._entered = True
        self._timer.start()
        self.poll()

    def exit(self) -> None:
        """Go on only while jobs of this machine run."""
        self._entered = False

    def cleanup(self) -> None:
        """Read no more; jobs go on."""
        self._timer.stop()
        self._plot.cleanup()
        super().cleanup()

    def update(self) -> None:
        """Show the run that the scene remembers."""
        remembered = str(self.parameters.selectedRun)
        if remembered and Path(remembered) != self.selected:
            self._table.select(Path(remembered))
            self._show()

    def poll(self) -> None:
        """Read what has changed; a few milliseconds."""
        rows = self.logic.jobs.rows()
        while self.logic.jobs.complaints:
            self.host.showError(self.logic.jobs.complaints.pop(0)[1])
        self._tellEnds(rows)
        self._rows = {row.path: row for row in rows}
        results = [(row.path, row.result) for row in rows]
        if results != self._results and not self.logic.jobs.behind:
            self._results = results
            self.host.offerRuns()
        self._table.fill(rows)
        self._space.poll()
        self._pollTasks()
        self._plot.update()
        self._show()
        self._timer.setInterval(_SOON if self.logic.jobs.behind else _POLL)
        here = any(row.local and row.active for row in rows)
        if not (self._entered or here or self._tasks or self._space.busy):
            self._timer.stop()

    # What a user does

    def selectRun(self, path: str | Path) -> None:
        """Choose a run, also one that has only just been started."""
        self._table.select(Path(path))
        self._remember()
        self._timer.start()
        self.poll()

    def addFolder(self, folder: str = "") -> None:
        """Add a run, or a folder of runs, to the table."""
        folder = folder or adapter.chooseFolder(_("Run, or folder that holds runs"))
        if folder:
            self.logic.jobs.addFolder(folder)
            self.host.say(_("Looking for runs in {folder}").format(folder=folder))

    def lookAgain(self) -> None:
        """Look through the folders that were added."""
        self.logic.jobs.list.refresh()

    def forget(self) -> None:
        """Take the chosen run off the list."""
        self.logic.jobs.forget(self.selected)

    def stop(self) -> None:
        """Ask the job to stop with a checkpoint."""
        if self.logic.jobs.stop(self.selected):
            self.host.say(_("Asked to stop after the step under way, with a checkpoint"))
        else:
            self.host.say(_("The job of {name} was ended before it began").format(name=self.selected.name))

    def kill(self) -> None:
        """End the job at once, after a question."""
        text = _("Kill the job of {name}? What it has done since its last checkpoint is lost.")
        text = text.format(name=self.selected.name)
        if adapter.ask(_("VoCo"), text, [_("Kill"), _("Cancel")]) == 0:
            self.logic.jobs.kill(self.selected)

    def resume(self) -> None:
        """Go on from the last checkpoint."""
        self.host.hideError()  # that of its last end, say
        self.logic.jobs.resume(self.selected, self.logic.environment.python)
        self.host.say(_("Going on with {name}").format(name=self.selected.name))

    def useResult(self) -> None:
        """Predict with the model, or fine-tune from the encoder, that the chosen run has left."""
        result = self.logic.jobs.result(self.selected)
        if result is None:
            raise DataError(
                _("{run} has no weights any more").format(run=self.selected), _("choose another run")
            )
        if result[0] == "model":
            self.parameters.model = str(self.selected)
            self.host.openSection("prediction")
        else:
            changeSetting(self.parameters, "finetune", "init", str(self.selected))
            self.host.openSection("finetuning")

    def showLog(self) -> None:
        """Show the end of the run's log."""
        adapter.showText(str(self.selected), self.logic.jobs.log(self.selected))

    def openReport(self) -> None:
        """Open the report in the web browser."""
        report = self.logic.jobs.report(self.selected)
        if report is None:
            raise DataError(_("{run} has no report any more").format(run=self.selected))
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(report)))

    def export(self, folder: str = "") -> None:
        """Write a folder for a cluster; a new one, or one that is empty."""
        folder = folder or adapter.chooseFolder(_("New or empty folder for the cluster"))
        if folder:
            python = self.logic.environment.python
            task = self.logic.jobs.exportForCluster(self.selected, folder, python=python)
            self._tasks.append(
                (task, _("Written: {folder}. Its README.txt says how to go on.").format(folder=folder))
            )
            self._timer.start()

    # Inside

    def _guarded(self, work: Any) -> None:
        """Do what a button is for; what goes wrong is shown, and the table is read again."""
        try:
            work()
        except Exception as error:  # a button has nobody to raise to
            self.host.showError(error, self._logFile())
        self._timer.start()
        self.poll()

    def _logFile(self) -> Path | None:
        file = None if self.selected is None else self.selected / "log.txt"
        return file if file is not None and os.path.isfile(file) else None

    def _onSelection(self) -> None:
        self._remember()
        self._plot.update()
        self._show()

    def _remember(self) -> None:
        if self.parameters is not None and self.selected is not None:
            self._updating = True
            self.parameters.selectedRun = str(self.selected)
            self._updating = False

    def _tellEnds(self, rows: list[JobRow]) -> None:
        """Say what has become of jobs that were under way at the last look."""
        for row in rows:
            before = self._rows.get(row.path)
            if before is None or not before.active or row.active:
                continue
            error = self.logic.jobs.errorOf(row)
            if row.state == GONE:
                self.host.say(f"{row.name}: {row.message}")
            elif error is not None:
                log = row.path / "log.txt"
                self.host.showError(error, log if os.path.isfile(log) else None)
            else:
                self.host.say(_("{name} is {state}").format(name=row.name, state=stateWord(row.state)))

    def _pollTasks(self) -> None:
        for task, words in list(self._tasks):
            if task.poll().running:
                continue
            self._tasks.remove((task, words))
            if error := task.error():
                self.host.showError(error, task.log)
            else:
                self.host.say(words)

    def _show(self) -> None:
        """State, progress, error and buttons of the chosen run."""
        ui, row = self.ui, self._rows.get(self.selected)
        ui.stateLabel.setText(_("Choose a run in the table.") if row is None else describe(row))
        ui.runProgressBar.setVisible(row is not None and row.total > 0)
        if row is not None and row.total > 0:
            # In parts of a whole: a damaged status may hold numbers that no control takes.
            ui.runProgressBar.setMaximum(_PARTS)
            ui.runProgressBar.setValue(_PARTS * max(0, min(row.step, row.total)) // row.total)
        error = self.logic.jobs.errorOf(row) if row is not None else None
        cut = row is not None and self.logic.jobs.isCut(row.path)
        told = f"{CUT}\n" + _("press Resume to make up for it") if cut else ""
        told = told if error is None else f"{error.message}\n{error.hint}".strip()
        ui.runErrorLabel.setText(told)
        ui.runErrorLabel.setVisible(bool(told))
        for name, reason in self._reasons(row, cut).items():
            button = getattr(ui, name)
            button.setEnabled(not reason)
            tip = button.property("VoCoToolTip") or adapter.read(button, "toolTip")
            button.setProperty("VoCoToolTip", tip)
            button.setToolTip(reason or tip)

    def _reasons(self, row: JobRow | None, cut: bool) -> dict[str, str]:
        """Why each button cannot be pressed; "" where it can. ``cut``: see `JobTable.isCut`."""
        names = ("stop", "kill", "resume", "use", "plot", "log", "report", "export", "forget")
        if row is None:
            return {f"{name}Button": _("Choose a run in the table first") for name in names}
        idle = "" if row.atWork else _("No job is working on this run")
        ended = _("It is writing its last files") if row.locked else _("There is nothing to go on with")
        there = "" if row.state not in (GONE, STARTING) else _("There is no such run, or not yet")
        return {
            "stopButton": _("It has been asked to stop") if row.state == "stopping" else idle,
            "killButton": idle if row.local else _("It runs on another machine"),
            "resumeButton": "" if row.resumable or cut else _("It is under way") if row.active else ended,
            "useButton": ""
            if row.result and self.parameters is not None
            else _("It has left no weights yet"),
            "plotButton": "" if self._plot.on else there,
            "logButton": "" if row.hasLog else _("It has written no log"),
            "reportButton": "" if row.hasReport else _("The report is written when the job ends"),
            "exportButton": there,
            "forgetButton": _("Stop it first") if row.active and row.local else "",
        }


def describe(row: JobRow) -> str:
    """How a run stands, in a line or two."""
    facts = [stateWord(row.state), _("step {step} of {total}").format(step=row.step, total=row.total)]
    facts += [_("{rate} steps a second").format(rate=number(row.rate, 3))] if row.rate is not None else []
    facts += [_("{time} left").format(time=duration(row.etaSeconds))] if row.etaSeconds is not None else []
    facts += [_("device: {device}").format(device=row.device)] if row.device else []
    told = row.message if row.state not in _BAD else ""
    return f"{row.name}: " + ", ".join(facts) + (f"\n{told}" if told else "")
