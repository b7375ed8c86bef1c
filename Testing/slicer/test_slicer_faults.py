"""What goes wrong on other people's machines: each time one line that says what, and a hint how to mend it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from made_jobs import SMALL, makeCohort, makeRun, started, train, until
from made_python import makePython

from VoCoCore.errors import EnvironmentFault, SettingsError
from VoCoCore.runs import known
from VoCoCore.runs.directory import RunDirectory
from VoCoSlicerLib.core import MODULE_FOLDER, CoreMissing, coreFolder
from VoCoSlicerLib.jobs import JobTable
from VoCoSlicerLib.tasks import Task

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX processes and shells")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return makeCohort(tmp_path_factory.mktemp("cohort") / "cases")


@pytest.fixture
def values(cohort, tmp_path):
    return {**SMALL, "data.source": str(cohort), "data.store": str(tmp_path / "store")}


def state(table, run):
    return {row.path: row.state for row in table.rows()}.get(run, "")


def failed(table, run, patience=200):
    until(lambda: state(table, run) == "failed", patience)
    return table.error(run)


def wrapper(folder: Path, *lines: str) -> Path:
    """A Python behind a script, in a folder with blanks and other letters."""
    place = folder / "Mein Python 日本 (3)"
    place.mkdir(parents=True)
    script = place / "python à lui"
    script.write_text("\n".join(["#!/bin/sh", *lines, f'exec "{sys.executable}" "$@"', ""]), encoding="utf-8")
    script.chmod(0o755)
    return script


def test_a_module_without_its_trainer_says_where_it_looked(tmp_path):
    shutil.copytree(MODULE_FOLDER / "VoCoSlicerLib", tmp_path / "VoCoSlicer" / "VoCoSlicerLib")
    with pytest.raises(CoreMissing, match="install the VoCo extension again"):
        coreFolder(tmp_path / "VoCoSlicer")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import VoCoSlicerLib"
    words = [sys.executable, "-I", "-c", code, str(tmp_path / "VoCoSlicer")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "CoreMissing" in last and str(tmp_path) in last


def test_a_python_without_torch_is_named_with_the_way_out(tmp_path, values, cohort, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    bare, table = makePython(tmp_path / "bare", pip=False), JobTable()
    table.start("pretrain", values, tmp_path / "run", python=bare)
    error = failed(table, tmp_path / "run", 60)
    assert isinstance(error, EnvironmentFault) and "lacks a package" in error.message
    assert "Environment" in error.hint and "defect" not in str(error)
    task = Task(["data", "check", cohort], bare)
    with pytest.raises(EnvironmentFault, match="lacks a package"):
        task.run(60)


@pytest.mark.parametrize(
    "code",
    ["raise ImportError('libtorch_cpu.so: cannot open shared object file')", "from torch.nowhere import x"],
)
def test_a_half_installed_torch_is_the_environments_fault(tmp_path, values, monkeypatch, code):
    (tmp_path / "site" / "torch").mkdir(parents=True)
    (tmp_path / "site" / "torch" / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    table = JobTable(sys.executable)
    table.start("pretrain", values, tmp_path / "run")
    error = failed(table, tmp_path / "run", 60)
    assert isinstance(error, EnvironmentFault) and "torch" in error.message and "Environment" in error.hint


def hasEnded(pid) -> bool:
    """Whether a process is gone, or waits only to be asked how it ended: it may be a child of this one."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@posix
def test_a_killed_trainer_is_lost_and_goes_on_and_a_deleted_folder_ends_it(tmp_path, values):
    python = wrapper(tmp_path)
    table, run = JobTable(python), tmp_path / "Läufe (1)" / "mein Lauf"
    table.start("pretrain", {**values, "run.checkpoint_every": 2}, run)
    until(lambda: table.rows() and table.row(run).step > 4, 200)
    os.kill(RunDirectory(run).read_status().pid, signal.SIGKILL)
    until(lambda: state(table, run) == "lost", 100)
    error = table.error(run)
    assert (
        isinstance(error, EnvironmentFault)
        and "lost" in error.message
        and "checkpoint is of step" in error.hint
    )

    table.resume(run, python)
    until(lambda: state(table, run) == "running" and table.row(run).step > 4, 200)
    pid = RunDirectory(run).read_status().pid
    # What the trainer writes meanwhile can keep the folder alive: it is deleted until it stays away.
    until(lambda: shutil.rmtree(run, ignore_errors=True) or hasEnded(pid), 100)
    shutil.rmtree(run, ignore_errors=True)
    assert state(table, run) == "gone" and table.error(run) is None and table.log(run) == ""


@posix
def test_a_full_disk_is_said_by_the_job(tmp_path, values):
    table, run = JobTable(wrapper(tmp_path, "ulimit -f 40")), tmp_path / "run"
    table.start("pretrain", {**values, "run.checkpoint_every": 1}, run)
    error = failed(table, run)
    assert (
        isinstance(error, EnvironmentFault)
        and "disk is full" in error.message
        and "free some space" in error.hint
    )


@posix
def test_a_full_disk_while_a_command_speaks_does_no_harm(tmp_path):
    python = wrapper(tmp_path, "ulimit -f 4")
    task = Task(["-c", "print('x' * 100_000, flush=True)"], python, plain=True)
    with pytest.raises(Exception, match=r"File too large|exit code"):
        task.run(30)
    assert len(task.result()) <= 4096


def test_garbage_in_the_events_harms_neither_table_nor_plot(tmp_path, scene):
    from VoCoSlicerLib.plots import RunPlots

    run = makeRun(tmp_path / "run", events=[started(), train(1, 2.0)])
    known.remember(run)
    with open(run / "events.jsonl", "ab") as file:
        file.write(
            b'\xff\xfe\x00\n{"type": "metrics", "split": "train", "step": "x", "values": {"loss": [1]}}\n[[[\n'
        )
        file.write(
            b'{"v": 1, "type": "metrics", "split": "train", "step": 2, "values": {"loss": 1.5}}\n{"half'
        )
    table = JobTable()
    assert table.rows()[0].loss == 1.5
    follower, plots = table.follower(run), RunPlots(scene)
    follower.read_all()
    plots.update(follower)
    found = plots.charts["loss"].GetNthPlotSeriesNode(0).GetTableNode().GetTable()
    values = [found.GetValueByName(n, "training loss").ToDouble() for n in range(found.GetNumberOfRows())]
    assert values == [2.0, 1.5]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_that_may_not_be_written(tmp_path, values):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(EnvironmentFault, match="permission denied"):
        JobTable(sys.executable).start("pretrain", values, closed / "run")


def test_a_folder_that_is_a_file_or_holds_something_else(tmp_path, values):
    table = JobTable(sys.executable)
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    for place in ("file", "full", "file/below"):
        with pytest.raises((SettingsError, EnvironmentFault)) as raised:
            table.start("pretrain", values, tmp_path / place)
        assert raised.value.hint and str(tmp_path) in raised.value.message
    assert (tmp_path / "full" / "thesis.txt").read_text() == "x" and table.rows() == []


def test_a_look_that_cannot_be_started_is_tried_again_later(tmp_path, monkeypatch):
    table = JobTable()
    table.addFolder(tmp_path)
    monkeypatch.setattr("VoCoSlicerLib.job_list.pythonSlicer", lambda: str(tmp_path / "no python"))
    assert table.rows() == [], "a timer has nobody to raise to"


def test_where_the_list_of_runs_cannot_be_written_the_session_still_knows_them(tmp_path, monkeypatch):
    (tmp_path / "config").write_text("a file")
    monkeypatch.setenv("VOCO_CONFIG_HOME", str(tmp_path / "config"))
    run, table = makeRun(tmp_path / "run"), JobTable()
    table.list.remember(run)
    assert [row.path for row in table.rows()] == [run]
    with pytest.raises(EnvironmentFault, match="could not be written"):
        table.addFolder(run)
    table.forget(run)
    assert table.rows() == []
