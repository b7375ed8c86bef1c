"""What a job will need, as the trainer estimates it, and whether this machine has it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from VoCoCore.errors import VocoError
from VoCoCore.runs.files import free_bytes
from VoCoSlicerLib.logic_settings import asOptions, resolve
from VoCoSlicerLib.logic_steps import ENDED, Progress, Steps

ESTIMATING = "estimating"


@dataclass(frozen=True)
class Needs:
    """What a job needs: memory, disk for checkpoints and for one prepared volume in MB (2^20 bytes), time in seconds.

    ``device``: cpu, cuda or mps; ``roomMb``: memory that it has; ``cases``: how many are prepared (None: all that are
    chosen); ``plan``: what a fine-tuning chooses by its cases, a sentence each.
    """

    memoryMb: float
    checkpointsMb: float
    volumeMb: float
    seconds: float
    device: str
    roomMb: float
    cases: int | None = None
    plan: tuple[str, ...] = ()

    def diskMb(self, cases: int) -> float:
        """Disk for a job for which so many cases are chosen."""
        return self.checkpointsMb + self.volumeMb * (cases if self.cases is None else self.cases)


def readNeeds(text: str) -> Needs:
    """The figures of an ``--estimate --json``. Raises VocoError where they are not there."""
    try:
        found = json.loads(text)
        names = ("memory_mb", "checkpoints_mb", "volume_mb", "seconds")
        numbers = [float(found[name]) for name in names]
        return Needs(
            *numbers,
            device=str(found["device"]),
            roomMb=float(found["room_mb"]),
            cases=None if found["cases"] is None else int(found["cases"]),
            plan=tuple(map(str, found["plan"])),
        )
    except (ValueError, TypeError, KeyError):
        hint = "the Python of the jobs may have another version of VoCo: look at the section Environment"
        raise VocoError("the estimate cannot be understood", hint) from None


class EstimateJob(Steps):
    """The estimate of a ``pretrain`` or ``finetune`` job of these ``values`` (dotted names) in the folder ``run``.

    A fine-tuning depends on its cases, so that those of the scene are written first, where the job would read them:
    it finds them there. ``needs`` are the figures once it has ended without error.
    """

    what = "the estimate"

    def __init__(
        self,
        logic: Any,
        kind: str,
        run: str | Path,
        values: Mapping[str, Any],
        cases: Sequence[Any] = (),
        folders: Sequence[str | Path] = (),
    ) -> None:
        super().__init__()
        resolve(kind, values)
        self.needs: Needs | None = None
        self._logic, self._kind, self._run, self._values = logic, kind, Path(run), dict(values)
        self._cases, self._folders = list(cases), [Path(folder) for folder in folders]
        self._task: Any = None

    def start(self) -> EstimateJob:
        """Begin, and return itself; `poll` goes on. Raises DataError for nodes that cannot be exported."""
        if self._kind == "finetune":
            self._beginExport(self._logic, self._run, self._cases, self._folders)
        return self

    def _step(self) -> Progress:
        if self._task is None:
            return self._awaitExport() or self._ask()
        if self._task.poll().running:
            return Progress(ESTIMATING)
        if error := self._task.error():
            raise error
        self.needs = readNeeds(self._task.result())
        return Progress(ENDED, finished=True)

    def _ask(self) -> Progress:
        values = self._values if self._index is None else {**self._values, "data.source": str(self._index)}
        words = [self._kind, "--run", self._run, "--estimate", "--json", *asOptions(values)]
        self._task = self._logic.backgroundTask(words).start()
        return Progress(ESTIMATING)

    def _giveUp(self) -> None:
        super()._giveUp()
        if self._task is not None:
            self._task.cancel()


def lacking(needs: Needs, folder: Path, cases: int) -> list[str]:
    """Sentences on what the machine lacks for a job in ``folder`` for which so many ``cases`` are chosen."""
    said = []
    if needs.memoryMb > needs.roomMb:
        gb, room = (mb * 2**20 / 1e9 for mb in (needs.memoryMb, needs.roomMb))
        said.append(f"about {gb:.1f} GB of memory are needed, and {room:.1f} GB are free")
    free, wanted = free_bytes(folder), needs.diskMb(cases) * 2**20
    if free is not None and wanted > free:
        said.append(f"about {wanted / 1e9:.1f} GB of disk are needed, and {free / 1e9:.1f} GB are free")
    return said
