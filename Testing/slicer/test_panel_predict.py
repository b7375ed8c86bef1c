"""The section "Prediction", driven by hand: the model's card, what stands in the way, progress, results, failures."""

from __future__ import annotations

import inspect
import json
import os
import struct
import sys
from types import SimpleNamespace

import made_scene as made
import numpy as np
import pytest
import slicer
from hand import Hand
from preview_scene import addView, composites

from VoCoCore.errors import DataError, StopRequested
from VoCoSlicerLib.choices import CaseChoice, writeCases
from VoCoSlicerLib.logic_predict import PredictJob
from VoCoSlicerLib.logic_steps import Progress


def modelFile(path, **changed):
    """A safetensors file with a card and without tensors."""
    classes = [{"name": "background", "values": [0]}, {"name": "liver", "values": [1]}]
    facts = {"train_cases": "12", "val_cases": "3", "start": "scratch", "validation_score": "0.8712"}
    facts |= {"run": "organs", "step": "140", "data": "6c1f"}
    card = {"task": "segmentation", "encoder": "unet", "classes": classes, "facts": facts}
    head = json.dumps({"__metadata__": {"card": json.dumps({**card, **changed})}}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head)
    return path


@pytest.fixture
def volume(host):
    return made.volume(host.scene, made.noise((16, 16, 16)), "chest")


@pytest.fixture
def hand(voco, host, volume):
    voco.openSection("prediction")
    made_hand = Hand(voco.panel("prediction").widget, host)
    made_hand.panel = voco.panel("prediction")
    made_hand.settle()
    return made_hand


def choose(hand, host, path):
    host.answers.give(str(path))
    hand.click("modelButton")


def played(voco, monkeypatch, *states, failed=None):
    """Let the next prediction be played; returns what its job was made with, and the job."""
    asked, left = [], list(states)
    job = SimpleNamespace(
        groups=[],
        failed=failed or {},
        output="/made/out",
        log="what it printed",
        cancelled=False,
        warnings=[],
        tables=[],
        segmentations=[],
    )
    job.poll = lambda: left.pop(0) if len(left) > 1 else left[0]

    def cancel():
        job.cancelled = True
        left[:] = [Progress("ended", finished=True, error=StopRequested("the prediction was cancelled"))]

    def make(logic, model, groups, output, **options):
        assert logic is voco.logic
        inspect.signature(PredictJob).bind(logic, model, groups, output, **options)
        asked.append((model, groups, {"output": output, **options}))
        job.groups = groups
        return job

    job.start, job.cancel, job.leave, job.states = (lambda: job), cancel, cancel, left
    monkeypatch.setattr("VoCoSlicerLib.logic.PredictJob", make)
    return asked, job


def test_the_card_of_a_model_is_shown(hand, host, tmp_path):
    assert "Choose a model" in hand.find("problemLabel").text and not hand.find("predictButton").isEnabled()
    choose(hand, host, modelFile(tmp_path / "best.safetensors"))
    lines = ["Segmentation of: liver", "Training cases: 12, from scratch"]
    lines += [
        "Validation cases: 3; mean Dice 0.8712 (1 would be perfect)",
        "From step 140 of the run organs",
    ]
    assert hand.find("cardLabel").text.splitlines() == lines
    assert "data: 6c1f" in hand.find("cardLabel").toolTip
    assert hand.find("modelCombo").currentText == "best.safetensors"


def test_what_is_no_model_is_said_in_words(hand, host, tmp_path):
    (tmp_path / "strange.safetensors").write_bytes(b"\xff" * 30)
    choose(hand, host, tmp_path / "strange.safetensors")
    assert "no file of weights" in hand.find("problemLabel").text and hand.find("cardLabel").text == ""
    assert not hand.find("predictButton").isEnabled()
    modelFile(tmp_path / "strange.safetensors")  # it was being copied
    hand.panel.enter()
    assert "liver" in hand.find("cardLabel").text


def test_a_scene_whose_model_cannot_be_reached_says_so_and_opens(hand, host, voco):
    voco.openSection("jobs")
    hand.panel.parameters.model = f"/{'long' * 80}/run"  # as a server that is gone: the system refuses it
    assert "too long" in hand.find("problemLabel").text and not hand.find("predictButton").isEnabled()
    host.exit("VoCoSlicer")
    host.enter("VoCoSlicer")
    assert voco.panel("jobs").parameters is not None and not voco.ui.errorFrame.isVisible()


def test_a_model_that_is_trained_anew_in_its_place_is_read_anew(hand, host, voco, tmp_path):
    classes = [{"name": "background", "values": [0]}, {"name": "tumor", "values": [1]}]
    choose(hand, host, modelFile(tmp_path / "m.safetensors"))
    modelFile(tmp_path / "m.safetensors", classes=classes)  # just as long
    os.utime(tmp_path / "m.safetensors", (10, 10))
    host.exit("VoCoSlicer")
    host.enter("VoCoSlicer")
    assert "Segmentation of: tumor" in hand.find("cardLabel").text
    (tmp_path / "m.safetensors").unlink()
    hand.panel.enter()
    assert "there is no" in hand.find("problemLabel").text and hand.find("cardLabel").text == ""


def test_known_fine_tuned_runs_are_offered(voco, host, tmp_path):
    kinds = {"pre": "encoder", "fine": "model"}
    rows = [SimpleNamespace(path=tmp_path / name, name=name, result=kind) for name, kind in kinds.items()]
    voco.logic.__dict__["jobs"] = SimpleNamespace(rows=lambda: rows)
    voco.openSection("prediction")
    combo = voco.panel("prediction").ui.modelCombo
    assert [combo.itemText(number) for number in range(combo.count)] == ["choose a model", "fine"]


def test_one_volume_or_all_that_are_checked(hand, voco, host, volume, tmp_path, monkeypatch):
    choose(hand, host, modelFile(tmp_path / "m.safetensors"))
    assert "Choose a volume" in hand.find("problemLabel").text
    hand.pick("volumeSelector", volume)
    assert hand.find("predictButton").isEnabled()
    asked, _ = played(voco, monkeypatch, Progress("ended", finished=True))
    hand.check("largestBox")
    hand.choose("deviceCombo", "cpu")
    hand.type("outputEdit", str(tmp_path / "out"))
    hand.click("predictButton")
    ((model, groups, options),) = asked
    assert model == str(tmp_path / "m.safetensors") and groups == [[volume]]
    assert options == {
        "output": tmp_path / "out",
        "mirror": False,
        "largest": True,
        "probabilities": False,
        "device": "cpu",
        "python": sys.executable,
    }
    other = made.volume(host.scene, made.noise((16, 16, 16)), "other")
    hand.pick("volumeSelector", None)
    writeCases(
        hand.panel.parameters.parameterNode,
        [CaseChoice(volume.GetID(), True), CaseChoice(other.GetID(), True)],
    )
    hand.settle()
    hand.click("predictButton")
    assert asked[1][1] == [[volume], [other]]


def test_a_model_of_several_images_wants_them_grouped(hand, host, voco, tmp_path, monkeypatch):
    choose(hand, host, modelFile(tmp_path / "m.safetensors", channels=["t1", "flair"]))
    nodes = [made.volume(host.scene, made.noise((16, 16, 16)), f"p1_{name}") for name in ("t1", "flair")]
    parameters = hand.panel.parameters
    writeCases(parameters.parameterNode, [CaseChoice(node.GetID(), True) for node in nodes])
    hand.settle()
    assert "takes 2 images of each case (t1, flair)" in hand.find("problemLabel").text
    parameters.groupChannels = True
    hand.settle()
    asked, _ = played(voco, monkeypatch, Progress("ended", finished=True))
    hand.click("predictButton")
    assert [groups for _, groups, _ in asked] == [[nodes]]


def test_a_model_of_several_images_wants_those_that_it_was_trained_on(hand, host, voco, tmp_path):
    choose(hand, host, modelFile(tmp_path / "m.safetensors", channels=["t1", "flair"]))
    nodes = [made.volume(host.scene, made.noise((16, 16, 16)), f"p1_{name}") for name in ("t1", "t2")]
    writeCases(hand.panel.parameters.parameterNode, [CaseChoice(node.GetID(), True) for node in nodes])
    hand.panel.parameters.groupChannels = True
    hand.settle()
    assert "p1_t1: the model takes t1, flair, not t1, t2" in hand.find("problemLabel").text
    with pytest.raises(DataError, match="takes t1, flair, not t2, t1"):
        PredictJob(voco.logic, tmp_path / "m.safetensors", [nodes[::-1]], tmp_path / "out")


def test_a_bare_name_is_a_folder_beside_the_runs(hand, voco, host, volume, tmp_path, monkeypatch):
    voco.logic.store["folder"] = str(tmp_path / "VoCo")
    choose(hand, host, modelFile(tmp_path / "m.safetensors"))
    hand.pick("volumeSelector", volume)
    asked, _ = played(voco, monkeypatch, Progress("ended", finished=True))
    hand.type("outputEdit", "organs")
    hand.click("predictButton")
    assert asked[0][2]["output"] == tmp_path / "VoCo" / "organs"


def test_a_defect_at_the_button_is_shown(hand, voco, host, volume, tmp_path, monkeypatch):
    choose(hand, host, modelFile(tmp_path / "m.safetensors"))
    hand.pick("volumeSelector", volume)
    asked, _ = played(voco, monkeypatch, Progress("ended", finished=True))
    hand.type("outputEdit", "~nobody-is-called-so/out")
    hand.click("predictButton")
    assert asked[0][2]["output"].parent.name.endswith("nobody-is-called-so")
    monkeypatch.setattr("VoCoSlicerLib.logic.PredictJob", lambda *_, **__: {}["gone"])
    hand.click("predictButton")
    assert "KeyError" in voco.ui.errorLabel.text and hand.find("predictButton").isEnabled()


@pytest.mark.parametrize(
    ("section", "control", "name"),
    [("prediction", "outputEdit", "predictions"), ("finetuning", "runEdit", "finetuneRun")],
)
def test_a_text_can_be_mended_in_its_middle_and_undone(voco, host, section, control, name):
    voco.openSection(section)
    panel, hand = voco.panel(section), Hand(voco.panel(section).widget, host)
    hand.settle()
    hand.type(control, "organs")
    hand.insert(control, "xy", 2)
    line = hand.find(control)
    assert (line.text, line.cursorPosition) == ("orxygans", 4)
    assert getattr(panel.parameters, name) == "orxygans"
    line.undo()
    assert (line.text, getattr(panel.parameters, name)) == ("organs", "organs")
    setattr(panel.parameters, name, "elsewhere")
    assert line.text == "elsewhere"
    parameters = panel.parameters
    host.exit("VoCoSlicer")
    parameters.parameterNode.Modified()
    setattr(parameters, name, "later")
    assert line.text == "elsewhere"
    host.enter("VoCoSlicer")
    assert line.text == "later"


def test_progress_results_and_single_failures_are_said(hand, voco, host, volume, tmp_path, monkeypatch):
    choose(hand, host, modelFile(tmp_path / "m.safetensors"))
    hand.pick("volumeSelector", volume)
    failed = {"chest": "it holds no number"}
    _, job = played(voco, monkeypatch, Progress("exporting", 1, 4, "chest"), failed=failed)
    hand.click("predictButton")
    assert hand.find("progressBar").value == 25 and not hand.find("predictButton").isEnabled()
    job.states[:] = [Progress("predicting", 0, 2)]
    hand.until(lambda: hand.find("progressBar").value == 0)
    assert voco.ui.statusLabel.text == "Predicting ..."
    job.states[:] = [Progress("predicting", 1, 2, "about 3 s left")]
    hand.until(lambda: hand.find("progressBar").value == 50)
    assert voco.ui.statusLabel.text == "Predicting: about 3 s left"
    job.states[:] = [Progress("ended", finished=True)]
    hand.until(lambda: voco.ui.errorFrame.isVisible())
    assert voco.ui.errorLabel.text == "1 of 1 volumes could not be predicted: chest: it holds no number"
    assert voco.ui.showLogButton.isVisible() and hand.find("predictButton").isEnabled()


def test_what_was_done_otherwise_is_said_with_the_result(hand, voco, host, volume, tmp_path, monkeypatch):
    choose(hand, host, modelFile(tmp_path / "m.safetensors"))
    hand.pick("volumeSelector", volume)
    _, job = played(voco, monkeypatch, Progress("ended", finished=True))
    job.warnings[:] = [f"number {number} is resampled" for number in range(7)]
    hand.click("predictButton")
    lines = voco.ui.statusLabel.text.split("\n")
    assert "predicted: /made/out" in lines[0] and lines[1] == "number 0 is resampled"
    assert len(lines) == 7 and lines[-1] == "and 2 more"


@pytest.mark.parametrize("before", [False, True])
def test_a_result_comes_into_views_that_show_nothing(hand, voco, host, volume, tmp_path, monkeypatch, before):
    other = made.volume(host.scene, made.noise((16, 16, 16)), "other") if before else None
    seen = composites(host.scene)
    addView(host.scene, "Compare1").SetBackgroundVolumeID(volume.GetID())  # of a layout that is not shown
    for view in seen:
        view.SetBackgroundVolumeID(other and other.GetID())
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    red.SetFieldOfView(4000, 4000, 1)
    choose(hand, host, modelFile(tmp_path / "m.safetensors"))
    hand.pick("volumeSelector", volume)
    _, job = played(voco, monkeypatch, Progress("ended", finished=True))
    mask = np.ones((16, 16, 16), bool)
    job.segmentations.append(made.segmentation(host.scene, volume, {"liver": mask}, "chest (VoCo)"))
    hand.click("predictButton")
    shown = (other if before else volume).GetID()
    assert [view.GetBackgroundVolumeID() for view in seen] == [shown] * 3
    far = red.GetFieldOfView()[0] > 3000
    assert far == before, "a view that showed nothing is fitted to the volume, another stays"


def test_the_table_of_a_prediction_is_named(hand, voco, host, volume, tmp_path, monkeypatch):
    choose(hand, host, modelFile(tmp_path / "m.safetensors"))
    hand.pick("volumeSelector", volume)
    _, job = played(voco, monkeypatch, Progress("ended", finished=True))
    job.tables[:] = [host.scene.AddNewNodeByClass("vtkMRMLTableNode", "VoCo volumes")]
    hand.click("predictButton")
    assert voco.ui.statusLabel.text.split("\n")[1:] == ["The module Tables shows VoCo volumes."]


def test_an_error_is_gone_when_it_is_tried_again(hand, voco, host, volume, tmp_path, monkeypatch):
    choose(hand, host, modelFile(tmp_path / "m.safetensors"))
    hand.pick("volumeSelector", volume)
    fault = DataError("the disk is full", "free some space")
    played(voco, monkeypatch, Progress("ended", finished=True, error=fault))
    hand.click("predictButton")
    assert voco.ui.errorFrame.isVisible() and voco.ui.statusLabel.text == ""
    played(voco, monkeypatch, Progress("predicting", 0, 1))
    hand.click("predictButton")
    assert not voco.ui.errorFrame.isVisible()
    hand.click("cancelButton")


def test_errors_and_cancelling(hand, voco, host, volume, tmp_path, monkeypatch):
    choose(hand, host, modelFile(tmp_path / "m.safetensors"))
    hand.pick("volumeSelector", volume)
    fault = DataError("the model is damaged", "copy it again")
    played(voco, monkeypatch, Progress("predicting", 0, 1), Progress("ended", finished=True, error=fault))
    hand.click("predictButton")
    hand.until(lambda: voco.ui.errorFrame.isVisible())
    assert voco.ui.hintLabel.text == "copy it again"
    _, job = played(voco, monkeypatch, Progress("predicting", 0, 1))
    hand.click("predictButton")
    hand.click("cancelButton")
    assert job.cancelled and voco.ui.statusLabel.text == "the prediction was cancelled"
    assert sys.modules.get("torch") is None


def test_the_result_of_a_job_is_used(hand, voco, tmp_path):
    voco.panel("prediction").useModel(modelFile(tmp_path / "run.safetensors"))
    hand.settle()
    assert "liver" in hand.find("cardLabel").text
