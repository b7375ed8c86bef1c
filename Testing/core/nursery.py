"""A process that has imported everything, started no thread, and forks jobs: killing one costs no import.

``Nursery()`` starts it; run as a program it reads one job a line and answers each with one line. A job is forked, may
be killed with SIGKILL after so many seconds, and shares nothing with the ones before it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# One thread each, so that none is alive at the fork; and memory is kept, since giving it back takes a third of a step.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "10000000000",
}


class Nursery:
    """Starts jobs and kills them; use it as a context."""

    def __enter__(self) -> Nursery:
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def job(
        self, settings: dict[str, Any], run: Path, *, resume: bool = False, kill_after: float | None = None
    ) -> dict[str, Any]:
        """Pre-train with ``settings`` (flat) in ``run``.

        Returns ``ended`` (exit code, -9: killed), ``seconds`` and ``said`` (the error, if there was one).
        """
        line = {"settings": settings, "run": str(run), "resume": resume, "kill_after": kill_after}
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def serve() -> None:
    """Body of the process."""
    from VoCoCore.training import estimate, pretrain  # noqa: F401 - what every job needs

    estimate._seconds = lambda *_: (
        1.0
    )  # a trial step of a Swin-UNETR takes as long as a step, and nobody reads of it

    for line in sys.stdin:
        threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
        assert threads == 1, f"{threads} threads: a fork would copy one of them only"
        print(json.dumps(_carry_out(json.loads(line))), flush=True)


def _carry_out(job: dict[str, Any]) -> dict[str, Any]:
    began = time.monotonic()
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os._exit(_train(job, writer))
    os.close(writer)
    ended = _wait(pid, None if job["kill_after"] is None else began + job["kill_after"])
    with os.fdopen(reader) as said:
        return {"ended": ended, "seconds": time.monotonic() - began, "said": said.read()}


def _wait(pid: int, end: float | None) -> int:
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() >= end:
            os.kill(pid, signal.SIGKILL)
            end = None
        time.sleep(0.001)


def _train(job: dict[str, Any], writer: int) -> int:
    from VoCoCore.presets import complete
    from VoCoCore.settings import PretrainSettings
    from VoCoCore.training.pretrain import pretrain

    try:
        settings = complete(PretrainSettings().with_values(job["settings"]))
        pretrain(settings, job["run"], resume=job["resume"])
        return 0
    except BaseException as error:
        os.write(writer, f"{type(error).__name__}: {error}".encode()[:4000])
        return 1


if __name__ == "__main__":
    serve()
