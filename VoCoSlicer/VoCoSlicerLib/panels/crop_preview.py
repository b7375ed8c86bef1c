"""The section "Crop preview": what the trainer would cut from a volume, drawn over it, with a crop to drag."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from VoCoCore.errors import VocoError
from VoCoCore.geometry import spacing_of
from VoCoCore.settings import PretrainSettings
from VoCoSlicerLib import adapter
from VoCoSlicerLib.choices import readCases, readObject, readSettings, writeSettings
from VoCoSlicerLib.forms import SettingsForm
from VoCoSlicerLib.logic_cases import groupsOf
from VoCoSlicerLib.logic_settings import resolve
from VoCoSlicerLib.panels.base import Panel
from VoCoSlicerLib.panels.crop_labels import LabelsTable
from VoCoSlicerLib.panels.crop_run import CropRun
from VoCoSlicerLib.panels.training_forms import mainLabels
from VoCoSlicerLib.titles import titleOf

SETTINGS = ("recipe", "preset", "crops.counts", "crops.base_size", "crops.random_size", "run.seed")
_POLL = 40  # milliseconds; each look also gives the thread a turn
# Choices that the parameter node keeps as one JSON text: parts that are shown, which crop of the sample.
_PARTS = "previewParts"
_DEFAULTS = {
    "cells": True,
    "outlines": True,
    "numbers": True,
    "all": False,
    "crop": 0,
    "heat": "labels",
}


class CropPreviewPanel(Panel):
    """Binds `preview.CropPreview` to controls; everything that it shows is a choice of the scene."""

    form = "CropPreview.ui"

    def __init__(self, logic: Any, host: Any) -> None:
        super().__init__(logic, host)
        ui, self._preview = self.ui, logic.preview
        self._form = SettingsForm(
            ui.settingsFrame, PretrainSettings, {"": SETTINGS}, self._onSettings, mainLabels()
        )
        self._form.alignLabels(ui.volumeLabel)
        self._labels = LabelsTable(ui.labelsTable)
        self._timer = adapter.makeTimer(_POLL, self._poll)
        self._run = CropRun(logic, host, ui, self._onRun)
        self._problem = ""
        self._parts = {
            "cells": ui.cellsCheckBox,
            "outlines": ui.outlinesCheckBox,
            "numbers": ui.numbersCheckBox,
            "all": ui.allCheckBox,
        }
        self._heats = {
            "labels": _("overlap y"),
            "predicted": _("predicted"),
            "similarity": _("similarity"),
        }
        for text in self._heats.values():
            ui.heatComboBox.addItem(text)
        for name, box in self._parts.items():
            box.connect("toggled(bool)", lambda on, name=name: self._writePart(name, bool(on)))
        ui.heatComboBox.connect(
            "currentIndexChanged(int)",
            lambda index: self._writePart("heat", list(self._heats)[max(index, 0)]),
        )
        # Not bound by its name: Slicer would take the range of all whole numbers for a number without one.
        ui.sampleSpinBox.connect("valueChanged(int)", lambda number: self._writeSample(number, 0))
        ui.nextButton.clicked.connect(lambda *_: self.nextCrop())
        self._preview.labelsChanged.connect(self._showLabels)
        self._preview.changed.connect(self._showState)
        self._keepRoom()
        self._showState()

    def offerRuns(self) -> None:
        """Offer the runs that are there by now."""
        self._run.offer()

    def setParameterNode(self, parameters: Any) -> None:
        """Show another scene's choices; with None the preview is taken down."""
        super().setParameterNode(parameters)
        if parameters is None:
            self._timer.stop()
            self._run.cancel()
            self._preview.hide()

    def cleanup(self) -> None:
        """The module goes away."""
        super().cleanup()
        self._preview.labelsChanged.disconnect(self._showLabels)
        self._preview.changed.disconnect(self._showState)

    def nextCrop(self) -> None:
        """Show the next random crop that the trainer would draw."""
        if self.parameters is None:
            return
        self._preview.nextRandomCrop()
        self._writeSample(self._preview.sample, self._preview.crop)

    def state(self) -> Any:
        """What is previewed, and how."""
        one = self.parameters
        how = one.previewOn, one.previewPrepared, one.previewHeat, one.previewOpacity, one.previewSample
        volume = one.previewVolume
        what = volume.GetID() if volume is not None else "", one.previewRun, readSettings(one, "pretrain")
        return what, how, self._readParts(), [node.GetID() for node in self._case(volume)]

    def update(self) -> None:
        """Bring form and preview in step with the parameter node."""
        parameters, parts = self.parameters, self._readParts()
        values = readSettings(parameters, "pretrain")
        run = str(parameters.previewRun)
        self._run.show(run)
        self.ui.settingsFrame.setEnabled(not run)  # a run has settings of its own
        self._form.setValues({} if run else values)
        for name, box in self._parts.items():
            with adapter.blocked(box):
                box.setChecked(bool(parts[name]))
        with adapter.blocked(self.ui.heatComboBox):
            self.ui.heatComboBox.setCurrentIndex(list(self._heats).index(parts["heat"]))
        with adapter.blocked(self.ui.sampleSpinBox):
            self.ui.sampleSpinBox.setValue(int(parameters.previewSample))
        settings = self._resolved(values, run)
        preview = self._preview
        preview.setVolume(parameters.previewVolume, self._case(parameters.previewVolume))
        if settings is not None:
            preview.setSettings(settings)
        sample, crop = int(parameters.previewSample), int(parts["crop"])
        crop = min(crop, preview.settings.crops.random_crops - 1)
        if (sample, crop) != (preview.sample, preview.crop):
            preview.setSample(sample, crop)
        preview.setHeat(parts["heat"])
        preview.present(
            cells=parts["cells"],
            outlines=parts["outlines"],
            numbers=parts["numbers"],
            heat=bool(parameters.previewHeat),
            prepared=bool(parameters.previewPrepared),
            opacity=float(parameters.previewOpacity),
        )
        if parameters.previewOn and settings is not None:
            preview.show()
        else:
            preview.hide(gently=True)
        if preview.busy:
            self._timer.start()
        self._showState()
        self._showLabels()

    def _case(self, volume: Any) -> list[Any]:
        """The channels that ``volume`` is trained with, by the choices of the section Volumes; empty: it is alone."""
        if volume is None or not self.parameters.groupChannels:
            return []
        chosen = [one.volumeId for one in readCases(self.parameters.parameterNode).values() if one.chosen]
        groups = groupsOf(self.logic.scene, chosen, True)
        found = next((group for group in groups if volume.GetID() in group), [])
        return [self.logic.scene.GetNodeByID(nodeId) for nodeId in found]

    def _writeSample(self, sample: int, crop: int) -> None:
        if self.parameters is not None:
            with slicer.util.NodeModify(self.parameters.parameterNode):
                self.parameters.previewSample = int(sample)
                self._writePart("crop", int(crop))

    def _onRun(self, run: str) -> None:
        if self.parameters is not None:
            self.parameters.previewRun = run

    def _onSettings(self) -> None:
        if self.parameters is None:
            return
        kept = readSettings(self.parameters, "pretrain")
        others = {name: value for name, value in kept.items() if name not in self._form.rows}
        values = {**others, **self._form.values()}
        self.change(lambda: writeSettings(self.parameters, "pretrain", values))

    def _resolved(self, values: dict[str, Any], run: str) -> PretrainSettings | None:
        """The settings of ``run``, else those of the form; None with `_problem` saying what is wrong."""
        wrong = None if run else next(iter(self._form.errors().values()), None)
        settings = None
        try:
            settings = self._run.settings(run) or resolve("pretrain", values)
            self._form.setDefaults(settings.flat())
            self._form.showTogether(None)
        except VocoError as error:
            self._form.showTogether(error)
            wrong = error
        self._problem = str(wrong) if wrong is not None else ""
        return settings if wrong is None else None

    def _poll(self) -> None:
        if not self._preview.poll():
            self._timer.stop()
        self._showState()

    def _readParts(self) -> dict[str, Any]:
        kept = readObject(self.parameters.parameterNode.GetParameter(_PARTS))
        fits = {name: kept[name] for name, usual in _DEFAULTS.items() if type(kept.get(name)) is type(usual)}
        parts = {**_DEFAULTS, **fits}
        return parts if parts["heat"] in self._heats else {**parts, "heat": "labels"}

    def _writePart(self, name: str, value: Any) -> None:
        if self.parameters is not None and (parts := self._readParts())[name] != value:
            self.parameters.parameterNode.SetParameter(_PARTS, json.dumps({**parts, name: value}))

    # What is shown

    def _keepRoom(self) -> None:
        """Keep room for the longest text beside the sample: the panel must not grow while a crop is dragged."""
        label = self.ui.cropLabel
        label.setText(_("crop {n} of {all}").format(n=10, all=10) + _(", moved"))
        label.setMinimumWidth(adapter.read(label, "sizeHint").width())
        label.setText("")

    def _showState(self) -> None:
        preview, on = self._preview, self.parameters is not None and bool(self.parameters.previewOn)
        if on and not preview.shown and not self._updating and not self._problem:
            self.parameters.previewOn = False  # the volume is gone, or somebody deleted a part of the preview
            on = False
        words = self._problem or (str(preview.error) if preview.error else "")
        if on and not words and preview.volume is None:
            words = _("Choose a volume.")
        self.ui.problemLabel.setText(words)
        self.ui.problemLabel.setVisible(bool(words))
        self.ui.nextButton.setEnabled(preview.ready)
        self._run.showState(str(self.parameters.previewRun) if self.parameters is not None else "")
        self.ui.notesLabel.setText(self._notes(on))
        if preview.busy and not self._timer.isActive():
            self._timer.start()

    def _notes(self, on: bool) -> str:
        preview = self._preview
        if on and preview.busy:
            return _("Looking at the volume...")
        plan, world = preview.plan, preview.world
        if plan is None or world is None:
            return ""
        size = _("Prepared: {voxels} voxels of {spacing} mm. Random crop: {crop} voxels, {mm} mm.").format(
            voxels=_product(plan.shape),
            spacing=_product(f"{edge:.3g}" for edge in spacing_of(plan.affine)),
            crop=_product(world.cropSize),
            mm=_product(f"{edge:.0f}" for edge in world.cropMm),
        )
        names = [titleOf(node) for node in preview.channels]
        together = [_("Cut together: {names}").format(names=", ".join(names))] if len(names) > 1 else []
        return "\n".join([size, *together, *plan.notes, *plan.warnings])

    def _showLabels(self) -> None:
        preview, world = self._preview, self._preview.world
        counts = world.grid.counts if world is not None else (1, 1, 1)
        labels = preview.labels if world is not None else np.zeros(0)
        self._labels.show(labels, counts, preview.scores, bool(self.ui.allCheckBox.isChecked()))
        self.ui.sumLabel.setText(
            _("sum of y: {sum}").format(sum=f"{labels.sum():.3f}") if len(labels) else ""
        )
        text = ""
        if world is not None and preview.box is not None:
            text = _("crop {n} of {all}").format(n=preview.crop + 1, all=len(world.drawn))
            if preview.box != world.drawn[preview.crop]:
                text += _(", moved")
        self.ui.cropLabel.setText(text)


def _product(edges: Any) -> str:
    return " x ".join(str(edge) for edge in edges)
