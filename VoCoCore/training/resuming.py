"""Where a job goes on: the first rank chooses the checkpoint, for a disk may show the ranks different folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from VoCoCore.errors import DataError
from VoCoCore.training.checkpoint import MANIFEST, is_whole, newest, set_aside, step_folder
from VoCoCore.training.ranks import Ranks

_NO_CHECKPOINT, _NONE_WHOLE = -1, -2


def chosen_checkpoint(folder: Path, ranks: Ranks, first: bool) -> tuple[Path | None, list[Path]]:
    """The newest whole checkpoint under ``folder`` as the ``first`` rank sees it; every rank has to ask.

    Returns the checkpoint (None to begin at step 0) and, on the first rank alone, the newer ones that are damaged.
    Raises DataError on every rank where no checkpoint is whole, and on one that does not see the very same.
    """
    found, damaged = newest(folder) if first else (None, [])
    mine = (0, 0)
    if first:
        mine = _told(found) if found else (_NONE_WHOLE if damaged else _NO_CHECKPOINT, 0)
    step, mark = ranks.sum(torch.tensor(mine)).tolist()
    if step == _NO_CHECKPOINT:
        return None, []
    if step == _NONE_WHOLE:
        raise DataError(
            f"no checkpoint in {folder} is whole",
            "put copies back, or delete that folder to begin again from step 0",
        )
    path = found or step_folder(folder, step)
    if not first and not (is_whole(path) and _told(path) == (step, mark)):
        raise DataError(
            f"this rank does not see the checkpoint {path}, from which the first rank goes on, or sees another",
            "keep the run folder on a disk that all machines of the job share",
        )
    return path, damaged


def set_damaged_aside(damaged: list[Path], used: int) -> list[dict[str, str]]:
    """Move these checkpoints out of the way; returns the words of a warning for each.

    ``used``: the step that is gone on with.
    """
    asides = [(path, set_aside(path)) for path in damaged]
    return [
        {
            "message": f"checkpoint {path.name} is damaged, so the one of step {used} is used",
            "hint": f"it was set aside as {aside.name} and may be deleted",
        }
        for path, aside in asides
    ]


def _told(path: Path) -> tuple[int, int]:
    """What tells a checkpoint from every other: its step, and 56 bits of a hash of its manifest."""
    digest = hashlib.sha256((path / MANIFEST).read_bytes()).digest()
    return int(path.name.removeprefix("step-")), int.from_bytes(digest[:7])
