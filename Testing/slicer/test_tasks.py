"""Background commands: they never make anybody wait, end with their whole tree, and say in one line what went wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from VoCoCore.errors import DataError, EnvironmentFault, SettingsError, StopRequested, VocoError
from VoCoCore.runs import process
from VoCoSlicerLib import pythons
from VoCoSlicerLib.core import coreFolder
from VoCoSlicerLib.jobs import JobTable
from VoCoSlicerLib.logic import VoCoLogic
from VoCoSlicerLib.tasks import Task, explain

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX processes")


def script(text: str, *words: str, **options) -> Task:
    return Task(["-c", text, *words], sys.executable, plain=True, **options)


def until(condition, patience=60.0):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    return process.process_start(pid) is None


def test_a_command_of_this_voco_is_run_whatever_else_is_installed(tmp_path):
    fake = tmp_path / "VoCoCore"
    fake.mkdir()
    (fake / "__init__.py").write_text("raise SystemExit('a copy of somewhere else')")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    from VoCoCore import __version__

    assert Task(["--version"], sys.executable, environ, cwd=tmp_path).run(30).strip() == __version__
    assert coreFolder() != tmp_path


def test_neither_starting_nor_asking_nor_cancelling_waits(monkeypatch):
    task = script("import time; print('there', flush=True); time.sleep(60)")

    def never(*_, **__):
        raise AssertionError("it waits")

    def unwaited(action):
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", never)
            patch.setattr(subprocess.Popen, "wait", never)
            action()

    unwaited(task.start)
    until(lambda: task.poll().lines)
    for _ in range(20):
        unwaited(task.poll)
    unwaited(task.cancel)
    until(lambda: not task.poll().running)
    assert isinstance(task.error(), StopRequested)


def test_lines_come_as_they_are_printed_also_where_a_letter_is_torn():
    text = (
        "import sys, time; out = sys.stdout.buffer; word = 'Größe 3 µm\\n'.encode(); out.write(word[:3]); out.flush();"
        "time.sleep(0.3); out.write(word[3:] + b'half'); out.flush(); time.sleep(0.3); out.write(b' done')"
    )
    task = script(text).start()
    lines: list[str] = []
    until(lambda: lines.extend(now := task.poll().lines) or (bool(now) and task.running))
    assert lines == ["Größe 3 µm"], "a line is handed over when it is whole, and before the end"
    until(lambda: lines.extend((now := task.poll()).lines) or not now.running)
    assert lines == ["Größe 3 µm", "half done"]
    assert task.result() == "Größe 3 µm\nhalf done"
    assert task.poll().lines == (), "nothing is told twice"


def test_a_long_answer_comes_in_bearable_pieces():
    count = 3_000_000
    task, polls = script(f"print('x' * {count})").start(), 1
    while task.poll().running:
        polls += 1
        time.sleep(0.005)
    assert len(task.result()) == count + 1 and polls > 10


@posix
def test_cancelling_ends_all_that_was_started():
    text = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    task, lines = script(text).start(), []
    until(lambda: lines.extend(task.poll().lines) or lines)
    grandchild = int(lines[0])
    assert not gone(grandchild)
    task.cancel()
    until(lambda: not task.poll().running and gone(grandchild))
    assert task.cancelled


@posix
def test_cancelled_tasks_that_nobody_polls_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    handles = Path("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd")
    before, pids = len(list(handles.iterdir())), []
    for _ in range(6):
        task = script("import time; print('there'); time.sleep(60)").start()
        pids.append(task._child.pid)
        task.cancel()
        del task
    table = JobTable(sys.executable)  # a window asks it every second
    until(lambda: table.rows() == [] and not list(tmp_path.iterdir()))
    assert all(map(gone, pids)), "no process waits to be waited for"
    assert len(list(handles.iterdir())) <= before


@posix
def test_closing_ends_tasks_but_not_those_that_are_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ends, stays = (
        script("import time; time.sleep(60)").start(),
        script("import time; time.sleep(60)", keep=True).start(),
    )
    assert len(list(tmp_path.iterdir())) == 2
    VoCoLogic(scene=object()).cleanup()
    assert len(list(tmp_path.iterdir())) == 1, "nobody polls it any more"
    until(lambda: not ends.poll().running)
    assert stays.poll().running
    stays.cancel()
    until(lambda: not stays.poll().running)


@pytest.mark.parametrize(
    ("words", "kind", "part"),
    [
        (["data", "chek"], SettingsError, "Did you mean 'check'"),
        (["data", "index", "/no/such/folder", "-o", "x.json"], (DataError, SettingsError), "/no/such/folder"),
        (["jobs", "show", "/no/such/run"], SettingsError, "does not exist"),
    ],
)
def test_an_error_is_the_commands_own_line_and_hint(words, kind, part, tmp_path):
    task = Task(words, sys.executable, cwd=tmp_path)
    with pytest.raises(kind) as raised:
        task.run(60)
    assert part in str(raised.value) and raised.value.hint
    assert "voco:" not in str(raised.value) and "\n" not in str(raised.value)
    assert part.strip("'") in task.log or part in task.log


@pytest.mark.parametrize(
    ("code", "text", "kind", "message", "hint"),
    [
        (3, "voco: error: no images in /x  (name another)\n", DataError, "no images in /x", "name another"),
        (
            4,
            "noise\nvoco: error: out (of) memory  (use (less) of it)",
            EnvironmentFault,
            "out (of) memory",
            "use (less) of it",
        ),
        (5, "voco: stopped: at step 3  (go on)", StopRequested, "at step 3", "go on"),
        (1, "voco: defect: KeyError: 'x'  (this is ours)", VocoError, "KeyError: 'x'", "this is ours"),
        (2, "voco: error: no hint here", SettingsError, "no hint here", ""),
        (7, "some words", VocoError, "it ended with exit code 7: some words", "the log says more"),
        (1, "", VocoError, "it ended with exit code 1: it said nothing", "the log says more"),
        (
            1,
            '  File "probe.py", line 8\nSyntaxError: invalid syntax\n',
            EnvironmentFault,
            "this Python is too old: jobs need 3.11 to 3.13",
            "choose another Python for the jobs",
        ),
        (
            -11,
            "",
            EnvironmentFault,
            "the process crashed (SIGSEGV): a package in it may be broken",
            "choose another Python for the jobs",
        ),
    ],
)
def test_exit_codes_and_lines_become_errors_of_their_kind(code, text, kind, message, hint):
    error = explain(code, text)
    assert type(error) is kind and (error.message, error.hint) == (message, hint)


@pytest.mark.parametrize(
    "text",
    [
        "Traceback (most recent call last):\n  File ...\nModuleNotFoundError: No module named 'torch'",
        "voco: defect: ModuleNotFoundError: No module named 'torch'  (this is ours to mend)",
        "/usr/bin/python3: No module named torch",
    ],
)
def test_a_package_that_is_missing_is_not_called_a_defect(text):
    error = explain(1, text)
    assert isinstance(error, EnvironmentFault) and "torch" in error.message and "Environment" in error.hint


@posix
def test_a_killed_process_is_said_to_be_killed():
    task = script("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").start()
    until(lambda: not task.poll().running)
    assert isinstance(task.error(), EnvironmentFault) and "SIGKILL" in task.error().message
    assert task.poll().exitCode == -signal.SIGKILL


def test_a_python_that_is_not_there_is_said_at_once_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(EnvironmentFault, match="could not be started"):
        Task(["--version"], tmp_path / "no python here").start()
    assert not list(tmp_path.iterdir())


def test_files_of_a_task_are_gone_when_it_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    task = script("print(1)")
    assert task.run(30) == "1\n" and not list(tmp_path.iterdir())
    assert task.result() == "1\n"


def test_running_too_long_ends_it():
    task = script("import time; time.sleep(60)")
    with pytest.raises(EnvironmentFault, match="took longer"):
        task.run(0.3)
    until(lambda: not task.poll().running)


@posix
def test_a_python_that_is_too_old_is_said_to_be(tmp_path):
    """One that cannot run VoCoCore was said to lack a package, `Self` of typing."""
    old = tmp_path / "python"
    code = "import sys; code = sys.argv[2]; del sys.argv[1:3]; sys.version_info = (3, 9, 18); exec(code)"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    old.chmod(0o755)
    with pytest.raises(EnvironmentFault, match=r"too old: jobs need 3\.11 to 3\.13.*another Python"):
        Task(["--version"], old).run(30)


@posix
def test_a_python_in_a_folder_with_spaces_and_other_letters(tmp_path):
    folder = tmp_path / "Ünïcödé Python 日本 (3)"
    folder.mkdir()
    link = folder / "my python"
    link.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    link.chmod(0o755)
    for task in (Task(["--version"], link), Task(["-c", "print('ä')"], link, plain=True)):
        assert task.run(30).strip()


def test_which_python_runs_the_jobs(tmp_path, monkeypatch):
    monkeypatch.delenv(pythons.VARIABLE, raising=False)
    assert pythons.choosePython()[1] == "Slicer"
    monkeypatch.setenv(pythons.VARIABLE, str(tmp_path / "a b"))
    assert pythons.choosePython() == (str(tmp_path / "a b"), "VOCO_PYTHON")
    assert pythons.choosePython(" /chosen/python ") == (str(Path("/chosen/python")), "chosen")
    launcher = tmp_path / "PythonSlicer"
    launcher.write_text("#!/bin/sh\n")
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    if os.name == "posix":
        assert pythons.pythonSlicer() == str(launcher)


class Application:
    def __init__(self, home):
        self.slicerHome = str(home)

    def startupEnvironment(self):
        return None


def test_another_python_gets_the_environment_from_before_slicer(tmp_path, monkeypatch):
    home = tmp_path / "Slicer"
    (home / "bin").mkdir(parents=True)
    launcher = home / "bin" / "PythonSlicer"
    launcher.write_text("#!/bin/sh\n")
    launcher.chmod(0o755)
    monkeypatch.setattr("slicer.app", Application(home), raising=False)
    monkeypatch.setattr("slicer.util.startupEnvironment", lambda: {"PATH": "/bin", "LD_LIBRARY_PATH": ""})
    monkeypatch.setenv("LD_LIBRARY_PATH", str(home / "lib"))
    monkeypatch.setenv("VOCO_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("PYTHONHOME", str(home / "lib" / "Python"))
    if os.name == "posix":
        assert pythons.pythonSlicer() == str(launcher)
        assert pythons.environOf(launcher) is None, "Slicer's own needs Slicer's libraries"
    found = pythons.environOf("/usr/bin/python3")
    assert found["LD_LIBRARY_PATH"] == "" and found["PATH"] == "/bin"
    assert found["VOCO_CONFIG_HOME"] == str(tmp_path / "config")
    assert found["XDG_CACHE_HOME"] == str(tmp_path / "cache"), "prepared volumes would lie elsewhere"
    assert found["CUDA_VISIBLE_DEVICES"] == "1", "a script chooses the card of its jobs"
    assert "PYTHONHOME" not in found
