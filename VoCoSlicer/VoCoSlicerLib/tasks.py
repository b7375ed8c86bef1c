"""Short background work: one ``voco`` command, script or pip call that is not a run, and that nobody waits for.

The process lies in a session of its own and writes to two files, which `Task.poll` reads as far as they have come: no
threads, no pipe that fills up, no waiting, so that a timer of a window can do it.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from VoCoCore.errors import EnvironmentFault, StopRequested, VocoError, kind_of
from VoCoCore.runs import launch
from VoCoCore.runs.files import writing
from VoCoSlicerLib.pythons import choosePython, environOf

INSTALL_HINT = "install what is missing in the section Environment, or choose another Python there"
_ANOTHER = "choose another Python for the jobs"
_CRASHES = ("SIGSEGV", "SIGILL", "SIGFPE")  # not for want of memory, as most others
_SAID = re.compile(r"voco: (?:error|stopped|defect): (?P<message>.*?)(?:  \((?P<hint>.*)\))?")
_MISSING = re.compile(
    r"(?:\w+\.)*(?:ModuleNotFoundError|ImportError): (?P<what>.*)|.*: (?P<module>No module named .*)"
)
_AT_ONCE = 1 << 18  # bytes of each file that one poll reads
_KEPT = 5000  # lines for the log
_PAUSE = 0.02  # seconds
_running: set[Task] = set()
# Cancelled, and not seen to have ended: who cancels a task often polls it no more.
_leaving: set[Task] = set()


def orderFile(prefix: str, content: object) -> Path:
    """``content`` as a new temporary JSON file for its user alone; EnvironmentFault where there is no room."""
    folder = Path(tempfile.gettempdir())
    with writing(folder):
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".json", dir=folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    return Path(name)


@dataclass(frozen=True)
class TaskState:
    """How a task stands. ``exitCode`` is None while it runs; ``lines`` are those printed since the last `Task.poll`."""

    running: bool
    exitCode: int | None
    lines: tuple[str, ...] = ()


class Task:
    """One background ``voco ARGUMENTS`` in the Python of the jobs (None: the one that `choosePython` finds).

    ``environ`` is what its environment starts from (None: what that Python needs). With ``plain`` the arguments go to
    Python itself: a script's path or ``-m pip``; with ``keep`` it goes on when Slicer is closed. Call `start`, then
    `poll` until it no longer runs.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        python: str | Path | None = None,
        environ: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        plain: bool = False,
        keep: bool = False,
    ) -> None:
        self.arguments = [str(word) for word in arguments]
        self.python = str(python or choosePython()[0])
        self._environ = environ
        self._cwd = cwd
        self._keep = keep
        self._module = None if plain else "VoCoCore"
        self._child: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._streams: list[_Stream] = []
        self._code: int | None = None
        self._cancelled = False
        self._log: deque[str] = deque(maxlen=_KEPT)

    def start(self) -> Task:
        """Start it and return it. Raises EnvironmentFault where Python or a temporary file cannot be opened."""
        assert self._child is None, "a task starts once"
        reap()
        environ = environOf(self.python) if self._environ is None else self._environ
        with writing(Path(tempfile.gettempdir())):
            self._folder = Path(tempfile.mkdtemp(prefix="voco-"))
        names = [self._folder / "output.txt", self._folder / "errors.txt"]
        try:
            with writing(names[0]), open(names[0], "wb") as output, open(names[1], "wb") as errors:
                self._child = launch.spawn(
                    self.arguments,
                    output,
                    errors,
                    python=self.python,
                    module=self._module,
                    environ=environ,
                    cwd=self._cwd,
                )
        except VocoError:
            self._tidy()
            raise
        self._streams = [_Stream(name) for name in names]
        if not self._keep:
            _running.add(self)
        return self

    def poll(self) -> TaskState:
        """Read what is new, at most a quarter of a megabyte of each stream; takes a millisecond."""
        reap(but=self)
        return self._advance()

    def _advance(self) -> TaskState:
        if self._child is None:
            return TaskState(False, None)
        if self._code is not None:
            return TaskState(False, self._code)
        code = self._child.poll()  # asked before reading, so that what it says last is read
        lines = [line for stream in self._streams for line in stream.read()]
        if code is not None and all(stream.atEnd for stream in self._streams):
            lines += [line for stream in self._streams for line in stream.close()]
            self._code = code
            self._tidy()
        self._log.extend(lines)
        return TaskState(self._code is None, self._code, tuple(lines))

    @property
    def running(self) -> bool:
        """Whether it is started and has not ended, as far as polled."""
        return self._child is not None and self._code is None

    @property
    def cancelled(self) -> bool:
        """Whether somebody has called `cancel`."""
        return self._cancelled

    @property
    def log(self) -> str:
        """What it has printed so far, both streams, as far as polled; for "Show log"."""
        return "\n".join(self._log)

    def cancel(self) -> None:
        """Kill it with all that it started, and return at once; `poll` says when it has ended."""
        if self._child is None or self._code is not None:
            return
        _leaving.add(self)
        if self._child.poll() is None:
            self._cancelled = True
            launch.kill_tree(self._child.pid, wait=False)

    def result(self) -> str:
        """All that it has printed to standard output, as far as polled."""
        return self._streams[0].text if self._streams else ""

    def error(self) -> VocoError | None:
        """What went wrong, by exit code and with the command's own line and hint; None if nothing or not ended yet."""
        if self._code in (None, 0):
            return None
        if self._cancelled:
            return StopRequested("cancelled")
        return explain(self._code, self._streams[1].text or self.result())

    def run(self, timeout: float | None = None) -> str:
        """Start it if it is not, wait and return `result`; for scripts without a window.

        Raises its `error`; EnvironmentFault, after ending it, where it takes longer than ``timeout`` seconds.
        """
        if self._child is None:
            self.start()
        giveUp = None if timeout is None else time.monotonic() + timeout
        while self.poll().running:
            if giveUp is not None and time.monotonic() > giveUp:
                self.cancel()
                raise EnvironmentFault(
                    f"voco {' '.join(self.arguments[:2])} took longer than {timeout:.0f} s"
                )
            time.sleep(_PAUSE)
        if error := self.error():
            raise error
        return self.result()

    def _tidy(self) -> None:
        _running.discard(self)
        _leaving.discard(self)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class _Stream:
    """A file that grows, read as UTF-8 from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self.atEnd = False
        self._pieces: list[str] = []
        self._line: list[str] = []  # pieces of one that is not whole yet
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  closed in close()
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder = io.IncrementalNewlineDecoder(utf8, translate=True)

    @property
    def text(self) -> str:
        """All that was read."""
        return "".join(self._pieces)

    def read(self) -> list[str]:
        """The lines that have become whole; a carriage return ends one, as progress bars write it."""
        data = self._file.read(_AT_ONCE)
        self.atEnd = len(data) < _AT_ONCE
        return self._taken(self._decoder.decode(data))

    def close(self) -> list[str]:
        """What is left without an end of line."""
        self._file.close()
        whole = self._taken(self._decoder.decode(b"", final=True))
        rest = "".join(self._line)
        return [*whole, rest] if rest.strip() else whole

    def _taken(self, text: str) -> list[str]:
        self._pieces.append(text)
        *whole, rest = text.split("\n")
        if whole:
            whole[0] = "".join([*self._line, whole[0]])
            self._line.clear()
        self._line.append(rest)
        return [line for line in whole if line.strip()]


def explain(code: int, text: str) -> VocoError:
    """The error of a command that ended with ``code`` and printed ``text``: its kind, its own line, its hint."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if said := _SAID.fullmatch(line):
            if missing := _MISSING.fullmatch(said["message"]):
                return _lacking(missing)
            return kind_of(code)(said["message"], said["hint"] or "")
    last = lines[-1] if lines else "it said nothing"
    if missing := _MISSING.fullmatch(last):
        return _lacking(missing)
    if last.startswith("SyntaxError: "):  # of our own scripts: `voco` says itself what it cannot read
        return EnvironmentFault("this Python is too old: jobs need 3.11 to 3.13", _ANOTHER)
    if code < 0:
        name = str(-code)
        with suppress(ValueError):
            name = signal.Signals(-code).name
        if name in _CRASHES:
            return EnvironmentFault(f"the process crashed ({name}): a package in it may be broken", _ANOTHER)
        hint = "close other programs or choose a smaller preset, then start it again"
        return EnvironmentFault(f"the process was killed ({name}), often for want of memory", hint)
    return kind_of(code)(f"it ended with exit code {code}: {last}", "the log says more")


def reap(but: Task | None = None) -> None:
    """Close and remove what cancelled tasks that have ended by now leave behind; never waits. ``but``: leave that one.

    Called with every start and poll of a task, and by the table of jobs each second.
    """
    for task in tuple(_leaving):
        if task is not but:
            task._advance()


def cancelAll() -> None:
    """Cancel every task that runs and need not be kept, and remove its files: nobody polls it any more.

    For the closing of Slicer and a reload of the module.
    """
    for task in tuple(_running):
        task.cancel()
        task._tidy()
        _leaving.add(task)
    reap()


def _lacking(missing: re.Match[str]) -> EnvironmentFault:
    what = missing["what"] or missing["module"]
    return EnvironmentFault(f"the Python of the jobs lacks a package: {what}", INSTALL_HINT)
