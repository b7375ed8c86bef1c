"""The section "Jobs" where others change runs: a command line, another Slicer, a file manager; many runs at once."""

from __future__ import annotations

import json
import os
import shutil

from made_jobs import SMALL, choose, makeRun, runKnown

SECTION = "jobs"


def say(run, **facts):
    """Change what a run's status says."""
    file = run / "status.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))


def rowOf(panel, hand):
    panel.poll()
    return hand.rows("runsTable")[0]


def test_a_start_that_failed_is_forgotten_once_another_job_has_worked_on_the_run(voco, panel, hand, tmp_path):
    run = runKnown(tmp_path, "one", "stopped")
    choose(hand, panel, "one")
    program = tmp_path / "no python"
    program.write_text("#!/bin/sh\nexit 4\n")
    program.chmod(0o755)
    voco.logic.store["python"] = str(program)
    hand.click("resumeButton")
    del voco.logic.store["python"]
    hand.until(lambda: rowOf(panel, hand)[2] == "failed")
    assert "did not start" in hand.find("runErrorLabel").text
    assert rowOf(panel, hand)[2] == "failed"
    say(run, step=900, attempt=2)  # by "voco jobs resume" and "voco jobs stop", between two looks
    assert rowOf(panel, hand)[2:4] == ["stopped", "90 %"] and not hand.find("runErrorLabel").isVisible()


def test_another_run_in_a_folder_is_of_its_own_kind(panel, hand, tmp_path):
    run = runKnown(tmp_path, "one")
    assert rowOf(panel, hand)[1] == "pre-training"
    shutil.rmtree(run)
    makeRun(run)
    (run / "settings.json").write_text('{"patches": {}}')
    assert rowOf(panel, hand)[1] == "fine-tuning"


def test_the_run_that_a_scene_remembers_is_chosen_once_it_was_read(voco, panel, hand, tmp_path, monkeypatch):
    for number in range(8):
        run = runKnown(tmp_path, f"run {number}")
    monkeypatch.setattr("VoCoSlicerLib.jobs.BUDGET", 0.0)  # a call reads one run
    wanted = run.with_name("run 0")
    voco._parameterNode.selectedRun = str(wanted)
    while len(panel._rows) < 8:
        panel.poll()
    assert panel.selected == wanted and "run 0" in hand.find("stateLabel").text
    panel.logic.jobs.forget(wanted)
    panel.poll()
    assert panel.selected is None


def test_numbers_beyond_all_sense_are_shown(panel, hand, tmp_path):
    run = runKnown(tmp_path, "one", "stopped")
    choose(hand, panel, "one")
    say(run, step=9 * 10**18, total=10**19)
    assert rowOf(panel, hand)[3] == "90 %" and hand.find("runProgressBar").value == 900
    say(run, step=-(10**19))
    rowOf(panel, hand)
    assert hand.find("runProgressBar").value == 0


def test_what_has_not_begun_is_not_said_to_stop_with_a_checkpoint(voco, panel, hand, tmp_path):
    panel.logic.jobs.start("pretrain", SMALL, tmp_path / "one")
    choose(hand, panel, "one")
    hand.click("stopButton")
    assert "before it began" in voco.ui.statusLabel.text and hand.rows("runsTable") == []


def test_of_a_run_whose_folder_is_deleted_nothing_can_be_opened(voco, panel, hand, tmp_path):
    run = runKnown(tmp_path, "one", "running", pid=os.getpid())
    for name in ("log.txt", "report.html", "weights/encoder.safetensors"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).touch()
    choose(hand, panel, "one")
    buttons = [hand.find(f"{name}Button") for name in ("log", "report", "use")]
    assert all(button.isEnabled() for button in buttons)
    (run / "report.html").unlink()
    hand.click("reportButton")
    assert "no report any more" in voco.ui.errorLabel.text
    shutil.rmtree(run)
    panel.poll()
    assert not any(button.isEnabled() for button in buttons)
    assert voco.ui.statusLabel.text == "one: its folder is no longer there"


def test_going_on_with_a_run_takes_away_what_was_said_of_its_end(voco, panel, hand, tmp_path):
    run = runKnown(tmp_path, "one", "running", pid=os.getpid())
    choose(hand, panel, "one")
    say(run, state="failed", message="no room")
    panel.poll()
    assert "no room" in voco.ui.errorLabel.text and voco.ui.errorFrame.isVisible()
    hand.click("resumeButton")
    assert not voco.ui.errorFrame.isVisible()
    panel.logic.jobs.kill(run)


def test_a_result_is_offered_as_soon_as_it_is_there(voco, panel, hand, tmp_path):
    run = runKnown(tmp_path, "one", "running", pid=os.getpid())
    combos = []
    for section, name in (("finetuning", "initCombo"), ("prediction", "modelCombo")):
        voco.openSection(section)
        combos.append(getattr(voco.panel(section).ui, name))
    panel.poll()
    assert [combo.count for combo in combos] == [1, 1]
    (run / "weights").mkdir()
    (run / "weights" / "model.safetensors").touch()
    say(run, state="finished")
    panel.poll()
    assert [combo.itemText(1) for combo in combos] == ["one (model)", "one"]
