"""Closing Slicer: what becomes of jobs, and whether to stay for what would be lost; each asked once, and no more."""

from __future__ import annotations

import json
from types import SimpleNamespace

import made_scene as made
import pytest
from grounds import MODULE
from hand import Hand
from test_model_info import card, weightsFile

from VoCoSlicerLib.logic import VoCoLogic
from VoCoSlicerLib.snapshots import SceneCase

STAY = ("Stay", "Close")


def test_closing_slicer_asks_once_what_becomes_of_jobs(host, monkeypatch):
    import qt
    import slicer

    window = qt.QMainWindow()
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: window)
    voco = host.loadModule(MODULE)
    rows, stopped = [], []
    monkeypatch.setattr(voco.logic, "stopRuns", stopped.append)
    monkeypatch.setattr(voco.logic, "activeRuns", lambda: rows)
    window.show()
    window.close()
    assert host.answers.asked == [] and not window.isVisible()
    rows.append(SimpleNamespace(path="/runs/one", name="one", state="running", local=True, active=True))
    host.answers.give("Escape")
    window.show()
    window.close()
    assert stopped == [] and not window.isVisible(), "Escape lets them run"
    voco.closeQuestion.asked = False
    host.answers.asked.clear()
    host.answers.give("Stop with a checkpoint")
    window.show()
    window.close()
    assert stopped == [] and "one" in host.answers.asked[0].text and not window.isVisible()
    window.close()
    assert len(host.answers.asked) == 1
    type(host.app).aboutToQuit.emit(host.app)
    assert stopped == [["/runs/one"]]


def test_a_closing_that_was_cancelled_is_asked_about_again(host, monkeypatch):
    import qt
    import slicer

    class Window(qt.QMainWindow):
        """As Slicer's, which asks whether to save and may then stay."""

        def closeEvent(self, event):
            if host.answers.asked[-1].text != "Save?":
                box = qt.QMessageBox(self)
                box.setText("Save?")
                box.addButton("Cancel", qt.QMessageBox.AcceptRole)
                box.exec()
            event.ignore()

    window = Window()
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: window)
    voco = host.loadModule(MODULE)
    rows = [SimpleNamespace(path="/runs/one", name="one", state="running", local=True, active=True)]
    stopped = []
    monkeypatch.setattr(voco.logic, "activeRuns", lambda: rows)
    monkeypatch.setattr(voco.logic, "stopRuns", stopped.append)
    window.show()
    host.answers.give("Stop with a checkpoint")
    window.close()
    window.close()
    assert [one.text == "Save?" for one in host.answers.asked] == [False, True], (
        "Qt told twice of one closing"
    )
    hand = Hand(window, host)
    hand.until(lambda: not voco.closeQuestion.asked, 60)
    host.answers.give("Keep running")
    window.close()
    assert [one.text == "Save?" for one in host.answers.asked] == [False, True, False, True]
    hand.until(lambda: not voco.closeQuestion.asked, 60)
    rows[0].state = "stopping"
    window.close()
    assert len(host.answers.asked) == 4, "it has been asked to stop already"
    type(host.app).aboutToQuit.emit(host.app)
    assert stopped == [], "Slicer had stayed, and the last answer was another"


@pytest.mark.parametrize("stay", ["Stay", "Escape"])
def test_closing_is_refused_to_whoever_stays_for_what_would_be_lost(host, monkeypatch, stay):
    import qt
    import slicer

    window = qt.QMainWindow()
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: window)
    voco = host.loadModule(MODULE)
    from VoCoSlicerLib.panels import closing

    rows = [SimpleNamespace(path="/runs/one", name="one", state="running", local=True, active=True)]
    monkeypatch.setattr(voco.logic, "activeRuns", lambda: rows)
    monkeypatch.setattr(voco.logic, "lostWithSlicer", lambda: ["the prediction", "the rest"])
    translated, asIs = {"the prediction": "die Vorhersage"}, closing._
    monkeypatch.setattr(closing, "_", lambda text: translated.get(text, asIs(text)))
    window.show()
    host.answers.give(stay)
    window.close()
    window.close()  # Qt told twice of one closing
    assert window.isVisible() and [one.buttons for one in host.answers.asked] == [STAY]
    assert "\n\ndie Vorhersage\nthe rest" in host.answers.asked[0].text
    Hand(window, host).until(lambda: not voco.closeQuestion.asked, 60)
    host.answers.give("Close", "Keep running")
    window.close()
    assert not window.isVisible() and [one.buttons == STAY for one in host.answers.asked] == [
        True,
        True,
        False,
    ]


@pytest.fixture
def logic(scene, tmp_path):
    return VoCoLogic(scene, {"folder": str(tmp_path / "VoCo")})


def test_a_start_is_lost_until_it_is_a_process_of_its_own(logic, scene, tmp_path, monkeypatch):
    launch = SimpleNamespace(ready=lambda: False, cancelled=False)
    launch.cancel = lambda: setattr(launch, "cancelled", True)
    monkeypatch.setattr(logic.jobs, "start", lambda *_, **__: launch)
    node = made.volume(scene, made.noise((16, 16, 16)), "chest")

    def begun():
        cases = [SceneCase(volumeIds=(node.GetID(),))]
        return logic.startJob("pretrain", tmp_path / "first", {"preset": "tiny"}, cases=cases)

    left = begun()
    assert logic.lostWithSlicer() == ["the job first, whose volumes are still being written"]
    assert list(logic.volumesInUse().values()) == ["the start of the job first"]
    left.leave()
    assert logic.lostWithSlicer() == [] and left.poll().error is not None
    job = begun()
    while job.poll().stage != "starting":
        assert job.poll().error is None
    assert logic.lostWithSlicer() == []
    job.leave()
    assert not launch.cancelled, "it goes on without Slicer"


def test_a_prediction_is_lost_until_it_has_ended_and_a_check_is_not_missed(logic, scene, tmp_path):
    from VoCoSlicerLib.logic_check import CheckJob

    node = made.volume(scene, made.noise((16, 16, 16)), "chest")
    check = CheckJob(logic, [SceneCase(volumeIds=(node.GetID(),))]).start()
    assert logic.lostWithSlicer() == [] and not check.finished
    check.cancel()
    file = weightsFile(tmp_path / "model.safetensors", {"card": json.dumps(card(channels=["image"]))})
    job = logic.predict(file, [node], wait=False)
    assert logic.lostWithSlicer() == ["the prediction"]
    job.cancel()
    assert logic.lostWithSlicer() == []
