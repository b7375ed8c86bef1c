"""The section "Prediction": a fine-tuned model applied to volumes of the scene, results beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from VoCoCore.errors import DataError, VocoError
from VoCoSlicerLib import adapter
from VoCoSlicerLib.choices import readCases
from VoCoSlicerLib.logic_cases import groupsOf
from VoCoSlicerLib.logic_predict import ADDING, PREDICTING, PredictJob, otherImages
from VoCoSlicerLib.model_info import ModelInfo, readModel
from VoCoSlicerLib.panels.choice_box import ChoiceBox
from VoCoSlicerLib.panels.overlay_box import OverlayBox
from VoCoSlicerLib.panels.working import WorkingPanel
from VoCoSlicerLib.threads import asVocoError
from VoCoSlicerLib.titles import titleOf

DEVICES = ("auto", "cpu", "cuda", "mps")


class PredictionPanel(WorkingPanel):
    """Model, volumes, options, Predict; the model's card says what it was made for."""

    form = "Predict.ui"

    def __init__(self, logic: Any, host: Any) -> None:
        super().__init__(logic, host)
        ui = self.ui
        self._model: ModelInfo | None = None
        self._read: Any = None  # path, times and sizes of what `_model` was read from
        self._overlay = OverlayBox(ui.overlayCombo, logic)
        self._models = ChoiceBox(ui.modelCombo, "", _("choose a model"), self._onModel)
        for device in DEVICES:
            ui.deviceCombo.addItem(device)
        adapter.connect(ui.deviceCombo, "currentIndexChanged(int)", self._onDevice)
        adapter.onNodeChanged(ui.volumeSelector, lambda node: self._check())
        adapter.onClicked(ui.modelButton, self._chooseModel)
        adapter.onClicked(ui.outputButton, self._chooseOutput)
        adapter.onClicked(ui.predictButton, self.predict)
        adapter.onClicked(ui.cancelButton, self.cancel)
        ui.outputEdit.setPlaceholderText(str(logic.newFolder("predict")))
        self._showProgress(None)

    def enter(self) -> None:
        """Offer the models that are there, and look whether all is well."""
        super().enter()
        self._check()

    def offerRuns(self) -> None:
        """Offer the fine-tuned runs that are there by now."""
        for row in self.logic.jobs.rows():
            if row.result == "model":
                self._models.offer(str(row.path), row.name)

    def state(self) -> Any:
        """The model, where it runs, and the cases that are chosen."""
        one = self.parameters
        return one.model, one.device, one.groupChannels, list(readCases(one.parameterNode).values())

    def update(self) -> None:
        """Show the choices of the parameter node."""
        ui, parameters = self.ui, self.parameters
        self._models.show(parameters.model, Path(parameters.model).name)
        with adapter.blocked(ui.deviceCombo):
            ui.deviceCombo.setCurrentIndex(
                DEVICES.index(parameters.device) if parameters.device in DEVICES else 0
            )
        self._check()

    def useModel(self, path: str | Path) -> None:
        """Choose a fine-tuned run or file; what "use result" of a job does."""
        if self.parameters is not None:
            self.parameters.model = str(path)

    def cleanup(self) -> None:
        """The module goes away."""
        self._overlay.cleanup()
        super().cleanup()

    def predict(self) -> None:
        """Export what must be and predict it in the background; returns at once."""
        if self.parameters is None or self._job is not None:
            return
        parameters = self.parameters
        self._begin(
            lambda: self.logic.predict(
                parameters.model,
                self._groups(),
                output=self.place(parameters.predictions.strip() or self.ui.outputEdit.placeholderText),
                mirror=bool(parameters.mirror),
                largest=bool(parameters.largest),
                probabilities=bool(parameters.probabilities),
                device=parameters.device,
                wait=False,
            )
        )

    # Inside

    def _log(self, job: PredictJob) -> str | None:
        return job.log or None

    def _offerFolder(self) -> None:
        self.ui.outputEdit.setPlaceholderText(str(self.logic.newFolder("predict")))

    def _tell(self, job: PredictJob) -> None:
        done = len(job.groups) - len(job.failed)
        text = _("1 volume is predicted: {folder}") if done == 1 else _("{n} volumes are predicted: {folder}")
        self.host.say(text.format(n=done, folder=job.output))
        shown = _("The module Tables shows {name}.")  # no view does, and nobody would look for it
        self.host.note([shown.format(name=titleOf(table)) for table in job.tables])
        self._lookAt(job.segmentations)
        if job.failed:
            named = "; ".join(f"{name}: {why}" for name, why in job.failed.items())
            text = _("{n} of {total} volumes could not be predicted: {named}")
            error = DataError(text.format(n=len(job.failed), total=len(job.groups), named=named))
            self.host.showError(error, job.log or None)

    def _lookAt(self, segmentations: list[Any]) -> None:
        """Bring the first result with its volume into the views, where these show no volume at all."""
        layouts = slicer.app.layoutManager()
        if layouts is None or not segmentations:
            return
        logics = [layouts.sliceWidget(name).sliceLogic() for name in layouts.sliceViewNames()]
        views = [logic.GetSliceCompositeNode() for logic in logics]
        if any(view.GetBackgroundVolumeID() or view.GetForegroundVolumeID() for view in views):
            return
        role = segmentations[0].GetReferenceImageGeometryReferenceRole()
        for view in views:
            view.SetBackgroundVolumeID(segmentations[0].GetNodeReferenceID(role))
        layouts.resetSliceViews()
        layouts.resetThreeDViews()

    def _onModel(self, path: str) -> None:
        if self.parameters is not None:
            self.parameters.model = path

    def _onDevice(self, index: int) -> None:
        if self.parameters is not None:
            self.parameters.device = DEVICES[max(0, index)]

    def _chooseModel(self) -> None:
        path = adapter.chooseFile(
            _("File of a fine-tuned model"), str(self.logic.folder), "*.safetensors (*.safetensors)"
        )
        if path:
            self.useModel(path)

    def _chooseOutput(self) -> None:
        path = adapter.chooseFolder(_("New or empty folder for predictions"), str(self.logic.folder))
        if path and self.parameters is not None:
            self.parameters.predictions = path

    def _groups(self) -> list[list[Any]]:
        """The nodes of each case: the one volume chosen here, or what is checked in the section Volumes."""
        node = self.ui.volumeSelector.currentNode()
        if node is not None:
            return [[node]]
        choices = readCases(self.parameters.parameterNode).values()
        ids = [choice.volumeId for choice in choices if choice.chosen]
        groups = groupsOf(self.logic.scene, ids, bool(self.parameters.groupChannels))
        return [[self.logic.scene.GetNodeByID(one) for one in group] for group in groups]

    def _check(self) -> None:
        """Show the model's card, and why Predict cannot be pressed where it cannot."""
        if self.parameters is None:
            return
        problem = self._problem()
        self.ui.cardLabel.setText("" if self._model is None else cardWords(self._model))
        self.ui.cardLabel.setToolTip("" if self._model is None else adapter.plainTip(cardFacts(self._model)))
        self.ui.problemLabel.setText(problem)
        self.ui.problemLabel.setVisible(bool(problem))
        self.ui.predictButton.setEnabled(not problem and self._job is None)
        self._overlay.show()

    def _problem(self) -> str:
        path = self.parameters.model
        if not path:
            self._model = self._read = None
            return _("Choose a model: a fine-tuned run or a file.")
        try:
            model = self._info(path)
            groups = self._groups()
        except (VocoError, OSError) as error:  # a scene may name a place that cannot be read here
            return str(asVocoError(error, _("the model")))
        if not groups:
            return _("Choose a volume, or check some in the section Volumes.")
        wanted = len(model.channels)
        if any(len(group) != wanted for group in groups):
            text = _("The model takes {n} images of each case ({names}): check them all, and Group channels.")
            return text.format(n=wanted, names=", ".join(model.channels))
        return next(filter(None, (otherImages(model, group) for group in groups)), "")

    def _info(self, path: str) -> ModelInfo:
        """The model at ``path``, read again where its files have been written since."""
        if self._model is None or self._read != _marks(path, self._model):
            self._model = None
            self._model = readModel(path)
            self._read = _marks(path, self._model)
        return self._model

    def _showProgress(self, now: Any) -> None:
        busy = now is not None
        self.ui.progressBar.setVisible(busy)
        self.ui.cancelButton.setVisible(busy)
        if not busy:
            return
        self.ui.predictButton.setEnabled(False)
        total = now.total if now.total and not (now.stage == PREDICTING and now.total == 1) else 0
        self.ui.progressBar.setRange(0, 100 if total else 0)
        if total:
            self.ui.progressBar.setValue(int(100 * now.done / total))
        predicting = _("Predicting: {text}") if now.text else _("Predicting ...")  # at first nothing is known
        words = {PREDICTING: predicting, ADDING: _("Adding results to the scene")}
        self.host.say(words.get(now.stage, _("Writing volumes: {text}")).format(text=now.text))


def _marks(path: str, model: ModelInfo) -> Any:
    try:
        told = [one.stat() for one in (model.path, *model.files)]
    except OSError:
        return None
    return path, [(one.st_mtime_ns, one.st_size) for one in told]


def cardWords(model: ModelInfo) -> str:
    """What a model is for, and what it was trained on, in lines that a person reads."""
    kind = _("Segmentation") if model.task == "segmentation" else _("Classification")
    lines = [_("{kind} of: {labels}").format(kind=kind, labels=", ".join(model.labels))]
    if len(model.channels) > 1:
        lines.append(_("Images of a case: {names}").format(names=", ".join(model.channels)))
    if len(model.files) > 1:
        lines.append(_("Average of {n} folds").format(n=len(model.files)))
    return "\n".join([*lines, *_training(model)])


def _training(model: ModelInfo) -> list[str]:
    """What the model was trained on and how well it did, as far as its card says."""
    facts, lines = model.facts, []
    if cases := facts.get("train_cases"):
        start = _("from scratch") if facts.get("start") == "scratch" else _("from pre-trained weights")
        lines.append(_("Training cases: {n}, {start}").format(n=cases, start=start))
    if score := facts.get("validation_score"):
        what = _("mean Dice") if model.task == "segmentation" else _("balanced accuracy")
        text = _("Validation cases: {n}; {what} {score} (1 would be perfect)")
        lines.append(text.format(what=what, score=score, n=facts.get("val_cases", "")))
    if run := facts.get("run"):
        lines.append(_("From step {step} of the run {run}").format(step=facts.get("step", "?"), run=run))
    return lines


def cardFacts(model: ModelInfo) -> str:
    """All that the model's card says of its training, by name, a line each."""
    return "\n".join(f"{name}: {value}" for name, value in model.facts.items())
