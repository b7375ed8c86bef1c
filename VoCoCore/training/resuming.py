"""Where a job goes on: the first rank chooses the checkpoint, for a disk may show the ranks different folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from VoCoCore.errors import DataError
from VoCoCore.training.checkpoint import newest, set_aside, step_folder
from VoCoCore.training.ranks import Ranks

_NO_CHECKPOINT, _NONE_WHOLE = -1, -2


def chosen_checkpoint(folder: Path, ranks: Ranks, first: bool) -> tuple[Path | None, list[Path]]:
    """The newest whole checkpoint under ``folder`` as the ``first`` rank sees it; every rank has to ask.

    Returns the checkpoint (None to begin at step 0) and, on the first rank alone, the newer ones that are damaged.
    Raises DataError on every rank where no checkpoint is whole, and on one that does not see the chosen one.
    """
    found, damaged = newest(folder) if first else (None, [])
    mine = (_step(found) if found else _NONE_WHOLE if damaged else _NO_CHECKPOINT) if first else 0
    step = int(ranks.sum(torch.tensor(mine)).item())
    if step == _NO_CHECKPOINT:
        return None, []
    if step == _NONE_WHOLE:
        raise DataError(
            f"no checkpoint in {folder} is whole",
            "put copies back, or delete that folder to begin again from step 0",
        )
    path = found or step_folder(folder, step)
    if not path.is_dir():
        raise DataError(
            f"this rank does not see the checkpoint {path}, from which the first rank goes on",
            "keep the run folder on a disk that all machines of the job share",
        )
    return path, damaged


def warnings_of(damaged: list[Path], used: int) -> Iterator[dict[str, str]]:
    """Set each of these checkpoints aside and say so, in the words of a warning; ``used`` is the step gone on with."""
    for path in damaged:
        aside = set_aside(path).name
        yield {
            "message": f"checkpoint {path.name} is damaged, so the one of step {used} is used",
            "hint": f"it was set aside as {aside} and may be deleted",
        }


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
