"""How many processes read volumes beside a job."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from VoCoCore.data.check_pool import usable_cores
from VoCoCore.runs.files import free_bytes

PREFETCHED = 4  # batches that each worker holds ready
_SHARED_MEMORY = Path("/dev/shm")  # where Linux keeps them; containers often have 64 MB of it
_SHARE = 0.5  # of what is free there, since others use it too


def usual_workers(device: torch.device, ranks: int) -> int:
    """Loader workers of a job on ``device`` of which this machine has ``ranks``, where nobody says another number."""
    # On a CPU the network needs every core itself, and a read is short beside a step. Elsewhere torch's number of
    # threads says nothing: torchrun and clusters set it to 1.
    return 0 if device.type == "cpu" else min(8, max(1, usable_cores() // ranks - 1))


def workers_with_room(samples: Any, numbers: Iterable[list[int]], workers: int, ranks: int) -> int:
    """So many of ``workers`` as have room for their batches in shared memory, when ``ranks`` jobs share it.

    ``samples`` and ``numbers`` as in `make_loader`; one sample is read to know its size.
    """
    batch = next(iter(numbers), None)
    free = shared_memory_free() if workers and batch else None
    if free is None or not batch:
        return workers
    sample = samples[batch[0]]
    if not isinstance(sample, dict):
        return workers  # a damaged volume, which the job is about to meet
    return fitting(workers, len(batch) * sum(value.nbytes for value in sample.values()), free / ranks)


def fitting(workers: int, batch: int, free: float) -> int:
    """So many of ``workers`` as have room in ``free`` bytes of shared memory for their batches of ``batch`` bytes."""
    return min(workers, int(_SHARE * free // (PREFETCHED * batch)))


def shared_memory_free() -> int | None:
    """Free bytes of the shared memory that workers pass arrays through; None where that is not limited by itself."""
    return free_bytes(_SHARED_MEMORY) if _SHARED_MEMORY.is_dir() else None
