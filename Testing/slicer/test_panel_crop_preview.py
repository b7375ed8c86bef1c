"""The section "Crop preview" driven as a hand would: choices, dragging, errors, scenes saved and closed."""

from __future__ import annotations

import json
import shutil
import sys
import time

import numpy as np
import pytest
import slicer
import vtk
from hand import Hand
from preview_scene import addView, chosen, composites, nodeIds, torso

from VoCoCore.data.sampling import draw
from VoCoCore.errors import SettingsError
from VoCoSlicerLib.choices import CaseChoice, changeSetting, readSettings, writeCases
from VoCoSlicerLib.preview_nodes import OWNER


@pytest.fixture
def panel(voco, host):
    for name in ("Red", "Green", "Yellow"):
        if not host.scene.GetNodeByID(f"vtkMRMLSliceCompositeNode{name}"):
            addView(host.scene, name)
    made = voco.panel("cropPreview")
    host.app.processEvents()
    return made


@pytest.fixture
def hand(panel, host):
    return Hand(panel.widget, host)


def preset(parameters, **settings):
    for name, value in {"preset": "tiny", **settings}.items():
        changeSetting(parameters, "pretrain", name, value)


def up(panel, hand, scene, name="torso"):
    """Choose a new volume and switch the preview on."""
    node = torso(scene, "oblique", name)
    preset(panel.parameters)
    hand.pick("volumeSelector", node)
    hand.check("onCheckBox")
    hand.until(lambda: panel.logic.preview.ready)
    return node


def table(hand):
    return [row[:3] for row in hand.rows("labelsTable")]


def test_a_crop_is_shown_dragged_and_drawn_anew(panel, hand, host):
    preview, node = panel.logic.preview, up(panel, hand, host.scene)
    expected = draw(chosen(), 0, preview.plan.shape).labels[0]
    order = np.argsort(-expected, kind="stable")[: np.count_nonzero(expected)]
    assert table(hand) == [[str(n), f"{n // 4}, {n % 4}, 0", f"{expected[n]:.3f}"] for n in order]
    assert hand.find("cropLabel").text == "crop 1 of 2" and "1.000" in hand.find("sumLabel").text
    assert "window -175 to 250 HU" in hand.find("notesLabel").text
    assert "32 x 32 x 32 voxels" in hand.find("notesLabel").text
    preview.roiNode.SetCenterWorld(*preview.world.centres[6])
    assert table(hand) == [["6", "1, 2, 0", "1.000"]]
    assert "moved" in hand.find("cropLabel").text
    hand.check("allCheckBox")
    assert len(table(hand)) == 16 and table(hand)[6] == ["6", "1, 2, 0", "1.000"]
    preview.setPredicted(np.linspace(-1, 1, 16))
    assert hand.rows("labelsTable")[15][3] == "1.000"
    hand.click("nextButton")
    assert hand.find("cropLabel").text == "crop 2 of 2"
    hand.click("nextButton")
    assert (preview.sample, preview.crop, panel.parameters.previewSample) == (1, 0, 1)
    assert hand.find("sampleSpinBox").value == 1
    assert np.allclose(preview.labels, draw(chosen(), 1, preview.plan.shape).labels[0])
    hand.set("sampleSpinBox", 7)
    assert np.allclose(preview.labels, draw(chosen(), 7, preview.plan.shape).labels[0])
    assert composites(host.scene)[0].GetBackgroundVolumeID() == node.GetID()


def test_parts_heat_and_opacity(panel, hand, host):
    up(panel, hand, host.scene)
    nodes, view = panel.logic.preview.nodes, composites(host.scene)[0]
    hand.check("cellsCheckBox", False)
    assert view.GetLabelVolumeID() is None
    hand.check("heatCheckBox")
    assert view.GetForegroundVolumeID() == nodes.cells.heat.GetID()
    hand.set("opacitySlider", 0.25)
    assert view.GetForegroundOpacity() == pytest.approx(0.25)
    hand.choose("heatComboBox", "predicted")
    panel.logic.preview.setPredicted(np.linspace(0, 1, 16))
    assert slicer.util.arrayFromVolume(nodes.cells.heat).max() == pytest.approx(1)
    hand.check("outlinesCheckBox", False)
    hand.check("numbersCheckBox", False)
    assert not nodes.outlines.grid.GetDisplayNode().GetVisibility()
    hand.check("preparedCheckBox")
    hand.until(lambda: nodes.preparedNode is not None and not panel.logic.preview.busy)
    assert view.GetBackgroundVolumeID() == nodes.preparedNode.GetID()
    hand.check("onCheckBox", False)
    assert view.GetForegroundVolumeID() is None and not panel.logic.preview.shown


def test_channels_that_are_grouped_are_cut_together(panel, hand, host):
    one, preview = up(panel, hand, host.scene, "a_t1"), panel.logic.preview
    two = torso(host.scene, "oblique", "a_flair")
    assert preview.channels == [one] and "Cut together" not in hand.find("notesLabel").text
    choices = [CaseChoice(node.GetID(), True) for node in (two, one)]
    writeCases(panel.parameters.parameterNode, choices)
    panel.parameters.groupChannels = True
    hand.until(lambda: preview.ready and len(preview.plan.intensities) == 2, 60)
    assert preview.channels == [one, two]
    assert "Cut together: a_t1, a_flair" in hand.find("notesLabel").text
    panel.parameters.groupChannels = False
    hand.until(lambda: preview.ready and len(preview.plan.intensities) == 1, 60)


def test_settings_are_those_of_the_pre_training(panel, hand, host):
    up(panel, hand, host.scene)
    hand.type("setting.crops.counts", "2,2,2")
    assert readSettings(panel.parameters, "pretrain")["crops.counts"] == [2, 2, 2]
    hand.until(lambda: panel.logic.preview.ready and panel.logic.preview.labels.size == 8)
    hand.type("setting.crops.counts", "2,2,99")
    assert panel.logic.preview.nodes is None or not panel.logic.preview.shown
    assert "16" in hand.find("problemLabel").text
    hand.type("setting.crops.counts", "2,2,1")
    hand.until(lambda: panel.logic.preview.ready and panel.logic.preview.labels.size == 4)
    assert hand.find("problemLabel").text == ""
    hand.type("setting.crops.random_size", "500,1,1")
    assert "crops.volume_size" in hand.find("problemLabel").text
    preset(
        panel.parameters, **{"crops.random_size": None, "crops.counts": (4, 4, 1)}
    )  # from the other section
    hand.until(lambda: panel.logic.preview.ready and panel.logic.preview.labels.size == 16)
    assert hand.find("setting.crops.counts").text == "4,4,1"


def test_a_volume_that_cannot_be_cut(panel, hand, host):
    flat = host.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "flat")
    slicer.util.updateVolumeFromArray(flat, np.full((9, 9, 9), 3, np.int16))
    hand.pick("volumeSelector", None)
    hand.check("onCheckBox")
    assert hand.find("problemLabel").text == "Choose a volume."
    hand.pick("volumeSelector", flat)
    hand.until(lambda: "same value" in hand.find("problemLabel").text)
    assert not hand.find("nextButton").isEnabled()
    hand.pick("volumeSelector", torso(host.scene))
    hand.until(lambda: panel.logic.preview.ready)
    assert hand.find("problemLabel").text == "" and hand.find("nextButton").isEnabled()


def test_coming_going_closing_and_deleting(panel, hand, host, voco):
    before = set(nodeIds(host.scene))
    node = up(panel, hand, host.scene)
    host.exit("VoCoSlicer")
    assert not [n for n in set(nodeIds(host.scene)) - before if "ROI" in n or "Model" in n]
    host.enter("VoCoSlicer")
    hand.until(lambda: panel.logic.preview.ready)
    host.scene.RemoveNode(node)
    hand.settle()
    assert panel.logic.preview.nodes is None
    assert hand.find("problemLabel").text == "Choose a volume."
    up(panel, hand, host.scene, "second")
    host.closeScene()
    hand.settle()
    assert panel.logic.preview.nodes is None and not hand.find("onCheckBox").checked
    up(panel, hand, host.scene, "third")


def test_choices_come_back_with_the_scene_and_nodes_do_not(panel, hand, host, voco, tmp_path):
    node = up(panel, hand, host.scene)
    storage = node.CreateDefaultStorageNode()
    host.scene.AddNode(storage)
    path = tmp_path / "torso.nrrd"
    storage.SetFileName(str(path))
    assert storage.WriteData(node)
    node.SetAndObserveStorageNodeID(storage.GetID())
    hand.check("numbersCheckBox", False)
    hand.set("opacitySlider", 0.7)
    hand.set("sampleSpinBox", 3)
    hand.click("nextButton")
    labels = panel.logic.preview.labels.copy()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrml"))
    text = (tmp_path / "scene.mrml").read_text(encoding="utf-8")
    assert "MarkupsROI" not in text and "VoCo base crop" not in text
    host.closeScene()
    slicer.util.loadScene(str(tmp_path / "scene.mrml"))
    hand.until(lambda: panel.logic.preview.ready, what="the preview comes back")
    assert (panel.logic.preview.sample, panel.logic.preview.crop) == (3, 1)
    assert np.allclose(panel.logic.preview.labels, labels)
    assert not hand.find("numbersCheckBox").checked and hand.find("opacitySlider").value == pytest.approx(0.7)
    assert panel.logic.preview.volume.GetName() == "torso"
    assert hand.find("volumeSelector").currentNode() is panel.logic.preview.volume


def test_the_preview_follows_an_image_that_changes(panel, hand, host):
    node = up(panel, hand, host.scene)
    preview, before = panel.logic.preview, panel.logic.preview.plan
    for _ in range(5):  # the panel's last look at the thread is over
        hand.settle()
        time.sleep(0.02)
    slicer.util.updateVolumeFromArray(node, np.roll(slicer.util.arrayFromVolume(node), 3, axis=2))
    hand.until(lambda: preview.ready and preview.plan is not before, 20, what="the new image's preview")


def test_a_run_brings_its_own_settings(panel, hand, host, tmp_path, monkeypatch):
    from VoCoSlicerLib.tasks import Task

    run = tmp_path / "earlier"
    run.mkdir()
    settings = chosen(**{"crops.counts": (3, 2, 1)})
    (run / "settings.json").write_text(json.dumps(settings.to_dict()))
    (run / "status.json").write_text("{}")
    panel.parameters.previewRun = str(run)
    up(panel, hand, host.scene)
    assert panel.logic.preview.labels.size == 6 and not hand.find("settingsFrame").isEnabled()
    assert hand.find("runComboBox").currentText == "earlier" and hand.find("scoreButton").isEnabled()
    answer = {"step": 40, "predicted": [0.1] * 6, "similarity": [-0.2] * 6}
    said = (f"print({json.dumps(json.dumps(answer))})", "raise SystemExit('voco: error: no checkpoint yet')")
    for code in said:
        task = Task(["-c", code], sys.executable, plain=True)
        monkeypatch.setattr(panel.logic.environment, "script", lambda *_, task=task: task)
        hand.click("scoreButton")
        hand.until(lambda: hand.find("scoreButton").isEnabled(), 60)
    assert hand.rows("labelsTable")[0][3:] == ["0.100", "-0.200"]
    assert "no checkpoint" in panel.host.ui.errorLabel.text
    again = tmp_path / "again"  # with the very same settings
    shutil.copytree(run, again)
    panel.parameters.previewRun = str(again)
    hand.settle()
    assert panel.logic.preview.ready and not panel.logic.preview.scores
    task = Task(["-c", said[0]], sys.executable, plain=True)
    monkeypatch.setattr(panel.logic.environment, "script", lambda *_: task)
    hand.click("scoreButton")
    panel.logic.preview.moveCrop((1.0, 2.0, 0.0))
    hand.until(lambda: hand.find("scoreButton").isEnabled(), 60)
    assert panel.host.ui.statusLabel.text == "The crop or its volume changed meanwhile: ask again"
    assert not panel.logic.preview.scores
    with monkeypatch.context() as patch:
        patch.setattr(panel.logic.preview, "region", lambda: None)  # a thread is at work on it
        hand.click("scoreButton")
        assert hand.find("scoreButton").text == "Asking..."
        hand.check("onCheckBox", False)
        hand.until(lambda: hand.find("scoreButton").text == "Predict this crop")
    hand.check("onCheckBox")
    hand.choose("runComboBox", "none")
    hand.until(lambda: panel.logic.preview.ready and panel.logic.preview.labels.size == 16)
    assert panel.parameters.previewRun == "" and hand.find("settingsFrame").isEnabled()
    panel.parameters.previewRun = str(tmp_path / "gone")
    hand.settle()
    assert "gone" in hand.find("problemLabel").text and not panel.logic.preview.shown


def test_a_run_that_cannot_be_read_is_asked_once_each_time_one_enters(
    panel, hand, host, tmp_path, monkeypatch
):
    looks = []

    def look(run):
        looks.append(run)
        raise SettingsError(f"{run} is gone", "choose another run")

    monkeypatch.setattr("VoCoSlicerLib.panels.crop_run.runSettings", look)
    panel.parameters.previewRun = str(tmp_path / "run")
    for opacity in (0.1, 0.2, 0.3):
        panel.parameters.previewOpacity = opacity
        hand.settle()
    assert len(looks) == 1 and "is gone" in hand.find("problemLabel").text
    host.exit("VoCoSlicer")
    host.enter("VoCoSlicer")
    assert len(looks) == 2 and "is gone" in hand.find("problemLabel").text


def test_the_panel_is_no_wider_for_what_it_says(panel, hand, host):
    from VoCoSlicerLib import adapter

    def least():  # CTK's sections are never narrower than they would like to be
        return adapter.read(panel.host.section("cropPreview"), "sizeHint").width()

    narrow = least()
    up(panel, hand, host.scene)
    panel.logic.preview.moveCrop((3.0, 2.0, 0.0))
    hand.settle()
    assert len(hand.find("notesLabel").text) > 100 and "moved" in hand.find("cropLabel").text
    assert least() == narrow
    hand.type("setting.crops.random_size", "500,1,1")
    assert len(hand.find("problemLabel").text) > 60
    assert least() == narrow
    assert adapter.read(hand.find("problemLabel"), "height") > 20, "it wraps"


def test_the_views_render_once_for_all_that_comes_or_goes(panel, hand, host):
    seen = []

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def look(_scene, event, node):
        if node.GetAttribute(OWNER):
            seen.append((event, host.app.hostPauses > 0))

    tags = [host.scene.AddObserver(e, look) for e in (host.scene.NodeAddedEvent, host.scene.NodeRemovedEvent)]
    node = up(panel, hand, host.scene)
    came = len(seen)
    hand.check("onCheckBox", False)
    hand.until(lambda: len(seen) == 2 * came)  # node by node
    assert came >= 20
    hand.check("onCheckBox")
    host.scene.RemoveNode(node)
    assert all(paused for _, paused in seen) and not host.app.hostPauses
    for tag in tags:
        host.scene.RemoveObserver(tag)
