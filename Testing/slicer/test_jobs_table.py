"""The table of jobs: what it says of runs in every state, how little it reads, and what can be done with real jobs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import time
from types import SimpleNamespace

import pytest
from made_jobs import SMALL, makeCohort, makeRun, progress, started, train, until, val, write

from VoCoCore.errors import DataError, EnvironmentFault, SettingsError
from VoCoCore.runs import describe, known, process
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.lock import FileLock
from VoCoCore.runs.privacy import keep_error
from VoCoSlicerLib import jobs
from VoCoSlicerLib.job_rows import RunReader
from VoCoSlicerLib.jobs import JobTable
from VoCoSlicerLib.logic import VoCoLogic


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("VOCO_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for limit in ("BUDGET", "LONGEST"):
        monkeypatch.setattr(jobs, limit, 60.0)  # so that on a busy machine too a call reads all
    return tmp_path / "config"


def activeRuns(table):
    logic = VoCoLogic(scene=object())
    vars(logic)["jobs"] = table
    return logic.activeRuns()


def shown(table, path):
    return {row.path: row for row in table.rows()}.get(path)


def test_a_finished_run_is_shown_with_its_last_figures(tmp_path):
    events = [
        started(),
        train(10, 2.5),
        progress(10),
        val(10, position_accuracy=0.3, loss=9.0),
        train(20, 1.25),
    ]
    run = makeRun(tmp_path / "one", step=20, events=events)
    known.remember(run)
    row = JobTable().rows()[0]
    assert (row.path, row.name, row.kind, row.state) == (run, "one", "pretrain", "finished")
    assert (row.step, row.total, row.loss, row.score) == (20, 1000, 1.25, 0.3)
    assert row.rate is None and row.etaSeconds is None, "nothing is left to do"
    assert row.local and row.host == process.host_name() and row.device == "CPU, 2 threads"


def test_a_run_under_way_has_rate_and_time_left_and_changes_with_its_files(tmp_path):
    events = [started(), train(10, 2.5), progress(30, rate=2.5, eta=40.0)]
    run = makeRun(tmp_path / "one", "running", step=20, events=events, pid=os.getpid())
    known.remember(run)
    table = JobTable()
    row = shown(table, run)
    assert (row.state, row.step, row.rate, row.etaSeconds, row.loss) == ("running", 30, 2.5, 40.0, 2.5)
    assert row.active and activeRuns(table) == [row]
    write(run, [train(40, 0.5), progress(40, eta=20.0)], "a")
    row = shown(table, run)
    assert (row.step, row.etaSeconds, row.loss) == (40, 20.0, 0.5)
    RunDirectory(run).request_stop()
    assert shown(table, run).state == "stopping"
    (run / "settings.json").write_text(json.dumps({"patches": {}}))
    assert shown(JobTable(), run).kind == "finetune"


def test_going_back_to_a_checkpoint_takes_figures_back(tmp_path):
    events = [started(), train(10, 2.0), val(10, dice=0.5), train(20, 1.0), val(20, dice=0.9), started(10, 2)]
    run = makeRun(tmp_path / "one", "stopped", events=events)
    known.remember(run)
    row = shown(JobTable(), run)
    assert (row.loss, row.score) == (2.0, 0.5), "what was said of step 20 no longer holds"


def test_a_killed_job_is_lost_and_said_to_be(tmp_path):
    run = makeRun(tmp_path / "one", "running", events=[started()])
    known.remember(run)
    table = JobTable()
    row = shown(table, run)
    assert row.state == "lost" and "killed" in row.message and not row.active
    error = table.error(run)
    assert isinstance(error, EnvironmentFault) and "lost" in error.message
    assert "there is no checkpoint" in error.hint and "Resume" in error.hint


def test_the_error_of_a_failed_run_is_its_own_line_kind_and_hint(tmp_path):
    event = {"type": "error", "kind": "DataError", "message": "case-7 is empty", "hint": "take it out"}
    run = makeRun(tmp_path / "one", "failed", events=[started(), event], message="case-7 is empty")
    other = makeRun(tmp_path / "two", "failed", events=[event, started(), started()], message="no room")
    for path in (run, other):
        known.remember(path)
    table = JobTable()
    error = table.error(run)
    assert isinstance(error, DataError) and "case-7 is empty" in error.message and "take it out" in error.hint
    assert "no room" in table.error(other).message and "take it out" not in str(table.error(other))
    (run / "private").mkdir()
    keep_error(RunDirectory(run), "case-7 is empty", "MEIER is empty", "take MEIER out")
    assert "MEIER is empty" in (named := str(JobTable().error(run))) and "take MEIER out" in named
    assert table.error(makeRun(tmp_path / "three")) is None


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\xfe not json\n",
        b"[1, 2]\n5\nnull\n",
        b'{"type": 7}\n{"type": "metrics", "values": 3}\n',
        b'{"half',
    ],
)
def test_garbage_in_events_and_status_harms_nobody(tmp_path, garbage):
    run = makeRun(tmp_path / "one", events=[started(), train(10, 2.5)])
    with open(run / "events.jsonl", "ab") as file:
        file.write(garbage)
    other = makeRun(tmp_path / "two")
    (other / "status.json").write_bytes(garbage)
    for path in (run, other):
        known.remember(path)
    table = JobTable()
    until(lambda: len(table.rows()) == 2)
    assert shown(table, run).loss == 2.5 and shown(table, other).state == "lost"
    assert table.error(run) is None and table.error(other).exit_code == 4


def test_only_the_end_of_a_long_history_is_read(tmp_path, monkeypatch):
    run = makeRun(
        tmp_path / "one",
        events=[started(), *(train(step, 1.0) for step in range(20_000)), train(20_000, 0.75)],
    )
    known.remember(run)
    read, loads = [], json.loads
    monkeypatch.setattr(
        "VoCoCore.runs.events.json.loads", lambda text, **how: read.append(text) or loads(text, **how)
    )
    table = JobTable()
    assert until(table.rows, 60, 0.0)[0].loss == 0.75
    assert 0 < len(read) < 1000


def test_a_hundred_runs_in_all_states_are_shown(tmp_path):
    for number in range(100):
        state = ("running", "finished", "stopped", "failed")[number % 4]
        events = [started(), *(train(step, 1.0) for step in range(50)), progress(50)]
        known.remember(makeRun(tmp_path / f"r{number}", state, events=events, pid=os.getpid()))
    table = JobTable()
    rows = until(lambda: len(now := table.rows()) == 100 and now, 120, 0.0)
    assert {row.state for row in rows} == {"running", "finished", "stopped", "failed"}


def test_on_a_slow_disk_a_call_reads_a_few_runs_and_the_next_ones_go_on(tmp_path, monkeypatch):
    for number in range(30):
        known.remember(makeRun(tmp_path / f"r{number}"))
    reading, refresh = [], RunReader.refresh

    def slowly(reader, until):
        reading.append(reader.run.name)
        time.sleep(0.003)
        return refresh(reader, until)

    monkeypatch.setattr(RunReader, "refresh", slowly)
    monkeypatch.setattr(jobs, "BUDGET", 0.008)
    table = JobTable()
    table.rows()
    assert 1 <= len(reading) <= 3, "as many as the budget of 8 ms allows"
    until(lambda: len(table.rows()) == 30, 60, 0.0)
    assert len(reading) < 90 and set(reading) == {f"r{number}" for number in range(30)}


def test_a_call_reads_each_run_once(tmp_path, monkeypatch):
    for name, state in (("going", "running"), ("done", "finished"), ("stopped", "stopped")):
        known.remember(makeRun(tmp_path / name, state, pid=os.getpid()))
    reading, refresh = [], RunReader.refresh
    monkeypatch.setattr(
        RunReader, "refresh", lambda reader, end: reading.append(reader.run.name) or refresh(reader, end)
    )
    table = JobTable()
    for _ in range(2):
        reading.clear()
        table.rows()
        assert sorted(reading) == ["done", "going", "stopped"]


def test_the_checkpoints_of_a_failed_run_are_looked_through_once(tmp_path, monkeypatch):
    run = makeRun(tmp_path / "one", "failed", message="no room")
    looks, words = [], describe.checkpoint_words
    monkeypatch.setattr(describe, "checkpoint_words", lambda run: looks.append(1) or words(run))
    table = JobTable()
    assert table.error(run) is table.error(run) and len(looks) == 1
    (run / "checkpoints" / "step-7").mkdir(parents=True)
    (run / "checkpoints" / "step-7" / "manifest.json").write_text('{"step": 7}')
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "step": 700}))
    assert "of step 7" in table.error(run).hint


def test_a_run_whose_folder_is_deleted_is_said_to_be_gone(tmp_path):
    run = makeRun(tmp_path / "one", "running", pid=os.getpid())
    known.remember(run)
    table = JobTable()
    assert shown(table, run).state == "running"
    shutil.rmtree(run)
    row = shown(table, run)
    assert (
        row.state == "gone" and not row.active and table.log(run) == "" and table.follower(run).poll() == []
    )
    assert JobTable().rows() == [], "after a restart it is not there any more"
    table.forget(run)
    assert table.rows() == []


def test_folders_added_by_hand_are_looked_through_in_the_background(tmp_path):
    far = tmp_path / "cluster"
    one = makeRun(far / "a" / "one", host="node7")
    table = JobTable()
    with pytest.raises(SettingsError, match="not a folder"):
        table.addFolder(tmp_path / "nowhere")
    table.addFolder(far)
    row = until(lambda: shown(table, one))
    assert row.host == "node7" and not row.local
    two = makeRun(far / "two")
    assert shown(table, two) is None
    table.list.refresh()
    until(lambda: shown(table, two))
    assert JobTable().list.folders() == [far], "remembered for the next session"
    table.forget(one)
    assert shown(table, one) is None and one.is_dir()
    table.addFolder(far)
    until(lambda: shown(table, one))


def test_a_run_added_by_hand_is_a_known_run(tmp_path):
    run = makeRun(tmp_path / "one")
    JobTable().addFolder(run)
    assert known.known_runs() == [run] and shown(JobTable(), run).state == "finished"


def test_log_report_and_result(tmp_path):
    run, table = makeRun(tmp_path / "one"), JobTable()
    assert (table.log(run), table.report(run), table.result(run)) == ("", None, None)
    (run / "log.txt").write_text("old line\n" * 10_000 + "Grüße <b>x</b> & more\n", encoding="utf-8")
    log = table.log(run)
    assert log.endswith("Grüße <b>x</b> & more\n") and log.startswith("old line\n") and len(log) < 70_000
    (run / "report.html").write_text("x")
    (run / "weights").mkdir()
    (run / "weights" / "encoder.safetensors").write_bytes(b"")
    assert table.report(run) == run / "report.html"
    assert table.result(run) == ("encoder", run / "weights" / "encoder.safetensors")
    (run / "weights" / "model.safetensors").write_bytes(b"")
    assert table.result(run)[0] == "model"


def test_a_job_that_cannot_start_is_a_row_with_its_line(tmp_path):
    table, run = JobTable(sys.executable), tmp_path / "new"
    launched = table.start("pretrain", {**SMALL, "optim.steps": -3}, run)
    assert shown(table, run).state == "starting" and shown(table, run).active
    row = until(lambda: (row := shown(table, run)) and row.state == "failed" and row)
    error = table.error(run)
    assert isinstance(error, SettingsError) and "optim.steps" in error.message and "\n" not in error.message
    assert row.message == error.message and not row.active
    with pytest.raises(SettingsError):
        launched.ready()
    table.forget(run)
    assert shown(table, run) is None


def test_what_starting_leaves_behind_is_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    table, run = JobTable(sys.executable), tmp_path / "new"
    with pytest.raises(EnvironmentFault, match="could not be started"):
        table.start("pretrain", SMALL, run, python=tmp_path / "no python")
    table.start("pretrain", {**SMALL, "optim.steps": -3}, run)
    until(lambda: shown(table, run).state == "failed")
    assert not list((tmp_path / "temporary").iterdir())


def test_no_room_for_the_settings_of_a_job_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    table, run = JobTable(sys.executable), tmp_path / "new"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(EnvironmentFault, match="gone"):
        table.start("pretrain", SMALL, run)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def full(*_words, **_more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("json.dump", full)
    with pytest.raises(EnvironmentFault, match="full"):
        table.start("pretrain", SMALL, run)
    assert not list(tmp_path.iterdir())


def test_a_script_that_never_looks_at_the_table_knows_which_of_its_jobs_still_run(tmp_path, monkeypatch):
    run, begun = tmp_path / "one", []
    monkeypatch.setattr(jobs, "Starting", lambda run, *_: SimpleNamespace(run=run, ready=lambda: bool(begun)))
    table = JobTable(sys.executable)
    table.start("pretrain", {}, run)
    assert [row.state for row in activeRuns(table)] == ["starting"]
    makeRun(run, "running", pid=os.getpid())
    begun.append(True)
    assert [row.state for row in activeRuns(table)] == ["running"]
    RunDirectory(run).write_status("finished")
    assert activeRuns(table) == []


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX processes")
def test_a_real_job_is_started_stopped_resumed_and_killed(tmp_path):
    values = {
        **SMALL,
        "data.source": str(makeCohort(tmp_path / "cases")),
        "data.store": str(tmp_path / "store"),
    }
    table, run = JobTable(sys.executable), tmp_path / "Läufe 1" / "mein Lauf"
    table.start("pretrain", values, run)
    assert shown(table, run).state in ("starting", "preparing"), "starting waits for nothing"
    until(lambda: shown(table, run).step > 2, 200)
    row = shown(table, run)
    assert row.state == "running" and row.kind == "pretrain" and row.local and row.loss > 0
    assert known.known_runs() == [run] and [each.path for each in activeRuns(table)] == [run]
    with pytest.raises(SettingsError, match="a job is running"):
        table.start("pretrain", values, run)
    assert shown(JobTable(), run).state == "running", "another session finds it"

    table.stop(run)
    assert shown(table, run).state in ("stopping", "stopped")
    assert table.ending(run) is None, "nothing ends it by force, however long its step takes"
    until(lambda: shown(table, run).state == "stopped", 60)
    reached = shown(table, run).step
    until(lambda: not RunDirectory(run).is_locked(), 60)
    assert table.error(run) is None

    table.resume(run)
    until(lambda: shown(table, run).step > reached, 200)
    pid = RunDirectory(run).read_status().pid
    table.kill(run)
    until(lambda: shown(table, run).state == "stopped")
    assert process.process_start(pid) is None and "by force" in shown(table, run).message
    until(lambda: shown(table, run) and table.ending(run) is None)


def test_a_kill_that_fails_is_a_complaint_and_no_failure_of_the_run(tmp_path):
    run = makeRun(tmp_path / "one", "running", events=[started()], host="node7")
    known.remember(run)
    table = JobTable()
    table.kill(run)
    until(lambda: table.rows() and table.ending(run) is None)
    ((place, error),) = table.complaints
    assert place == run and isinstance(error, SettingsError) and "runs on node7" in error.message
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "state": "stopped"}))
    assert shown(table, run).state == "stopped" and table.error(run) is None


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX processes")
def test_a_start_can_be_taken_back_before_the_job_reports(tmp_path):
    table, run = JobTable(sys.executable), tmp_path / "new"
    launched = table.start("pretrain", {**SMALL, "data.source": str(tmp_path)}, run)
    pid = launched._launch._child.pid
    assert table.kill(run) is None
    until(lambda: process.process_start(pid) is None)
    assert shown(table, run) is None


def test_resuming_what_is_finished_is_refused(tmp_path):
    run = makeRun(tmp_path / "one")
    with pytest.raises(SettingsError, match="nothing to go on with"):
        JobTable().resume(run)
    with pytest.raises(SettingsError, match="not a run"):
        JobTable().resume(tmp_path)


def test_a_stopped_run_is_resumable_once_its_job_has_written_its_last_files(tmp_path):
    run = makeRun(tmp_path / "one", "stopped")
    known.remember(run)
    table, job = JobTable(), FileLock(run / "run.lock")
    assert job.acquire()
    assert shown(table, run).locked and not shown(table, run).resumable
    with pytest.raises(SettingsError, match="a job is running"):
        table.resume(run)
    job.release()
    assert not shown(table, run).locked and shown(table, run).resumable
    assert not table.row(makeRun(tmp_path / "two")).resumable


def test_an_export_for_a_cluster_is_a_task(tmp_path):
    run = makeRun(tmp_path / "one")
    task = JobTable(sys.executable).exportForCluster(run, tmp_path / "out")
    until(lambda: not task.poll().running)
    assert isinstance(task.error(), SettingsError) and "index.json" in task.error().message
