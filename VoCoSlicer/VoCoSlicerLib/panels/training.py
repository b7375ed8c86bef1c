"""The sections "Pre-training" and "Fine-tuning": one panel, used twice; settings describe themselves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from VoCoCore.errors import SettingsError, VocoError
from VoCoSlicerLib import adapter
from VoCoSlicerLib.choices import changeSetting, readCases, readSettings, writeSettings
from VoCoSlicerLib.forms import SettingsForm
from VoCoSlicerLib.logic_settings import CLASSES, resolve
from VoCoSlicerLib.logic_start import StartJob
from VoCoSlicerLib.logic_steps import EXPORTING
from VoCoSlicerLib.panels.estimating import Estimating
from VoCoSlicerLib.panels.run_folder import RunFolder
from VoCoSlicerLib.panels.start_weights import StartWeights
from VoCoSlicerLib.panels.training_forms import MAIN, advancedGroups, mainLabels
from VoCoSlicerLib.panels.training_plan import TrainingPlan
from VoCoSlicerLib.panels.working import WorkingPanel

_SETTLED = 1500  # milliseconds without a change, after which the estimate is made anew


class TrainingPanel(WorkingPanel):
    """Settings, start weights, folder, estimate and Start of one kind of job."""

    form = "Training.ui"
    kind = ""

    def __init__(self, logic: Any, host: Any) -> None:
        super().__init__(logic, host)
        ui = self.ui
        self._main = SettingsForm(
            ui.mainFrame, CLASSES[self.kind], {"": MAIN[self.kind]}, self._onChange, mainLabels()
        )
        self._main.alignLabels(ui.initLabel, ui.runLabel)
        # Made when it is first opened: there are some eighty controls.
        self._advanced: SettingsForm | None = None
        self._problem = ""
        self._values: dict[str, Any] | None = None  # the settings that were shown last
        self._channels: Any = None  # and the channels of the cases
        self._weights = StartWeights(logic, ui.initCombo, ui.initButton, self._onInit)
        self._estimating = Estimating(logic, self._showNeeds)
        self._runFolder = RunFolder(self._check)
        self._settle = adapter.makeTimer(_SETTLED, self._onSettled)
        self._settle.setSingleShot(True)
        ui.runEdit.setProperty(adapter.PARAMETER, f"{self.kind}Run")
        self._folderTip = adapter.read(ui.runEdit, "toolTip")
        self._offerFolder()
        adapter.connect(ui.advancedButton, "contentsCollapsed(bool)", self._onAdvanced)
        adapter.connect(ui.runEdit, "editingFinished()", self._runFolder.look)
        adapter.onClicked(ui.runButton, self._chooseRun)
        adapter.onClicked(ui.resetButton, self.reset)
        adapter.onClicked(ui.estimateButton, self.estimate)
        adapter.onClicked(ui.startButton, self.start)
        adapter.onClicked(ui.cancelButton, self.cancel)
        self._showProgress(None)

    def offerRuns(self) -> None:
        """Offer the runs that have weights by now."""
        self._weights.offer()

    def setParameterNode(self, parameters: Any) -> None:
        """Show the choices of another parameter node; what was typed wrong belongs to the one before."""
        for form in self._forms():
            form.forgetErrors()
        super().setParameterNode(parameters)

    def exit(self) -> None:
        """Estimates end; a start goes on."""
        self._settle.stop()
        self._runFolder.forget()
        self._estimating.forget()
        self._showNeeds()

    def cleanup(self) -> None:
        """Stop everything but jobs that run already."""
        self.exit()
        super().cleanup()

    def update(self) -> None:
        """Show the choices of the parameter node."""
        values = readSettings(self.parameters, self.kind)
        if self._values is not None and values != self._values:
            self._settle.start()
        self._values = values
        for form in self._forms():
            form.setValues(values)
        self._weights.show(str(values.get("init", "")))
        self._check()

    # What a user does

    def reset(self) -> None:
        """Take all settings back that were changed by hand."""
        for form in self._forms():
            for row in form.rows.values():
                row.clear()
        self.change(lambda: writeSettings(self.parameters, self.kind, {}))

    def estimate(self, again: bool = True) -> None:
        """Say what the job will need; in the background. Without ``again`` what is known is not asked for anew.

        For a fine-tuning the volumes are written that Start would write.
        """
        if self.parameters is None or self._problems(plan := self._plan()):
            return
        values, folder = readSettings(self.parameters, self.kind), self._folder()
        chosen = {"cases": plan.cases, "folders": plan.indexes}
        question = values, chosen if self.kind == "finetune" else plan.channels
        self._estimating.ask(
            question, lambda: self.logic.estimate(self.kind, folder, values, **chosen), again
        )

    def start(self) -> None:
        """Export what must be, and start the job; returns at once."""
        if self.parameters is None or self._job is not None:
            return
        if not self._named():
            self._offerFolder()  # another Slicer may have taken the one that was proposed
        plan = self._plan()
        self._begin(
            lambda: self.logic.startJob(
                self.kind,
                self._folder(),
                readSettings(self.parameters, self.kind),
                cases=plan.cases,
                folders=plan.indexes,
            )
        )
        self._estimating.forget()

    # Inside

    def _log(self, job: StartJob) -> Path | None:
        log = job.run / "log.txt"
        return log if os.path.isfile(log) else None

    def _tell(self, job: StartJob) -> None:
        if self.parameters is not None:
            setattr(self.parameters, f"{self.kind}Run", "")
            self.host.say(_("The job {name} is running in the background.").format(name=job.run.name))
            self.host.selectRun(job.run)

    def _offerFolder(self) -> None:
        folder = str(self.logic.newFolder(self.kind))
        self.ui.runEdit.setPlaceholderText(folder)
        self.ui.runEdit.setToolTip(f"{self._folderTip}\n{folder}")  # the control cuts off how it ends

    def _forms(self) -> list[SettingsForm]:
        return [form for form in (self._main, self._advanced) if form is not None]

    def state(self) -> Any:
        """Settings and folder of this kind of job, and the cases that are chosen."""
        parameters = self.parameters
        own = readSettings(parameters, self.kind), getattr(parameters, f"{self.kind}Run")
        cases = list(readCases(parameters.parameterNode).values())
        return own, cases, parameters.folders, parameters.groupChannels

    def _onChange(self) -> None:
        if self.parameters is None:
            return
        kept = readSettings(self.parameters, self.kind)
        known = {name for form in self._forms() for name in form.rows}
        values = {name: value for name, value in kept.items() if name not in known}
        for form in self._forms():
            values |= form.values()
        self.change(lambda: writeSettings(self.parameters, self.kind, values))

    def _onInit(self, init: str) -> None:
        if self.parameters is not None:
            changeSetting(self.parameters, self.kind, "init", None if init == "scratch" else init)

    def _onAdvanced(self, collapsed: bool) -> None:
        if collapsed or self._advanced is not None:
            return
        box = self.ui.advancedButton
        self._advanced = SettingsForm(box, CLASSES[self.kind], advancedGroups(self.kind), self._onChange)
        self._advanced.closeBoxes()
        if self.parameters is not None:
            self._advanced.setValues(readSettings(self.parameters, self.kind))
            self._check()

    def _chooseRun(self) -> None:
        path = adapter.chooseFolder(_("New or empty folder for the run"), str(self.logic.folder))
        if path and self.parameters is not None:
            setattr(self.parameters, f"{self.kind}Run", path)
            self._runFolder.look()

    def _onSettled(self) -> None:
        if self.kind == "pretrain" or self._estimating.asked:  # the other writes volumes: by the button alone
            self.estimate(again=False)

    def _folder(self) -> Path:
        return self.place(self._named() or self.ui.runEdit.placeholderText)

    def _named(self) -> str:
        """The folder for the run that the user has named, "" for none."""
        return str(getattr(self.parameters, f"{self.kind}Run")).strip()

    def _folderProblems(self) -> list[VocoError]:
        """What is wrong with the folder for the run; one that was only proposed gives way to another one."""
        if (found := self._runFolder.problems(self._folder())) and not self._named():
            self._offerFolder()
            return self._runFolder.problems(self._folder())
        return found

    def _problems(self, plan: TrainingPlan) -> list[VocoError]:
        """What stands in the way of starting, the first first; settings that hold are shown in grey."""
        found: list[VocoError] = []
        for form in self._forms():
            found += form.errors().values()
        try:
            settings = resolve(self.kind, readSettings(self.parameters, self.kind))
            for form in self._forms():
                form.setDefaults(settings.flat())
                form.showTogether(None)
        except SettingsError as error:
            for form in self._forms():
                form.showTogether(error)
            hint = error.hint if self._shows(error) else _("it came with the scene: press Reset settings")
            found.append(SettingsError(error.message, hint))
        return found or plan.problems() or self._folderProblems()

    def _shows(self, error: SettingsError) -> bool:
        """Whether the controls show all that was changed by hand and that the error names."""
        shown = {name for form in self._forms() for name in form.values()}
        kept = readSettings(self.parameters, self.kind)
        return not any(name in error.message for name in kept if name not in shown)

    def _plan(self) -> TrainingPlan:
        return TrainingPlan(self.logic.scene, self.parameters, self.kind)

    def _check(self) -> None:
        """Show what will be read, and why Start cannot be pressed where it cannot."""
        if self.parameters is None:
            return
        plan = self._plan()
        if self.kind == "pretrain" and self._estimating.asked and plan.channels != self._channels:
            self._settle.start()
        self._channels = plan.channels
        problems = self._problems(plan)
        self._problem = str(problems[0]) if problems else ""
        self.ui.problemLabel.setText(self._problem)
        self.ui.problemLabel.setVisible(bool(self._problem))
        self.ui.startButton.setEnabled(not problems and self._job is None)
        self.ui.startButton.setToolTip(
            self._problem or _("Start the job in the background; it goes on without Slicer")
        )
        self.ui.casesLabel.setText(plan.words())
        self._showNeeds(plan)

    def _showNeeds(self, plan: TrainingPlan | None = None) -> None:
        if self.parameters is None:
            return
        folder, cases = self._runFolder.checked or self._folder(), (plan or self._plan()).count
        words, chosen = self._estimating.words(cases), self._estimating.plan()
        if self.kind == "finetune" and not words:
            words = _("What is left open is chosen by the cases and this machine when the job starts.")
        warnings = self._estimating.warnings(folder, cases)
        self.ui.estimateLabel.setText(words)
        self.ui.estimateLabel.setToolTip(
            _("The job will choose:") + "\n" + chosen
            if chosen
            else _("Memory, disk and time that the job will need: an estimate")
        )
        self.ui.warningLabel.setText("\n".join(warnings))
        self.ui.warningLabel.setVisible(bool(warnings))

    def _showProgress(self, now: Any) -> None:
        bar, busy = self.ui.progressBar, now is not None
        bar.setVisible(busy)
        self.ui.cancelButton.setVisible(busy)
        if not busy:
            return
        self.ui.startButton.setEnabled(False)
        counted = now.stage == EXPORTING and now.total > 0
        bar.setRange(0, 100 if counted else 0)
        if counted:
            bar.setValue(int(100 * now.done / now.total))
        exporting = _("Writing volumes: {text}").format(text=now.text)
        self.host.say(exporting if now.stage == EXPORTING else _("Starting the job ..."))


class PretrainingPanel(TrainingPanel):
    """Pre-training: volumes without labels in, an encoder out."""

    kind = "pretrain"


class FinetuningPanel(TrainingPanel):
    """Fine-tuning: labelled volumes and an encoder in, a model out."""

    kind = "finetune"
