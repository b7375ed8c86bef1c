"""A whole session in steps, by hand at the module's controls: the same in the host and in a real Slicer.

Each step gets the `Stage`: the module's window and what earlier steps have left. A step fails by an assertion.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import slicer
from hand import Hand
from stage import Stage

from VoCoCore.runs.directory import RunDirectory

SECTIONS = ("environment", "volumes", "cropPreview", "pretraining", "finetuning", "prediction", "jobs")
PATIENCE = float(os.environ.get("VOCO_TEST_PATIENCE", "600"))  # seconds that a job may take


def openEverySection(stage: Stage) -> None:
    """The module opens, every section too, and nothing heavy comes into Slicer's process."""
    before = set(sys.modules)
    stage.open()
    for name in SECTIONS:
        hand = stage.hand(name)
        assert hand.root.isVisible(), name
    heavy = {"torch", "monai", "nibabel"} & set(sys.modules) - before
    assert not heavy, f"{heavy} came into Slicer's process"
    for name in SECTIONS:
        Hand(stage.widget.parent, stage).fold(f"{name}Section")


def jobsAreNone(stage: Stage) -> None:
    """No run is known yet."""
    hand = stage.hand("jobs")
    panel = stage.widget.panel("jobs")
    assert hand.rows("runsTable") == [] and panel.selected is None
    assert not hand.find("stopButton").isEnabled()


def chooseSample(stage: Stage) -> None:
    """The sample cases are loaded and checked in the table, each with its segmentation."""
    from VoCoSlicerLib.samples import loadSample

    cases = loadSample(slicer.mrmlScene, "VoCoTorsos")
    stage.kept["volumes"] = [volume.GetID() for volume, _ in cases]
    hand = stage.hand("volumes")
    hand.until(lambda: len(hand.rows("volumesTable")) == len(cases), what="all volumes in the table")
    hand.click("noneButton")
    for row in range(len(cases)):
        hand.checkRow("volumesTable", row)
    assert hand.rows("volumesTable")[0][0] == cases[0][0].GetName()
    assert f"{len(cases)} of {len(cases)}" in hand.find("countLabel").text
    stage.picture("volumes")


def previewCrops(stage: Stage) -> None:
    """The preview shows the grid; dragging the crop changes its labels, which stay parts of one crop."""
    hand = stage.hand("cropPreview")
    panel = stage.widget.panel("cropPreview")
    node = slicer.mrmlScene.GetNodeByID(stage.kept["volumes"][0])
    hand.choose("setting.preset", "tiny")
    hand.pick("volumeSelector", node)
    hand.check("onCheckBox")
    preview = panel.logic.preview
    hand.until(lambda: preview.ready and preview.labels.sum() > 0, what="the preview")
    drawn = preview.labels.copy()
    assert abs(drawn.sum() - 1) < 1e-6 and len(hand.rows("labelsTable")) == int((drawn > 0).sum())
    place = [0.0, 0.0, 0.0]
    preview.roiNode.GetCenterWorld(place)
    for step in range(1, 6):
        preview.roiNode.SetCenterWorld(place[0] + 12.0 * step, place[1] + 8.0 * step, place[2])
        hand.settle()
    assert not (preview.labels == drawn).all(), "the labels do not follow the crop"
    assert "moved" in hand.find("cropLabel").text
    stage.picture("crop-preview")
    hand.click("nextButton")
    hand.until(lambda: "moved" not in hand.find("cropLabel").text, what="the next crop")
    hand.check("onCheckBox", False)
    gone = "vtkMRMLMarkupsROINode"
    hand.until(lambda: slicer.mrmlScene.GetFirstNodeByClass(gone) is None, what="the end of the preview")
    hand.check("onCheckBox")


def trainerIsThere(stage: Stage) -> None:
    """The Python of the jobs is found and has what it needs."""
    hand = stage.hand("environment")
    hand.until(
        lambda: hand.find("checkPythonButton").isEnabled(), PATIENCE, "the first look at the jobs' Python"
    )
    hand.click("checkPythonButton")
    hand.until(lambda: hand.find("checkPythonButton").isEnabled(), PATIENCE, "the second")
    assert "torch" in hand.find("factsLabel").text.lower(), hand.find("warningsLabel").text
    stage.picture("environment")


def startPretraining(stage: Stage) -> None:
    """Twenty steps in a background process, started by hand and watched in the table and the plot."""
    hand = stage.hand("pretraining")
    run = stage.folder / "runs" / "pre-train Ü"
    for name, text in (("preset", "tiny"), ("model.encoder", "unet"), ("run.device", "cpu")):
        hand.choose(f"setting.{name}", text)
    hand.type("setting.optim.steps", "20")
    hand.type("setting.optim.batch", "1")
    hand.type("setting.crops.counts", "2, 2, 1")
    hand.type("runEdit", str(run))
    hand.open("advancedButton")
    stage.kept["run"] = run
    hand.fold("advancedButton")
    assert not hand.find("problemLabel").isVisible(), hand.find("problemLabel").text
    stage.picture("pretraining")
    hand.click("startButton")
    watching = stage.hand("jobs")
    jobs = stage.widget.panel("jobs")
    watching.until(lambda: jobs.selected == run, PATIENCE, "the run in the table")
    watching.until(lambda: step(stage, run) >= 1, PATIENCE, "the first step")


def stopIt(stage: Stage) -> None:
    """Plot, then stop with a checkpoint."""
    hand = stage.hand("jobs")
    hand.check("plotButton")
    chart = hand.until(lambda: slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLPlotChartNode"), what="a chart")
    hand.until(lambda: chart.GetNumberOfPlotSeriesNodes() > 0, what="a curve")
    stage.picture("jobs")
    if hand.find("stopButton").isEnabled():
        hand.click("stopButton")
    ended = ("stopped", "finished")
    hand.until(lambda: state(stage, stage.kept["run"]) in ended, PATIENCE, "the end of the job")
    # it still writes its report then, and nobody else may work on the run
    hand.until(lambda: not RunDirectory(stage.kept["run"]).is_locked(), PATIENCE, "the end of its process")


def comeBackAndResume(stage: Stage) -> None:
    """Slicer is opened anew: the run is in the table and goes on where it was."""
    run, before = stage.kept["run"], step(stage, stage.kept["run"])
    slicer.mrmlScene.Clear(0)
    stage.reopen()
    hand = stage.hand("jobs")
    jobs = stage.widget.panel("jobs")
    hand.until(
        lambda: [line for line in hand.rows("runsTable") if line[0] == run.name], what="the run, found again"
    )
    names = [line[0] for line in hand.rows("runsTable")]
    hand.selectRow("runsTable", names.index(run.name))
    assert jobs.selected == run
    if state(stage, run) == "stopped":
        hand.click("resumeButton")
        hand.until(lambda: state(stage, run) != "stopped", PATIENCE, "the job that goes on")
    finished(stage, hand, run)
    assert step(stage, run) == 20 >= before
    assert (run / "weights" / "encoder.safetensors").is_file()


def fineTune(stage: Stage) -> None:
    """From the encoder of that run to a model of the drawn organs."""
    chooseSample(stage)
    hand = stage.hand("jobs")
    names = [line[0] for line in hand.rows("runsTable")]
    hand.selectRow("runsTable", names.index(stage.kept["run"].name))
    useResult(hand)
    hand = stage.hand("finetuning")
    run = stage.folder / "runs" / "fine-tune"
    hand.choose("setting.run.device", "cpu")
    hand.type("setting.optim.steps", "4")
    hand.type("runEdit", str(run))
    assert not hand.find("problemLabel").isVisible(), hand.find("problemLabel").text
    stage.picture("finetuning")
    hand.click("startButton")
    hand = stage.hand("jobs")
    jobs = stage.widget.panel("jobs")
    hand.until(lambda: jobs.selected == run, PATIENCE, "the run in the table")
    finished(stage, hand, run)
    stage.kept["model"] = run


def predictIt(stage: Stage) -> None:
    """The model is applied to one volume: a segmentation beside it, with names, colours and where it comes from."""
    useResult(stage.hand("jobs"))
    hand = stage.hand("prediction")
    node = slicer.mrmlScene.GetNodeByID(stage.kept["volumes"][1])
    before = {one.GetID() for one in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")}
    hand.pick("volumeSelector", node)
    hand.choose("deviceCombo", "cpu")
    hand.type("outputEdit", str(stage.folder / "predictions"))
    assert not hand.find("problemLabel").isVisible(), hand.find("problemLabel").text
    hand.click("predictButton")
    hand.until(lambda: not hand.find("cancelButton").isVisible(), PATIENCE, "the prediction")
    new = [
        one for one in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if one.GetAttribute("VoCo.run")
    ]
    assert len(new) == 1 and new[0].GetID() not in before
    segments = new[0].GetSegmentation()
    assert segments.GetNumberOfSegments() > 0 and segments.GetNthSegment(0).GetName()
    items = slicer.mrmlScene.GetSubjectHierarchyNode()
    parents = [items.GetItemParent(items.GetItemByDataNode(one)) for one in (node, new[0])]
    assert parents[0] == parents[1], "the result is not beside its volume"
    stage.picture("prediction")


def saveAndLoad(stage: Stage) -> None:
    """The scene is saved, closed and loaded: choices are back, and the preview was not saved."""
    path = stage.folder / "scene.mrb"
    parameters = stage.widget.logic.getParameterNode()
    model = parameters.model
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear(0)
    stage.host.app.processEvents()
    assert stage.widget.logic.getParameterNode().model == ""
    slicer.util.loadScene(str(path))
    stage.host.app.processEvents()
    assert stage.widget.logic.getParameterNode().model == model == str(stage.kept["model"])
    rois = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
    assert not [one for one in rois if one.GetStorageNode()], "the preview was saved"
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def useResult(hand: Hand) -> None:
    """Go on with the result of the chosen run; the button comes on at the next look, once a second."""
    hand.until(lambda: hand.find("useButton").isEnabled(), what="the button for the result")
    hand.click("useButton")


def finished(stage: Stage, hand: Hand, run: Path) -> None:
    """Wait for a job's end, which has to be a good one."""
    ends = ("finished", "failed", "lost", "stopped")
    hand.until(lambda: state(stage, run) in ends, PATIENCE, f"the end of {run.name}")
    assert state(stage, run) == "finished", stage.widget.logic.jobs.log(run)


def state(stage: Stage, run: Path) -> str:
    """The state of a run, as the table says it."""
    return stage.widget.logic.jobs.row(run).state


def step(stage: Stage, run: Path) -> int:
    """How far a run has come."""
    return stage.widget.logic.jobs.row(run).step


STEPS = (
    openEverySection,
    jobsAreNone,
    trainerIsThere,
    chooseSample,
    previewCrops,
    startPretraining,
    stopIt,
    comeBackAndResume,
    fineTune,
    predictIt,
    saveAndLoad,
)
NEED_JOBS = (trainerIsThere, startPretraining, stopIt, comeBackAndResume, fineTune, predictIt, saveAndLoad)
