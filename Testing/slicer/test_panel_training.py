"""The sections "Pre-training" and "Fine-tuning", driven by hand; jobs are played, but for one that is real."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import made_scene as made
import numpy as np
import pytest
from hand import Hand

from VoCoCore.errors import DataError, EnvironmentFault, StopRequested
from VoCoSlicerLib.choices import CaseChoice, FolderChoice, readSettings, writeCases, writeFolders
from VoCoSlicerLib.environment import Facts
from VoCoSlicerLib.logic_estimate import Needs
from VoCoSlicerLib.logic_steps import Progress


def ball(scene, name="ball", edge=40):
    at = np.stack(np.meshgrid(*[np.linspace(-1, 1, edge)] * 3, indexing="ij"))
    values = np.where((at**2).sum(0) < 0.7, 40, -1000) + made.noise((edge,) * 3) // 100
    return made.volume(scene, values.astype(np.int16), name)


class PlayedEstimate:
    """An estimate that has ended already."""

    def __init__(self, needs=None, error=None):
        self.needs, self.fault = needs, error

    def poll(self):
        return Progress("ended", finished=True, error=self.fault)

    def cancel(self):
        pass


NEEDS = Needs(20_000, 450, 12.2, 3 * 3600, "cpu", roomMb=16_000, plan=("patches.size 32 x 32 x 32: all",))


@pytest.fixture
def section(voco, host, monkeypatch, tmp_path):
    """Opens the section of a kind of job; returns a hand at it, with the panel. Estimates are played."""
    facts = Facts(device="cpu")
    monkeypatch.setattr(voco.logic, "estimate", lambda *_, **__: PlayedEstimate(NEEDS))
    monkeypatch.setattr(voco.logic, "facts", facts)
    voco.logic.store["folder"] = str(tmp_path / "VoCo")

    def open_(kind):
        name = {"pretrain": "pretraining", "finetune": "finetuning"}[kind]
        voco.openSection(name)
        panel = voco.panel(name)
        hand = Hand(panel.widget, host)
        hand.panel = panel
        hand.settle()
        return hand

    yield open_
    del voco.logic.store["folder"]


def choose(voco, *choices):
    voco.initializeParameterNode()
    writeCases(voco._parameterNode.parameterNode, list(choices))


def played(voco, monkeypatch, *states):
    """Let the next start be played; returns what it was asked for and the job."""
    asked = []
    left = list(states)
    job = SimpleNamespace(run=None, cancelled=False, warnings=[])
    job.poll = lambda: left.pop(0) if len(left) > 1 else left[0]

    def cancel():
        job.cancelled = True
        left[:] = [Progress("ended", finished=True, error=StopRequested("the start was cancelled"))]

    job.cancel, job.leave, job.states = cancel, cancel, left

    def start(kind, run, values, **more):
        asked.append((kind, run, values, more))
        job.run = run
        return job

    monkeypatch.setattr(voco.logic, "startJob", start)
    return asked, job


def test_what_is_missing_is_said_in_words_and_start_is_off(section, voco, host):
    hand = section("pretrain")
    assert not hand.find("startButton").isEnabled()
    assert "no volume is chosen" in hand.find("problemLabel").text
    volume = ball(host.scene)
    choose(voco, CaseChoice(volume.GetID(), True))
    hand.settle()
    assert hand.find("startButton").isEnabled() and not hand.find("problemLabel").isVisible()
    assert hand.find("casesLabel").text == "1 case"
    host.scene.RemoveNode(volume)
    hand.until(lambda: not hand.find("startButton").isEnabled())
    assert "no volume is chosen" in hand.find("problemLabel").text


def test_wrong_settings_stop_the_start_beside_their_control(section, voco, host):
    hand = section("pretrain")
    choose(voco, CaseChoice(ball(host.scene).GetID(), True))
    hand.type("setting.crops.counts", "4,4,99")
    assert not hand.find("startButton").isEnabled()
    assert "crops.counts" in hand.find("problemLabel").text and hand.find("note.crops.counts").isVisible()
    hand.type("setting.crops.counts", "3,3,1")
    assert hand.find("startButton").isEnabled()
    hand.open("advancedButton")
    box = hand.panel._advanced.boxes["Crops"]
    box.collapsed = False
    hand.settle()
    hand.type("setting.crops.random_size", "999,999,999")
    assert "crops.random_size" in hand.find("problemLabel").text
    assert hand.find("note.crops.random_size").isVisible()
    hand.click("resetButton")
    assert readSettings(hand.panel.parameters, "pretrain") == {} and hand.find("startButton").isEnabled()


def test_presets_fill_the_other_settings_in_grey(section, voco):
    hand = section("pretrain")
    assert hand.find("setting.optim.steps").placeholderText == "250000"
    hand.choose("setting.preset", "tiny")
    assert hand.find("setting.optim.steps").placeholderText == "1000"
    assert hand.find("setting.crops.base_size").placeholderText == "32,32,32"
    hand.choose("setting.recipe", "v2")
    assert hand.find("setting.crops.counts").placeholderText == "3,3,1"
    assert readSettings(hand.panel.parameters, "pretrain") == {"preset": "tiny", "recipe": "v2"}


def test_the_estimate_says_figures_and_what_the_machine_lacks(section, voco, host):
    hand = section("pretrain")
    choose(voco, CaseChoice(ball(host.scene).GetID(), True))
    hand.settle()
    hand.click("estimateButton")
    text = hand.until(
        lambda: "GB of memory" in hand.find("estimateLabel").text and hand.find("estimateLabel").text
    )
    assert "21.0 GB of memory" in text and "GB of disk and 3 h on the processor" in text
    assert "0.5 GB of disk" in text, "450 MB of checkpoints, and one volume of 12.2 MB"
    warning = hand.find("warningLabel").text
    assert "21.0 GB of memory are needed, and 16.8 GB are free" in warning and "No GPU" in warning


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (45.4, "45 s"),
        (1788, "30 min"),
        (7190, "2 h"),
        (18_720, "5 h 10 min"),
        (190_000, "2 d 5 h"),
        (float("inf"), "unknown"),
    ],
)
def test_an_estimate_of_time_is_not_said_more_exactly_than_it_is(
    seconds, words, section, voco, host, monkeypatch
):
    needs = replace(NEEDS, seconds=seconds)
    monkeypatch.setattr(voco.logic, "estimate", lambda *_, **__: PlayedEstimate(needs))
    hand = section("pretrain")
    choose(voco, CaseChoice(ball(host.scene).GetID(), True))
    hand.settle()
    hand.click("estimateButton")
    hand.until(lambda: f" and {words} on the processor" in hand.find("estimateLabel").text)


def test_a_pre_training_is_estimated_anew_when_volumes_become_channels(section, voco, host, monkeypatch):
    asked = []

    def estimate(kind, run, values, **chosen):
        asked.append([len(case.volumeIds) for case in chosen["cases"]])
        return PlayedEstimate(NEEDS)

    monkeypatch.setattr(voco.logic, "estimate", estimate)
    volumes = [ball(host.scene, f"{case}_{name}") for case in "ab" for name in ("t1", "t2")]
    hand = section("pretrain")
    choose(voco, *(CaseChoice(volume.GetID(), True) for volume in volumes))
    hand.settle()
    hand.click("estimateButton")
    hand.panel.parameters.groupChannels = True
    hand.until(lambda: len(asked) == 2)
    assert asked == [[1, 1, 1, 1], [2, 2]]


def test_an_estimate_that_was_left_is_not_said_to_go_on(section, voco, host, monkeypatch):
    hand = section("pretrain")
    choose(voco, CaseChoice(ball(host.scene).GetID(), True))
    hand.settle()
    monkeypatch.setattr(PlayedEstimate, "poll", lambda self: Progress("estimating"))
    hand.click("estimateButton")
    hand.until(lambda: "Estimating" in hand.find("estimateLabel").text)
    host.exit("VoCoSlicer")
    host.enter("VoCoSlicer")
    assert "Estimating" not in hand.find("estimateLabel").text


def test_an_estimate_that_fails_says_why(section, voco, host, monkeypatch):
    hand = section("pretrain")
    choose(voco, CaseChoice(ball(host.scene).GetID(), True))
    fault = EnvironmentFault("the package torch is missing", "install it")
    monkeypatch.setattr(voco.logic, "estimate", lambda *_, **__: PlayedEstimate(error=fault))
    hand.settle()
    hand.click("estimateButton")
    hand.until(lambda: "torch is missing" in hand.find("estimateLabel").text)


def test_settings_that_settle_are_estimated_by_themselves(section, voco, host):
    hand = section("pretrain")
    choose(voco, CaseChoice(ball(host.scene).GetID(), True))
    hand.choose("setting.preset", "tiny")
    hand.until(lambda: "GB of memory" in hand.find("estimateLabel").text)


def test_start_shows_progress_and_then_the_job(section, voco, host, monkeypatch, tmp_path):
    hand = section("pretrain")
    volume = ball(host.scene)
    choose(voco, CaseChoice(volume.GetID(), True))
    writeFolders(
        voco._parameterNode, [FolderChoice("/c", "/c.json", True, 7), FolderChoice("/d", "/d.json", True, 0)]
    )
    shown = []
    monkeypatch.setattr(voco, "selectRun", shown.append)
    asked, job = played(voco, monkeypatch, Progress("exporting", 5, 10, "one"))
    hand.choose("setting.preset", "tiny")
    hand.type("runEdit", str(tmp_path / "my run"))
    assert hand.find("casesLabel").text == "8 cases"
    hand.click("startButton")
    assert hand.find("progressBar").value == 50 and not hand.find("startButton").isEnabled()
    job.states[:] = [Progress("starting"), Progress("running", finished=True)]
    hand.until(lambda: shown)
    ((kind, run, values, more),) = asked
    assert (kind, str(run), values) == ("pretrain", str(tmp_path / "my run"), {"preset": "tiny"})
    assert [case.volumeIds for case in more["cases"]] == [(volume.GetID(),)] and more["folders"] == [
        "/c.json"
    ]
    assert more["cases"][0].segmentationId is None
    assert not hand.find("progressBar").isVisible() and hand.find("runEdit").text == ""
    assert "running in the background" in voco.ui.statusLabel.text


def test_a_start_that_fails_is_said_with_its_log_and_can_be_tried_again(
    section, voco, host, monkeypatch, tmp_path
):
    hand = section("pretrain")
    choose(voco, CaseChoice(ball(host.scene).GetID(), True))
    run = tmp_path / "run"
    hand.type("runEdit", str(run))
    fault = DataError("the volume is empty", "choose another")
    played(voco, monkeypatch, Progress("starting"), Progress("ended", finished=True, error=fault))
    hand.click("startButton")
    hand.until(lambda: voco.ui.errorFrame.isVisible())
    assert (voco.ui.errorLabel.text, voco.ui.hintLabel.text) == ("the volume is empty", "choose another")
    assert voco.ui.statusLabel.text == ""
    assert hand.find("startButton").isEnabled() and not hand.find("cancelButton").isVisible()


def test_a_bare_name_is_a_folder_beside_the_other_runs(section, voco, host, monkeypatch, tmp_path):
    hand = section("pretrain")
    choose(voco, CaseChoice(ball(host.scene).GetID(), True))
    asked, _ = played(voco, monkeypatch, Progress("running", finished=True))
    monkeypatch.setattr(voco, "selectRun", lambda run: None)
    hand.type("runEdit", " my run ")
    hand.click("startButton")
    assert asked[0][1] == tmp_path / "VoCo" / "my run"


def test_cancel_gives_the_start_up(section, voco, host, monkeypatch):
    hand = section("pretrain")
    choose(voco, CaseChoice(ball(host.scene).GetID(), True))
    _, job = played(voco, monkeypatch, Progress("exporting", 1, 10, "one"))
    hand.settle()
    hand.click("startButton")
    hand.click("cancelButton")
    assert (
        job.cancelled and not hand.find("cancelButton").isVisible() and hand.find("startButton").isEnabled()
    )
    assert voco.ui.statusLabel.text == "the start was cancelled" and not voco.ui.errorFrame.isVisible()
    assert sys.modules.get("torch") is None


def test_a_folder_that_is_taken_is_refused_before_the_start(section, voco, host, tmp_path):
    hand = section("pretrain")
    choose(voco, CaseChoice(ball(host.scene).GetID(), True))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    host.answers.give(str(tmp_path / "full"))
    hand.click("runButton")
    assert "is not empty" in hand.find("problemLabel").text and not hand.find("startButton").isEnabled()


def test_the_disk_is_asked_about_a_folder_when_its_name_is_whole(section, voco, host, tmp_path, monkeypatch):
    from VoCoSlicerLib.panels import run_folder

    hand = section("pretrain")
    choose(voco, CaseChoice(ball(host.scene).GetID(), True))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    looks, check = [], run_folder.checkFolder
    monkeypatch.setattr(run_folder, "checkFolder", lambda folder: looks.append(folder) or check(folder))
    for end in range(1, 5):
        voco.logic.getParameterNode().pretrainRun = str(tmp_path / "full"[:end])  # as each letter does
    assert looks == [] and hand.find("startButton").isEnabled()
    hand.click("startButton")
    assert "is not empty" in voco.ui.errorLabel.text, "Start asks in any case"
    hand.until(lambda: looks, 60)
    assert looks == [tmp_path / "full"] and "is not empty" in hand.find("problemLabel").text
    assert not hand.find("startButton").isEnabled()
    hand.type("runEdit", str(tmp_path / "new"))
    assert looks[1:] == [tmp_path / "new"] and hand.find("startButton").isEnabled(), "Return ends the name"


def test_fine_tuning_shows_labels_and_wants_them(section, voco, host):
    hand = section("finetune")
    volume, other = ball(host.scene, "a"), ball(host.scene, "b")
    mask = np.zeros((40, 40, 40), bool)
    mask[8:24, 8:24, 8:24] = True
    labels = made.segmentation(host.scene, volume, {"liver": mask, "spleen": ~mask}, "a segmentation")
    choose(voco, CaseChoice(volume.GetID(), True, labels.GetID()))
    hand.settle()
    assert hand.find("casesLabel").text == "1 case; labels: liver, spleen"
    assert hand.find("startButton").isEnabled()
    choose(voco, CaseChoice(volume.GetID(), True, labels.GetID()), CaseChoice(other.GetID(), True))
    hand.settle()
    assert "b has no segmentation" in hand.find("problemLabel").text
    hand.choose("setting.task", "classification")
    assert "a has no class" in hand.find("problemLabel").text
    choose(
        voco,
        CaseChoice(volume.GetID(), True, "", False, "sick"),
        CaseChoice(other.GetID(), True, "", False, "well"),
    )
    hand.settle()
    assert hand.find("casesLabel").text == "2 cases; classes: sick, well"
    assert hand.find("startButton").isEnabled()


def test_a_fine_tuning_is_estimated_by_the_button_and_then_kept_up_to_date(section, voco, host, monkeypatch):
    hand = section("finetune")
    volume = ball(host.scene, "a")
    labels = made.segmentation(host.scene, volume, {"liver": np.ones((40, 40, 40), bool)}, "a segmentation")
    choose(voco, CaseChoice(volume.GetID(), True, labels.GetID()))
    asked = []

    def estimate(kind, run, values, **chosen):
        asked.append((kind, values, [case.segmentationId for case in chosen["cases"]]))
        return PlayedEstimate(NEEDS)

    monkeypatch.setattr(voco.logic, "estimate", estimate)
    hand.settle()
    hand.type("setting.optim.steps", "20")
    hand.panel._onSettled()
    assert asked == [], "it would write volumes that nobody has asked for"
    hand.click("estimateButton")
    label = hand.find("estimateLabel")
    hand.until(lambda: "GB of memory" in label.text)
    assert "patches.size 32 x 32 x 32: all" in label.toolTip
    hand.panel._onSettled()
    assert len(asked) == 1, "nothing has changed"
    hand.type("setting.optim.steps", "30")
    hand.until(lambda: len(asked) == 2, 60)
    assert [values["optim.steps"] for _, values, _ in asked] == [20, 30]
    assert asked[0][0] == "finetune" and asked[0][2] == [labels.GetID()]


def test_start_weights_are_a_known_run_or_a_file(section, voco, host, tmp_path, monkeypatch):
    row = SimpleNamespace(path=tmp_path / "pre", name="pre", result="encoder")
    jobs = SimpleNamespace(rows=lambda: [row])
    voco.logic.__dict__["jobs"] = jobs
    hand = section("finetune")
    hand.choose("initCombo", "pre (encoder)")
    assert readSettings(hand.panel.parameters, "finetune")["init"] == str(tmp_path / "pre")
    host.answers.give(str(tmp_path / "weights.pt"))
    hand.click("initButton")
    assert readSettings(hand.panel.parameters, "finetune")["init"] == str(tmp_path / "weights.pt")
    assert hand.find("initCombo").currentText == "weights.pt"
    hand.choose("initCombo", "from scratch")
    assert "init" not in readSettings(hand.panel.parameters, "finetune")


def test_a_change_is_looked_at_once_and_by_those_whom_it_concerns(section, voco, host, monkeypatch):
    hand = section("pretrain")
    names = ("volumes", "cropPreview", "pretraining", "finetuning", "prediction")
    done = []
    for name in names:
        panel = voco.panel(name)
        real = panel.update
        monkeypatch.setattr(panel, "update", lambda name=name, real=real: done.append(name) or real())
    real = hand.panel._check
    monkeypatch.setattr(hand.panel, "_check", lambda: done.append("check") or real())
    hand.choose("setting.preset", "tiny")
    assert sorted(done) == ["check", "cropPreview", "pretraining"]
    done.clear()
    hand.type("setting.optim.steps", "x")  # kept by the control alone, and said
    assert set(done) == {"check", "pretraining"} and "optim.steps" in hand.find("problemLabel").text
    done.clear()
    hand.panel.parameters.mirror = True
    assert done == []
    hand.panel.parameters.device = "cpu"
    assert done == ["prediction"]
    done.clear()
    hand.panel.parameters.groupChannels = True
    assert sorted(done) == ["check", "finetuning", "prediction", "pretraining"]


def test_the_two_panels_share_nothing(section, voco):
    one, two = section("pretrain"), section("finetune")
    one.choose("setting.model.encoder", "unet")
    assert readSettings(two.panel.parameters, "finetune") == {}
    two.type("setting.data.fold", "all")
    assert readSettings(two.panel.parameters, "finetune") == {"data.fold": "all"}


def test_a_real_start_never_holds_the_window_up(section, voco, host, tmp_path):
    hand = section("pretrain")
    choose(
        voco,
        CaseChoice(ball(host.scene, "one").GetID(), True),
        CaseChoice(ball(host.scene, "two").GetID(), True),
    )
    hand.choose("setting.preset", "tiny")
    hand.choose("setting.model.encoder", "unet")
    hand.type("setting.optim.steps", "1")
    hand.choose("setting.run.device", "cpu")
    hand.type("runEdit", str(tmp_path / "run"))
    panel = hand.panel
    hand.click("startButton")
    end = time.monotonic() + 300
    while panel._job is not None and time.monotonic() < end:
        panel._poll()
        host.app.processEvents()
        time.sleep(0.02)
    assert panel._job is None and not voco.ui.errorFrame.isVisible()
    assert (tmp_path / "run" / "status.json").is_file()
    assert not voco.section("jobs").collapsed
    voco.logic.jobs.kill(tmp_path / "run").run(60)
