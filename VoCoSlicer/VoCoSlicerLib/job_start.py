"""A job on its way from the button to its first word, and what is said where it ends before that."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from VoCoCore.errors import EnvironmentFault, VocoError
from VoCoCore.runs import launch
from VoCoCore.runs.directory import RunDirectory
from VoCoSlicerLib.job_rows import stampOf
from VoCoSlicerLib.pythons import environOf
from VoCoSlicerLib.tasks import explain, orderFile


class NotStarted:
    """Why a job did not start in ``run``; it ``holds`` until another job has said something there."""

    def __init__(self, run: Path, error: VocoError) -> None:
        self.error = error
        self._file = RunDirectory(run).status_file
        self._before = stampOf(self._file)

    @property
    def holds(self) -> bool:
        """Whether no other job has worked there since."""
        return stampOf(self._file) == self._before


class Starting:
    """The process of a job that has not reported yet; `ready` asks, without waiting, whether it has.

    ``settings`` (values by dotted name) go to it in a file that its user alone may read, gone when they were read.
    Raises SettingsError where a job runs in the folder or it holds something else, EnvironmentFault where the folder or
    Python cannot be used.
    """

    def __init__(self, run: Path, words: list[str], settings: Mapping[str, Any], python: str) -> None:
        self.run = run
        self._config = orderFile("voco-settings-", dict(settings)) if settings else None
        self._error: VocoError | None = None
        config = ["--config", str(self._config)] if self._config else []
        try:
            self._launch = launch.start(run, [*words, *config], python=python, environ=environOf(python))
        except VocoError:
            self._tidy()
            raise

    def ready(self) -> bool:
        """Whether the job has reported; raises what went wrong, in the job's own words, if it ended before."""
        if self._error is not None:
            raise self._error
        try:
            if self._launch.ready():
                self._tidy()
                return True
            return False
        except VocoError as error:
            self._error = self._explained(error)
        except OSError:
            self.cancel()
            self._error = EnvironmentFault(f"{self.run} was deleted while the job was starting")
        self._tidy()
        raise self._error

    def cancel(self) -> None:
        """End it with all that it has started."""
        self._launch.cancel()
        self._tidy()

    def _explained(self, error: VocoError) -> VocoError:
        """The job's own words, where the general ones only say that it has ended."""
        code = self._launch.exit_code
        said = explain(code if code else error.exit_code, self._launch.output())
        return type(said)(f"the job did not start: {said.message}", said.hint)

    def _tidy(self) -> None:
        if self._config is not None:
            with suppress(OSError):
                self._config.unlink(missing_ok=True)


def hasBegun(job: Starting) -> bool:
    """Whether a job has reported, or has ended before."""
    try:
        return job.ready()
    except VocoError:
        return True
