"""The full check of cases in the background: every voxel is opened by ``voco data check``, in another process."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from VoCoCore.errors import VocoError
from VoCoSlicerLib.logic_steps import ENDED, Progress, Steps

CHECKING = "checking"
_LISTED = re.compile(r"(\d+) cases? written to .*")


@dataclass(frozen=True)
class Found:
    """What is wrong with one case: ``severity`` is error or warning."""

    case: str
    severity: str
    message: str
    hint: str = ""


class CheckJob(Steps):
    """Checks ``cases`` of the scene (SceneCase; they are exported first) or the cases of a list, ``index``.

    Afterwards: ``checked`` (how many cases), ``names`` of those of the scene in the order given, ``found`` (a list of
    `Found`), ``skipped`` (files that are no case). A list is not read here: of a thousand series it has megabytes.
    """

    what = "the check"

    def __init__(
        self,
        logic: Any,
        cases: Sequence[Any] = (),
        index: str | Path | None = None,
        counts: Sequence[int] = (4, 4, 1),
    ) -> None:
        super().__init__(index)
        self._logic, self._cases, self._counts = logic, list(cases), tuple(counts)
        self.names: list[str] = []
        self.checked = 0
        self.found: list[Found] = []
        self.skipped = 0
        self.log = ""
        self._task: Any = None

    def start(self) -> CheckJob:
        """Begin, and return itself; `poll` goes on."""
        if self._index is None:
            self._beginExport(self._logic, self._logic.folder / "check", self._cases)
        return self

    def _giveUp(self) -> None:
        super()._giveUp()
        if self._task is not None:
            self._task.cancel()

    def _step(self) -> Progress:
        if (exporting := self._awaitExport()) is not None:
            return exporting
        if self._task is None:
            self._task = self._logic.checkIndex(self._index, self._counts).start()
        if self._task.poll().running:
            return Progress(CHECKING, 0, len(self.names))
        self.log = self._task.log
        self._read(self._task)
        return Progress(ENDED, self.checked, self.checked, finished=True)

    def _exported(self, export: Any) -> None:
        self.names = list(export.volumesById)

    def _read(self, task: Any) -> None:
        """Take the report; cases that cannot be used are part of it, although the command then ends with an error."""
        try:
            report = json.loads(task.result())
            rows = [(r["case"], r["severity"], r["message"], r.get("hint", "")) for r in report["findings"]]
            self.found = [Found(*map(str, row)) for row in rows]
            self.checked = int(report["checked"])
            self.skipped = sum(int(item.get("count", 1)) for item in report["skipped"])
        except (ValueError, KeyError, TypeError):
            raise task.error() or VocoError("the check gave no report", "the log says more") from None


def casesListed(task: Any) -> int:
    """How many cases are in the list that ``voco data index`` has written, as its last line says. Raises VocoError."""
    for line in reversed(task.result().splitlines()):
        if said := _LISTED.fullmatch(line.strip()):
            return int(said[1])
    raise VocoError("the list of cases does not say how many there are", "the log says more")
