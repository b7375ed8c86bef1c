"""What a job will need, as the trainer estimates it, and whether this machine has it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from VoCoCore.data.cases import Case, Index, Source, save_index
from VoCoCore.errors import DataError, VocoError
from VoCoCore.runs.files import free_bytes, writing
from VoCoSlicerLib.logic_settings import asOptions, resolve
from VoCoSlicerLib.logic_steps import ENDED, Progress, Steps

ESTIMATING = "estimating"


@dataclass(frozen=True)
class Needs:
    """What a job needs: memory, disk for checkpoints and for one prepared volume in MB (2^20 bytes), time in seconds.

    ``device``: cpu, cuda or mps; ``roomMb``: memory that it has; ``cases``: how many are prepared (None: all that are
    chosen); ``plan``: what a fine-tuning chooses by its cases, a sentence each; ``warnings``: why it may teach nothing.
    """

    memoryMb: float
    checkpointsMb: float
    volumeMb: float
    seconds: float
    device: str
    roomMb: float
    cases: int | None = None
    plan: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

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
            warnings=tuple(f"{each['message']} ({each['hint']})" for each in found["warnings"]),
        )
    except (ValueError, TypeError, KeyError):
        hint = "the Python of the jobs may have another version of VoCo: look at the section Environment"
        raise VocoError("the estimate cannot be understood", hint) from None


class EstimateJob(Steps):
    """The estimate of a ``pretrain`` or ``finetune`` job of these ``values`` (dotted names) in the folder ``run``.

    A fine-tuning depends on its cases, so that those of the scene are written first, where the job would read them:
    it finds them there. Of a pre-training's cases only the number of channels counts, and no volume is written.
    ``needs`` are the figures once it has ended without error.
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
        self._scratch: Path | None = None

    def start(self) -> EstimateJob:
        """Begin, and return itself; `poll` goes on. Raises DataError for cases that cannot be trained on together."""
        if self._kind == "finetune":
            self._beginExport(self._logic, self._run, self._cases, self._folders)
        elif self._cases:
            self._index = self._listOne(channelsOf(self._cases))
        elif self._folders:
            self._index = self._folders[0]
        return self

    def _step(self) -> Progress:
        if self._task is None:
            return self._awaitExport() or self._ask()
        if self._task.poll().running:
            return Progress(ESTIMATING)
        if error := self._task.error():
            raise error
        needs = readNeeds(self._task.result())
        # A list that a pre-training was given here stands for the cases: it need not name them all.
        stands = self._kind == "pretrain" and self._index is not None
        self.needs = replace(needs, cases=None) if stands else needs
        self._tidy()
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

    def _end(self, error: VocoError | None) -> None:
        super()._end(error)
        self._tidy()

    def _listOne(self, channels: int) -> Path:
        """A list with one case of so many images, which are not there: an estimate looks at none."""
        with writing(Path(tempfile.gettempdir())):
            self._scratch = Path(tempfile.mkdtemp(prefix="voco-"))
        images = tuple(Source(str(self._scratch / f"{number}.nii.gz")) for number in range(channels))
        names = tuple(f"channel_{number}" for number in range(channels))
        save_index(Index((Case("case", images),), names), self._scratch / "index.json")
        return self._scratch / "index.json"

    def _tidy(self) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


def channelsOf(cases: Sequence[Any]) -> int:
    """How many images each of ``cases`` (SceneCase) has. Raises DataError where they have not the same number."""
    counts = sorted({len(case.volumeIds) for case in cases})
    if len(counts) > 1:
        raise DataError(
            f"cases with {' and '.join(map(str, counts))} volumes are chosen together",
            "choose the same channels for all cases",
        )
    return counts[0]


def lacking(needs: Needs, folder: Path, cases: int) -> list[str]:
    """Sentences on what is wrong with a job in ``folder`` for so many ``cases``: mostly what the machine lacks."""
    said = list(needs.warnings)
    if needs.memoryMb > needs.roomMb:
        gb, room = (mb * 2**20 / 1e9 for mb in (needs.memoryMb, needs.roomMb))
        said.append(f"about {gb:.1f} GB of memory are needed, and {room:.1f} GB are free")
    free, wanted = free_bytes(folder), needs.diskMb(cases) * 2**20
    if free is not None and wanted > free:
        said.append(f"about {wanted / 1e9:.1f} GB of disk are needed, and {free / 1e9:.1f} GB are free")
    return said
