"""Room on a disk, before anything is computed that would not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

from VoCoCore.errors import EnvironmentFault

MB = 2**20


def check_room(folder: Path, needed_mb: float) -> None:
    """Raise EnvironmentFault, with the figures, unless the disk of ``folder`` has room for the checkpoints."""
    free = shutil.disk_usage(folder).free / MB
    if needed_mb > free:
        raise EnvironmentFault(
            f"the checkpoints need about {needed_mb:,.0f} MB, but {free:,.0f} MB are free for {folder}",
            "free some space, or choose a run folder on a larger disk",
        )
