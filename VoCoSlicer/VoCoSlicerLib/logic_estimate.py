"""What a job will need, read from the trainer's estimate, and whether this machine has it."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from VoCoCore.errors import VocoError

_NUMBER = r"([\d,.]+)"
_MEMORY = re.compile(rf"about {_NUMBER} MB of memory")
_DISK = re.compile(rf"{_NUMBER} MB of disk for checkpoints")
_VOLUME = re.compile(rf"at most {_NUMBER} MB a prepared volume")
_TIME = re.compile(rf"about {_NUMBER} s a step on (.+): (.+) for {_NUMBER} steps")


@dataclass(frozen=True)
class Needs:
    """What a job needs: memory, disk for checkpoints and for one prepared volume in MB (2^20 bytes); ``time`` in words;
    ``device``: what the time is for.
    """

    memoryMb: float
    checkpointsMb: float
    volumeMb: float
    time: str
    device: str

    def diskMb(self, cases: int) -> float:
        """Disk for a job of so many cases."""
        return self.checkpointsMb + self.volumeMb * cases


def readNeeds(text: str) -> Needs:
    """The figures of ``voco pretrain --estimate``. Raises VocoError where they are not there."""
    found = [pattern.search(text) for pattern in (_MEMORY, _DISK, _VOLUME, _TIME)]
    if not all(found):
        raise VocoError("the estimate cannot be understood", "the log says more")
    memory, disk, volume, duration = found
    sizes = [float(match[1].replace(",", "").rstrip(".")) for match in (memory, disk, volume)]
    return Needs(*sizes, time=duration[3].strip(), device=duration[2])


def lacking(needs: Needs, facts: Any, folder: Path, cases: int) -> list[str]:
    """Sentences on what the machine lacks for a job in ``folder``; ``facts`` of the environment, or None."""
    said = []
    if facts is not None and facts.memoryGb and needs.memoryMb > facts.memoryGb * 1e9 / 2**20:
        gb = needs.memoryMb * 2**20 / 1e9
        said.append(f"about {gb:.1f} GB of memory are needed, and {facts.memoryGb:.1f} GB are there")
    free, wanted = freeBytes(folder), needs.diskMb(cases) * 2**20
    if free is not None and wanted > free:
        said.append(f"about {wanted / 1e9:.1f} GB of disk are needed, and {free / 1e9:.1f} GB are free")
    return said


def freeBytes(folder: Path) -> int | None:
    """Free space where ``folder`` is or will be; None where the system does not say."""
    for place in (folder, *folder.parents):
        if place.exists():
            try:
                return shutil.disk_usage(place).free
            except OSError:
                return None
    return None
