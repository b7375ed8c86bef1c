"""The section "Pre-training" where something else changes: another scene comes, or another program takes a folder."""

from __future__ import annotations

from pathlib import Path

import made_scene as made
import pytest
from hand import Hand
from made_jobs import makeRun

from VoCoCore.runs.directory import is_run
from VoCoSlicerLib.choices import CaseChoice, writeCases, writeSettings
from VoCoSlicerLib.environment import Facts


@pytest.fixture
def section(voco, host, tmp_path):
    """A hand at the section, with one volume that can be trained on."""
    voco.logic.store["folder"] = str(tmp_path / "VoCo")
    chooseOne(voco, host)
    voco.openSection("pretraining")
    hand = Hand(voco.panel("pretraining").widget, host)
    hand.settle()
    yield hand
    del voco.logic.store["folder"]


def chooseOne(voco, host):
    volume = made.volume(host.scene, made.noise((40, 40, 40)), "ball")
    writeCases(voco._parameterNode.parameterNode, [CaseChoice(volume.GetID(), True)])


def test_a_proposed_folder_that_another_slicer_has_taken_gives_way_to_another(section, voco):
    proposed = Path(section.find("runEdit").placeholderText)
    makeRun(proposed)
    section.type("setting.optim.steps", "5")
    voco.panel("pretraining")._runFolder.look()
    section.settle()
    other = Path(section.find("runEdit").placeholderText)
    assert section.find("startButton").isEnabled(), section.find("problemLabel").text
    assert other != proposed and not is_run(other)


def test_a_proposed_folder_is_looked_at_once_more_when_start_is_pressed(section, voco, monkeypatch):
    makeRun(proposed := Path(section.find("runEdit").placeholderText))
    asked = []

    def start(kind, run, values, **more):
        asked.append(run)
        raise ValueError("far enough")

    monkeypatch.setattr(voco.logic, "startJob", start)
    section.click("startButton")
    assert len(asked) == 1 and asked[0] != proposed and not asked[0].exists()


def test_a_wrong_text_does_not_go_over_into_the_next_scene(section, voco, host):
    section.type("setting.optim.steps", "abc")
    assert "abc" in section.find("problemLabel").text
    host.closeScene()
    chooseOne(voco, host)
    section.settle()
    assert section.find("setting.optim.steps").text == "" and not section.find("problemLabel").isVisible()


def test_a_setting_of_a_scene_that_no_control_shows_can_be_taken_back(section, voco):
    writeSettings(voco._parameterNode, "pretrain", {"optim.stepps": 5})
    section.settle()
    told = section.find("problemLabel").text
    assert "optim.stepps" in told and "Reset" in told and not section.find("startButton").isEnabled()
    section.click("resetButton")
    assert section.find("startButton").isEnabled()


def test_a_card_that_cannot_be_used_is_not_said_to_be_missing(section, voco):
    voco.logic.facts = Facts(device="cpu", cards=("NVIDIA T4",))
    panel = voco.panel("pretraining")
    panel._showNeeds()
    told = section.find("warningLabel").text
    assert "graphics card cannot be used" in told and "No GPU" not in told
    voco.logic.facts = Facts(device="cpu")
    panel._showNeeds()
    assert "No GPU was found" in section.find("warningLabel").text
