"""The section "Jobs" by hand: table, buttons and their reasons, errors, log, folders, space, a real job."""

from __future__ import annotations

import json
import os
import shutil
import sys

from made_jobs import (
    SMALL,
    choose,
    makeCohort,
    makeRun,
    progress,
    runKnown,
    started,
    train,
    until,
    write,
)

from VoCoCore.errors import SettingsError
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.lock import FileLock

SECTION = "jobs"


def text(hand, name):
    return hand.find(name).text


def enabled(hand):
    names = ("stop", "kill", "resume", "use", "plot", "log", "report", "export", "forget")
    return {name for name in names if hand.find(f"{name}Button").isEnabled()}


def test_the_table_says_how_each_run_stands(panel, hand, tmp_path):
    runKnown(tmp_path, "done", step=20)
    events = [started(), train(250, 0.5), progress(250, eta=3700.0)]
    runKnown(tmp_path, "going", "running", step=250, events=events, pid=os.getpid())
    runKnown(tmp_path, "far", "stopped", host="node7")
    panel.poll()
    rows = {row[0]: row for row in hand.rows("runsTable")}
    assert rows["going"] == [
        "going",
        "pre-training",
        "running",
        "25 %",
        "1 h 1 min",
        "0.5",
        "",
        "this machine",
    ]
    assert rows["done"][2:] == ["finished", "2 %", "", "1.25", "0.5", "this machine"]
    assert rows["far"][2] == "stopped" and rows["far"][7] == "node7"


def test_buttons_say_why_they_cannot_be_pressed(panel, hand, tmp_path):
    assert enabled(hand) == set() and "Choose a run" in hand.find("stopButton").toolTip
    run = runKnown(tmp_path, "done")
    runKnown(tmp_path, "going", "running", pid=os.getpid())
    runKnown(tmp_path, "lost", "running")
    choose(hand, panel, "done")
    assert enabled(hand) == {"plot", "export", "forget"}
    assert (
        "No job" in hand.find("stopButton").toolTip
        and "nothing to go on" in hand.find("resumeButton").toolTip
    )
    for name in ("log.txt", "report.html", "weights/model.safetensors"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("x")
    panel.poll()
    assert enabled(hand) == {"plot", "export", "forget", "log", "report", "use"}
    assert "written when the job ends" not in hand.find("reportButton").toolTip
    choose(hand, panel, "going")
    assert enabled(hand) == {"stop", "kill", "plot", "export"}
    choose(hand, panel, "lost")
    assert {"resume", "forget"} <= enabled(hand) and "stop" not in enabled(hand)
    assert "Stop after the step" in hand.find("stopButton").property("VoCoToolTip")


def test_resuming_waits_for_the_last_files_of_a_job(panel, hand, tmp_path):
    job = FileLock(runKnown(tmp_path, "held", "stopped") / "run.lock")
    assert job.acquire()
    choose(hand, panel, "held")
    assert "resume" not in enabled(hand) and "its last files" in hand.find("resumeButton").toolTip
    job.release()
    panel.poll()
    assert "resume" in enabled(hand)


def test_a_last_look_is_stopped_or_made_up_for(panel, hand, tmp_path):
    run = runKnown(tmp_path, "done", pid=os.getpid())
    manifest = run / "checkpoints" / "step-000500" / "manifest.json"
    for file in (run / "weights" / "encoder.safetensors", run / "private" / "x", run / "log.txt", manifest):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{"step": 500}')
    job = FileLock(run / "run.lock")
    assert job.acquire()
    choose(hand, panel, "done")
    assert {"stop", "kill"} <= enabled(hand) and "resume" not in enabled(hand)
    assert "its last files" in hand.find("resumeButton").toolTip
    job.release()
    panel.poll()
    assert not {"stop", "kill"} & enabled(hand) and "resume" in enabled(hand)
    assert "did not come to its end" in hand.find("runErrorLabel").text
    (run / "report.html").touch()
    panel.poll()
    assert "resume" not in enabled(hand) and not hand.find("runErrorLabel").text


def test_the_error_of_a_run_is_its_line_and_hint(panel, hand, tmp_path):
    event = {"type": "error", "kind": "DataError", "message": "case <7> is empty", "hint": "take it out"}
    runKnown(tmp_path, "bad", "failed", events=[started(), event], message="case <7> is empty")
    runKnown(tmp_path, "lost", "running")
    choose(hand, panel, "bad")
    shown = text(hand, "runErrorLabel")
    assert "case <7> is empty" in shown and "take it out" in shown and "Resume" in shown
    choose(hand, panel, "lost")
    assert "lost" in text(hand, "runErrorLabel") and "killed" in text(hand, "runErrorLabel")
    runKnown(tmp_path, "fine")
    choose(hand, panel, "fine")
    assert not hand.find("runErrorLabel").isVisible()


def test_a_job_that_ends_while_one_looks_is_told_with_its_reason(voco, panel, hand, tmp_path):
    run = runKnown(tmp_path, "going", "running", pid=os.getpid())
    panel.poll()
    (run / "log.txt").write_text("Traceback <b>\nit was me\n")
    status = json.loads((run / "status.json").read_text())
    write(
        run, [{"type": "error", "kind": "EnvironmentFault", "message": "no memory", "hint": "use less"}], "a"
    )
    (run / "status.json").write_text(json.dumps({**status, "state": "failed", "message": "no memory"}))
    panel.poll()
    assert "no memory" in voco.ui.errorLabel.text and "use less" in voco.ui.hintLabel.text
    hand.click("showLogButton")
    assert hand.readWindow()[1] == "Traceback <b>\nit was me\n"
    hand.click("hideErrorButton")
    choose(hand, panel, "going")
    hand.click("logButton")
    assert hand.readWindow() == (str(run), "Traceback <b>\nit was me\n")


def test_a_stop_or_kill_that_failed_is_said_once(voco, panel, hand, tmp_path):
    voco.logic.jobs.complaints.append((tmp_path, SettingsError("the job is out of reach", "end it there")))
    panel.poll()
    assert "out of reach" in voco.ui.errorLabel.text and "end it there" in voco.ui.hintLabel.text
    hand.click("hideErrorButton")
    panel.poll()
    assert not voco.ui.errorFrame.isVisible()


def test_a_defect_at_a_button_is_shown_and_the_table_goes_on(voco, panel, hand, tmp_path, monkeypatch):
    runKnown(tmp_path, "done")
    choose(hand, panel, "done")
    monkeypatch.setattr(voco.logic.jobs, "forget", lambda run: {}["gone"])
    hand.click("forgetButton")
    assert "KeyError" in voco.ui.errorLabel.text and [row[0] for row in hand.rows("runsTable")] == ["done"]


def test_selection_stays_while_rows_come_and_go_and_is_remembered(voco, panel, hand, tmp_path):
    for name in ("one", "two"):
        runKnown(tmp_path, name)
    choose(hand, panel, "one")
    runKnown(tmp_path, "three")
    panel.poll()
    assert [row[0] for row in hand.rows("runsTable")] == ["three", "two", "one"]
    assert panel.selected == tmp_path / "runs" / "one" and "one:" in text(hand, "stateLabel")
    assert (
        hand.find("runsTable").currentRow() == 2
        or hand.find("runsTable").selectionModel().selectedRows()[0].row() == 2
    )
    assert voco.logic.getParameterNode().selectedRun == str(panel.selected)
    shutil.rmtree(tmp_path / "runs" / "one")
    panel.poll()
    assert hand.rows("runsTable")[2][2] == "folder deleted" and enabled(hand) == {"forget"}
    hand.click("forgetButton")
    panel.poll()
    assert [row[0] for row in hand.rows("runsTable")] == ["three", "two"] and panel.selected is None


def test_an_unchanged_table_is_not_touched(panel, hand, tmp_path):
    runKnown(tmp_path, "one")
    panel.poll()
    table, changes = hand.find("runsTable"), []
    table.model().dataChanged.connect(lambda *_: changes.append(1))
    item = table.item(0, 0)
    for _ in range(5):
        panel.poll()
    assert not changes and table.item(0, 0) is item


def test_the_widths_of_a_user_stay_while_a_job_goes_on(panel, hand, tmp_path):
    run = runKnown(tmp_path, "a run of some name", "running", step=20, pid=os.getpid())
    panel.poll()
    table = hand.find("runsTable")
    table.setColumnWidth(1, 71)
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "step": 250}))
    panel.poll()
    assert hand.rows("runsTable")[0][3] == "25 %" and table.columnWidth(1) == 71
    runKnown(tmp_path, "another")
    panel.poll()
    assert table.columnWidth(1) != 71


def test_the_table_is_as_wide_as_its_frame(panel, hand, tmp_path):
    runKnown(tmp_path, "one")
    panel.poll()
    hand.settle()
    runKnown(tmp_path, "two")
    panel.poll()
    hand.settle()
    table = hand.find("runsTable")
    right = table.columnViewportPosition(6) + table.columnWidth(6)
    assert table.isColumnHidden(7) and right == table.viewport().width


def test_long_names_leave_room_for_the_numbers_beside_them(voco, panel, hand, tmp_path):
    runKnown(tmp_path, "pretrain-of-a-very-long-name-that-somebody-has-chosen-2026-11-28-2019")
    for width, whole in ((520, True), (800, True), (250, False), (520, True)):
        panel.widget.setFixedWidth(width)
        hand.settle()
        panel.poll()
        table = hand.find("runsTable")
        assert table.columnWidth(0) >= 100 and (table.horizontalScrollBar().maximum == 0) == whole, width


def test_with_many_runs_the_buttons_are_still_on_the_screen(voco, panel, hand, tmp_path):
    for number in range(30):
        runKnown(tmp_path, f"run-{number}")
    panel.poll()
    hand.settle()
    assert hand.find("runsTable").minimumHeight < 220


def test_folders_are_added_by_hand(panel, hand, host, tmp_path):
    far = makeRun(tmp_path / "cluster" / "far", host="node7")
    host.answers.give(str(tmp_path / "cluster"))
    hand.click("addRunsButton")
    hand.until(lambda: panel.poll() or [row for row in hand.rows("runsTable") if row[0] == "far"])
    hand.click("refreshButton")
    choose(hand, panel, "far")
    hand.click("forgetButton")
    panel.poll()
    assert hand.rows("runsTable") == [] and far.is_dir()
    host.answers.give("")
    hand.click("addRunsButton")


def test_results_are_handed_on(voco, panel, hand, tmp_path):
    model, encoder = runKnown(tmp_path, "model"), runKnown(tmp_path, "encoder")
    for run, name in ((model, "model"), (encoder, "encoder")):
        (run / "weights").mkdir()
        (run / "weights" / f"{name}.safetensors").write_bytes(b"x")
    parameters = voco.logic.getParameterNode()
    choose(hand, panel, "encoder")
    hand.click("useButton")
    assert json.loads(parameters.finetuneSettings)["init"] == str(encoder)
    assert not voco.section("finetuning").collapsed
    choose(hand, panel, "model")
    hand.click("useButton")
    assert parameters.model == str(model) and not voco.section("prediction").collapsed


def test_exporting_for_a_cluster_ends_with_a_word_or_an_error(voco, panel, hand, host, tmp_path):
    runKnown(tmp_path, "one")
    choose(hand, panel, "one")
    host.answers.give(str(tmp_path / "out"))
    hand.click("exportButton")
    hand.until(lambda: panel.poll() or "index.json" in voco.ui.errorLabel.text)


def test_space_is_listed_and_freed_on_consent(panel, hand, host, tmp_path):
    from VoCoSlicerLib.export_writer import MARK, MARKER

    runKnown(tmp_path, "one")
    runKnown(tmp_path, "paused", "stopped")
    folder = tmp_path / "runs" / "exported volumes"
    folder.mkdir()
    (folder / MARKER).write_text(json.dumps({"what": MARK}))
    (folder / f"volume-{'b' * 32}.nrrd").write_bytes(b"x" * 2_000_000)
    assert not hand.find("spaceFrame").isVisible()
    hand.click("spaceButton")

    def listed():
        panel.poll()
        return [row[1] for row in hand.rows("spaceTable")]

    hand.until(listed)
    assert listed() == ["volumes exported from scenes, needed to resume paused"]
    assert hand.rows("spaceTable")[0][2] == "2 MB"
    assert not hand.find("deleteButton").isEnabled()
    hand.checkRow("spaceTable", 0)
    host.answers.give("Cancel")
    hand.click("deleteButton")
    assert "2 MB" in host.answers.texts()[-1] and str(folder) in host.answers.texts()[-1] and folder.is_dir()
    host.answers.give("Delete")
    assert "cannot resume paused any more" in host.answers.texts()[-1]
    hand.click("deleteButton")
    hand.until(lambda: panel.poll() or not folder.exists())
    hand.until(lambda: not listed() and "nothing" in text(hand, "spaceLabel"))
    hand.click("closeSpaceButton")
    assert not hand.find("spaceFrame").isVisible()


def test_space_that_a_prediction_needs_cannot_be_chosen_nor_deleted(voco, panel, hand, host, tmp_path):
    from VoCoSlicerLib.export_writer import MARK, MARKER
    from VoCoSlicerLib.logic_steps import Steps

    runKnown(tmp_path, "one")
    work = Steps()
    work.what, work.volumes = "the prediction", tmp_path / "runs" / "exported volumes"
    work.volumes.mkdir()
    (work.volumes / MARKER).write_text(json.dumps({"what": MARK}))
    hand.click("spaceButton")
    hand.until(lambda: panel.poll() or hand.rows("spaceTable"))
    hand.checkRow("spaceTable", 0)
    voco.logic.working.add(work)  # it has begun since
    host.answers.give("Delete")
    hand.click("deleteButton")
    hand.until(lambda: panel.poll() or "is in use by the prediction" in voco.ui.errorLabel.text)
    hand.until(lambda: panel.poll() or "the prediction" in hand.find("spaceTable").item(0, 0).toolTip())
    assert (work.volumes / MARKER).exists() and not hand.find("deleteButton").isEnabled()


def test_the_timer_runs_only_while_it_must(voco, panel, hand, host, tmp_path):
    timer = panel._timer
    assert timer.isActive() and timer.interval == 1000
    host.exit("VoCoSlicer")
    panel.poll()
    assert not timer.isActive(), "nothing is open and nothing runs"
    host.enter("VoCoSlicer")
    run = runKnown(tmp_path, "going", "running", pid=os.getpid())
    panel.poll()
    host.exit("VoCoSlicer")
    panel.poll()
    assert timer.isActive(), "somebody wants to hear how it ends"
    host.enter("VoCoSlicer")
    shutil.rmtree(run)


def test_a_real_job_stopped_and_killed_by_hand(voco, panel, hand, host, tmp_path):
    cases = makeCohort(tmp_path / "cases")
    values = {**SMALL, "data.source": str(cases), "data.store": str(tmp_path / "store")}
    run = tmp_path / "runs" / "mine"
    voco.logic.jobs.start("pretrain", values, run, python=sys.executable)
    voco.selectRun(run)
    assert panel.selected == run and "starting" in text(hand, "stateLabel")

    def state():
        panel.poll()
        return {row[0]: row[2] for row in hand.rows("runsTable")}.get("mine")

    def step():
        panel.poll()
        return RunDirectory(run).read_status().step

    hand.until(lambda: state() == "running" and step() > 1, 200)
    assert "device: cpu" in text(hand, "stateLabel").lower(), "no silent processor"
    hand.click("stopButton")
    hand.until(lambda: state() == "stopped", 100)
    until(lambda: not RunDirectory(run).is_locked())
    assert "mine is stopped" in voco.ui.statusLabel.text
    before = step()
    hand.click("resumeButton")
    hand.until(lambda: state() == "running" and step() > before, 200)
    host.answers.give("Cancel")
    hand.click("killButton")
    assert state() == "running"
    host.answers.give("Kill")
    hand.click("killButton")
    hand.until(lambda: state() == "stopped", 60)
    assert "by force" in text(hand, "stateLabel")
