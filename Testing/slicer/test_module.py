"""The module as Slicer loads it: opening, coming and going, scenes that close and load, reload, two windows, errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import made_scene as made
import numpy as np
import pytest
from hand import Hand

from VoCoCore.errors import DataError, StopRequested

MODULE = Path(__file__).resolve().parents[2] / "VoCoSlicer" / "VoCoSlicer.py"
SECTIONS = ("environment", "volumes", "cropPreview", "pretraining", "finetuning", "prediction", "jobs")


def ball(scene, name="ball", edge=32):
    at = np.stack(np.meshgrid(*[np.linspace(-1, 1, edge)] * 3, indexing="ij"))
    return made.volume(scene, np.where((at**2).sum(0) < 0.7, 40, -1000).astype(np.int16), name)


def observerCount(scene):
    """How many observers all nodes and the scene have, as VTK itself prints them."""
    objects = [scene, *(scene.GetNthNode(number) for number in range(scene.GetNumberOfNodes()))]
    return sum(str(one).count("Observer (") or str(one).count("vtkObserver") for one in objects)


def test_all_sections_open_and_every_control_says_what_it_is(voco, host):
    import qt

    for name in SECTIONS:
        voco.openSection(name)
        host.app.processEvents()
        panel = voco.panel(name)
        assert panel.widget.isVisible(), name
        silent = [
            one.objectName
            for kind in (
                qt.QAbstractButton,
                qt.QComboBox,
                qt.QLineEdit,
                qt.QAbstractSpinBox,
                qt.QAbstractItemView,
            )
            for one in panel.widget.findChildren(kind)
            if one.objectName and not one.objectName.startswith("qt_") and not one.toolTip
        ]
        assert not silent, f"{name}: no tooltip on {silent}"


def test_opening_brings_no_torch():
    """In a process of its own, as a user opens the module first."""
    code = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "import slicer, vtk, numpy; from host import Host; host = Host()\n"
        "widget = host.loadModule(sys.argv[2] + '/VoCoSlicer.py')\n"
        "host.enter('VoCoSlicer'); host.app.processEvents()\n"
        "print('TORCH', 'torch' in sys.modules); host.close()\n"
    )
    words = [sys.executable, "-c", code, str(Path(__file__).parent), str(MODULE.parent)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert "TORCH False" in done.stdout, done.stderr


def test_a_hundred_comings_and_goings_leave_nothing_behind(voco, host):
    for name in SECTIONS:
        voco.openSection(name)
    for _ in range(2):
        host.exit("VoCoSlicer")
        host.enter("VoCoSlicer")
    before, nodes = observerCount(host.scene), host.scene.GetNumberOfNodes()
    assert before > 10
    for _ in range(100):
        host.exit("VoCoSlicer")
        host.enter("VoCoSlicer")
    assert observerCount(host.scene) == before and host.scene.GetNumberOfNodes() == nodes


def test_leaving_lets_go_of_the_parameter_node(voco, host):
    voco.openSection("pretraining")
    assert voco.panel("pretraining").parameters is not None
    host.exit("VoCoSlicer")
    assert all(voco.panel(name).parameters is None for name in ("volumes", "pretraining"))
    host.enter("VoCoSlicer")
    assert voco.panel("volumes").parameters is not None


def test_closing_the_scene_makes_new_choices_of_old_ones(voco, host):
    for name in SECTIONS:
        voco.openSection(name)
    ball(host.scene)
    voco.panel("volumes").parameters.previewOpacity = 0.9
    host.closeScene()
    assert voco.panel("volumes").parameters.previewOpacity == pytest.approx(0.4)
    assert len(voco.logic.getAllParameterNodes()) == 1
    host.exit("VoCoSlicer")
    host.closeScene()
    assert voco.panel("volumes").parameters is None


def test_choices_come_back_with_a_saved_scene(voco, host, tmp_path):
    node = ball(host.scene, "first")
    panel = voco.panel("volumes")
    panel.refresh()
    panel._onChange(node.GetID(), "chosen", True)
    panel.parameters.pretrainSettings = '{"preset": "tiny"}'
    voco.openSection("pretraining")
    assert host.scene.WriteToMRB(str(tmp_path / "saved.mrb"))
    host.closeScene()
    assert voco.panel("pretraining").parameters.pretrainSettings == "{}"
    assert host.scene.ReadFromMRB(str(tmp_path / "saved.mrb"))
    host.app.processEvents()
    assert voco.panel("pretraining").parameters.pretrainSettings == '{"preset": "tiny"}'
    assert voco.panel("pretraining")._main.rows["preset"].value == "tiny"
    assert [one.chosen for one in voco.panel("volumes")._choices()] == [True]


def test_the_module_can_be_reloaded(voco, host):
    import VoCoSlicerLib

    for name in SECTIONS:
        voco.openSection(name)
    new = host.reload("VoCoSlicer")
    assert new is not voco and sys.modules["VoCoSlicerLib"] is not VoCoSlicerLib
    new.openSection("pretraining")
    assert new.panel("pretraining").parameters is not None, "the module is open and dead"
    host.exit("VoCoSlicer")
    newer = host.reload("VoCoSlicer")
    newer.openSection("pretraining")
    assert newer.panel("pretraining").parameters is None
    host.enter("VoCoSlicer")
    assert newer.panel("pretraining").parameters is not None


def test_two_windows_of_the_module_share_the_choices(voco, host):
    import slicer

    other = type(voco)(None)
    other.enter()
    other.openSection("pretraining")
    voco.openSection("pretraining")
    voco.panel("pretraining").parameters.pretrainSettings = '{"recipe": "v2"}'
    assert other.panel("pretraining")._main.rows["recipe"].value == "v2"
    other.exit()
    other.cleanup()
    other.parent.deleteLater()
    voco.panel("pretraining").parameters.pretrainSettings = '{"recipe": "paper"}'
    assert voco.panel("pretraining")._main.rows["recipe"].value == "paper"
    assert slicer.mrmlScene is host.scene


def test_errors_are_said_in_one_place_with_hint_and_log(voco, host, tmp_path):
    hand = Hand(voco.parent, host)
    log = tmp_path / "log.txt"
    log.write_text("first line\n<b>bold</b> & more\n", encoding="utf-8")
    voco.showError(DataError("the disk is full", "free some space"), log)
    assert voco.ui.errorLabel.text == "the disk is full" and voco.ui.hintLabel.text == "free some space"
    hand.click("showLogButton")
    assert "<b>bold</b> & more" in hand.readWindow()[1]
    hand.click("hideErrorButton")
    assert not voco.ui.errorFrame.isVisible()
    voco.showError(StopRequested("cancelled"))
    assert not voco.ui.errorFrame.isVisible() and voco.ui.statusLabel.text == "cancelled"
    voco.showError(PermissionError(13, "Permission denied", "/closed"))
    assert voco.ui.errorLabel.text == "/closed cannot be used: Permission denied"
    voco.showError(DataError("no log here"))
    assert not voco.ui.showLogButton.isVisible() and not voco.ui.hintLabel.isVisible()


@pytest.mark.parametrize("call", ["setParameterNode", "enter"])
def test_a_section_that_fails_keeps_no_other_from_the_choices(voco, host, monkeypatch, call):
    for name in SECTIONS:
        voco.openSection(name)
    entered = []
    host.exit("VoCoSlicer")
    monkeypatch.setattr(voco.panel(SECTIONS[0]), call, lambda *_: {}["gone"])
    monkeypatch.setattr(voco.panel(SECTIONS[-1]), "enter", lambda: entered.append(1))
    host.enter("VoCoSlicer")
    assert voco.panel(SECTIONS[-1]).parameters is not None and entered
    assert "KeyError" in voco.ui.errorLabel.text


def test_under_testing_nothing_is_asked_and_nothing_done(voco, host):
    """As in a real Slicer that was started with --testing: a box would wait for ever."""
    from VoCoSlicerLib import adapter

    host.app.hostTesting = True
    assert adapter.ask("VoCo", "Kill it?", ["Kill", "Cancel"]) == -1 and host.answers.asked == []


def test_a_script_begins_with_the_users_choices_and_writes_none(voco, monkeypatch):
    Logic, environment = type(voco.logic), voco.logic.environment
    environment.choose("/chosen/python")
    monkeypatch.delenv("VOCO_PYTHON")
    script = Logic()
    assert script.environment.python == "/chosen/python" and Logic(store={}).environment.chosen == ""
    script.environment.choose("/a script's/python")
    assert (environment.chosen, script.environment.chosen) == ("/chosen/python", "/a script's/python")
    monkeypatch.setenv("VOCO_PYTHON", sys.executable)
    assert Logic().environment.python == sys.executable


def test_a_finished_step_opens_the_next_section_once(voco, host):
    voco.advance("cropPreview")
    assert not voco.section("cropPreview").collapsed
    voco.section("cropPreview").collapsed = True
    voco.advance("cropPreview")
    assert voco.section("cropPreview").collapsed
