"""Start a job that lives on when its starter ends, and end one: first asked, then told, then killed.

The job is a process in a session of its own with its output in the run's log.txt. It runs the VoCoCore that
this file belongs to, whatever else is installed: a bootstrap puts the folder above first on ``sys.path``, and
PYTHONPATH does the same for the loader workers that it spawns.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from VoCoCore.errors import EnvironmentFault, SettingsError, kind_of
from VoCoCore.runs import files, known, process
from VoCoCore.runs.describe import at_work, end_is_missing
from VoCoCore.runs.directory import RunDirectory, check_usable, is_run
from VoCoCore.runs.status import ACTIVE

_ROOT = Path(__file__).resolve().parents[2]
_BOOTSTRAP = (
    "import runpy, sys; root, module = sys.argv[1:3]; del sys.argv[1:3]; "
    "sys.version_info < (3, 11) and [sys.stderr.write('voco: error: this Python is too old: jobs need 3.11 to 3.13'"
    " '  (choose another Python for the jobs)\\n'), sys.exit(4)]; "  # in words of any Python
    "sys.path[:] = [root, *(p for p in sys.path if p not in ('', root))]; "
    "runpy.run_module(module, run_name='__main__', alter_sys=True)"
)
_PAUSE = 0.05
_children: list[subprocess.Popen[bytes]] = []  # kept so that those that ended are waited for


class Launch:
    """A job on its way: `ready` asks whether it has reported, without waiting."""

    def __init__(
        self, run: RunDirectory, child: subprocess.Popen[bytes], before: object, log_start: int
    ) -> None:
        self.run = run
        self._child = child
        self._before = before
        self._log_start = log_start

    def ready(self) -> bool:
        """Whether the job has written its status; raises the job's own kind of error if it ended before."""
        code = self._child.poll()  # asked before the status: a job may report and end in between
        if _identity(self.run) != self._before:
            return True
        if code is None:
            return False
        line = self._last_line() or f"it ended with exit code {code} and said nothing"
        raise kind_of(code)(f"the job did not start: {line}", f"more in {self.run.log_file}")

    def cancel(self) -> None:
        """Kill the process that was started, with all that it started itself: for a job that has not reported yet."""
        if self._child.poll() is None:
            kill_tree(self._child.pid, wait=False)

    @property
    def exit_code(self) -> int | None:
        """The exit code of the process that was started, None while it runs; negative: the signal that killed it."""
        return self._child.poll()

    def output(self) -> str:
        """What it has printed since it was started, at most the last 64 kB."""
        with files.open_plain(self.run.log_file) as file:
            file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - 65_536))
            return file.read().decode("utf-8", errors="replace")

    def _last_line(self) -> str:
        return next((line.strip() for line in reversed(self.output().split("\n")) if line.strip()), "")


def start(
    path: str | Path,
    arguments: Sequence[str],
    *,
    python: str | Path = sys.executable,
    module: str = "VoCoCore",
    environ: Mapping[str, str] | None = None,
) -> Launch:
    """Start ``python -m module arguments`` as a job of its own that works on the run ``path``; do not wait.

    ``environ`` is what the job's environment starts from (None: this process's). The current folder stays the
    same, so that relative paths keep their meaning. Raises SettingsError where a job runs there already or
    the folder holds something else, EnvironmentFault where the log or Python cannot be opened.
    """
    run = RunDirectory(path)
    if run.is_locked():
        raise run.taken()
    if not is_run(run.path):
        check_usable(run.path)
    _children[:] = [child for child in _children if child.poll() is None]
    before = _identity(run)
    with files.writing(run.log_file):
        run.path.mkdir(parents=True, exist_ok=True)
        log = files.open_end(run.log_file)  # closed below, with the error of opening kept apart
    with log:
        log_start = log.tell()
        child = spawn(arguments, log, log, python=python, module=module, environ=environ)
    _children.append(child)
    return Launch(run, child, before, log_start)


def spawn(
    arguments: Sequence[str],
    output: BinaryIO,
    errors: BinaryIO,
    *,
    python: str | Path = sys.executable,
    module: str | None = "VoCoCore",
    environ: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, what it prints going to the two files given, and return it at once.

    It runs ``python -m module arguments`` with the VoCoCore that this file belongs to or, where ``module`` is
    None, plainly ``python arguments``. Raises EnvironmentFault where it cannot be started.
    """
    ours = [] if module is None else ["-c", _BOOTSTRAP, str(_ROOT), module]
    try:
        return subprocess.Popen(
            [str(python), *ours, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            cwd=cwd,
            env=_environment(environ, with_core=module is not None),
            **_detached(),
        )
    except OSError as error:
        hint = "choose another Python for the jobs"
        raise EnvironmentFault(f"{python} could not be started: {error.strerror}", hint) from error


def launch(
    path: str | Path, arguments: Sequence[str], *, timeout: float = 120.0, **options: Any
) -> RunDirectory:
    """Start a job (see `start`) and return its run as soon as the job has reported; it is then a known run.

    Raises the job's kind of error, with its last line, if it ended before; EnvironmentFault if it said
    nothing for ``timeout`` seconds (it is left alone: it may still be loading).
    """
    started = start(path, arguments, **options)
    if not _happens(started.ready, timeout):
        hint = f"it may still be starting: see {started.run.log_file}"
        raise EnvironmentFault(f"the job said nothing for {timeout:.0f} s", hint)
    known.remember(started.run.path)
    return started.run


def check_resumable(run: RunDirectory) -> None:
    """Raise SettingsError where a run is finished, or where a job works on it or still writes its last files.

    A finished one that lacks its last look or its report may be gone on with.
    """
    status, state = run.read_status(), run.state()
    if state == "finished" and not end_is_missing(run):
        raise SettingsError(
            f"{run.path} is finished: there is nothing to go on with",
            "start a new run, with more optim.steps, to train for longer",
        )
    # A job on another machine may be alive though its lock does not show here: the new job watches for that.
    elsewhere = status is not None and status.host != process.host_name()
    if run.is_locked() or (state in ACTIVE and not elsewhere):
        raise run.taken()


def stop(run: RunDirectory, grace: float = 30.0) -> str:
    """End the job in three steps, ``grace`` seconds apart (ask, end, kill), and return the run's state.

    Asking leads to a checkpoint. Raises SettingsError where the job runs on another machine and has not
    stopped within ``grace`` (it stays asked).
    """
    if not at_work(run):
        return run.state()
    run.request_stop()
    if not _has_ended(run, grace):
        terminate(run)
        if not _has_ended(run, grace):
            kill(run)
    _happens(lambda: not run.is_locked(), grace)  # it has said so, now it may tidy up
    return _marked(run)


def terminate(run: RunDirectory) -> None:
    """Tell the job's process to end. Its workers end with it: told themselves, they would take the data away
    from a job that is writing its last checkpoint.
    """
    if pid := _verified_pid(run):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def kill(run: RunDirectory) -> str:
    """Kill the job with all its processes and return the run's state; the last checkpoint stays.

    Only a process whose host and start time are those of the status is touched. Raises SettingsError where
    the job runs on another machine, EnvironmentFault where it cannot be killed.
    """
    if pid := _verified_pid(run):
        kill_tree(pid)
        # A thread may hold the lock for a moment longer than the process has a number.
        if not _happens(lambda: _verified_pid(run) is None and not run.is_locked(), 5.0):
            raise EnvironmentFault(f"process {pid} could not be killed", "it may belong to another user")
    return _marked(run)


def _verified_pid(run: RunDirectory) -> int | None:
    """Return the job's process number, None if it is gone.

    Raises SettingsError if it is on another machine, EnvironmentFault if another process may have its number.
    """
    status = run.read_status()
    if status is None or not (status.active or run.is_locked()):
        return None
    if status.host != process.host_name():
        hint = "it stops after its current step if it was asked to; end it on that machine otherwise"
        raise SettingsError(f"the job in {run.path} runs on {status.host}, out of reach from here", hint)
    # In this order: a process may end between the two questions.
    if process.is_same(status.pid, status.process_start):
        return status.pid
    if process.is_gone(status.pid, status.process_start):
        return None
    hint = "look at it and end it by hand"
    raise EnvironmentFault(f"this system does not say whether process {status.pid} is the job", hint)


def kill_tree(pid: int, *, wait: bool = True) -> None:
    """Kill process ``pid`` with all that it started: its descendants, and its session if it leads one.

    Windows has a program for this, which takes a while: without ``wait`` it is started, and then a moment may pass.
    """
    if sys.platform == "win32":
        words, nothing = ["taskkill", "/PID", str(pid), "/T", "/F"], subprocess.DEVNULL
        flags = subprocess.CREATE_NO_WINDOW
        killer = subprocess.Popen(words, stdin=nothing, stdout=nothing, stderr=nothing, creationflags=flags)
        if wait:
            killer.wait()
        else:
            _children.append(killer)
        return
    tree = [pid, *process.descendants(pid)]
    with suppress(ProcessLookupError, PermissionError):  # the caller looks at the result
        if os.getsid(pid) == pid:  # launched detached: reaches those whose parent is gone already
            os.killpg(pid, signal.SIGKILL)
    for member in tree:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(member, signal.SIGKILL)


def _marked(run: RunDirectory) -> str:
    """Where a job was ended by force, write that it is stopped: it was wanted so, nobody lost anything."""
    if run.state() == "lost":
        with suppress(SettingsError), run.lock():
            run.write_status("stopped", message="ended by force; resuming goes on from the last checkpoint")
            run.clear_stop()
    return run.state()


def _has_ended(run: RunDirectory, patience: float) -> bool:
    return _happens(lambda: not at_work(run), patience)


def _happens(condition: Callable[[], bool], patience: float) -> bool:
    """Wait up to ``patience`` seconds for ``condition``."""
    give_up = time.monotonic() + patience
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(_PAUSE)
    return True


def _identity(run: RunDirectory) -> tuple[str, int, str] | None:
    status = run.read_status()
    return status.identity if status else None


def _environment(environ: Mapping[str, str] | None, with_core: bool = True) -> dict[str, str]:
    base = dict(os.environ if environ is None else environ)
    base |= {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    if not with_core:
        return base
    folders = [str(_ROOT), *filter(None, [base.get("PYTHONPATH")])]
    # The job's output is log.txt already.
    return base | {"PYTHONPATH": os.pathsep.join(folders), "VOCO_DETACHED": "1"}


def _detached() -> dict[str, Any]:
    if sys.platform == "win32":
        # With DETACHED_PROCESS beside it, CREATE_NO_WINDOW would be ignored: a child of a virtual environment's Python
        # would then get a window, and closing that would end the job.
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}
