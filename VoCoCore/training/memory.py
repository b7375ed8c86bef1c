"""How much memory a job may take, and what to change where that is not enough."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from VoCoCore.devices import Machine
from VoCoCore.errors import EnvironmentFault
from VoCoCore.settings import PretrainSettings
from VoCoCore.training.disk import check_room
from VoCoCore.training.estimate import MB, estimate
from VoCoCore.training.needs import lack_of_memory

# Share of the memory that a suggestion may take by its estimate: estimates are not exact, and others work here too.
SAFE = 0.8
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def room_mb(machine: Machine) -> float:
    """Megabytes that this process can still get on the device it trains on."""
    if machine.device.type == "cuda":
        # What a trial has used and torch keeps is not free, but this process gets it again.
        kept = torch.cuda.memory_reserved(machine.device) - torch.cuda.memory_allocated(machine.device)
        return (torch.cuda.mem_get_info(machine.device)[0] + kept) / MB
    import psutil

    used = psutil.Process().memory_info()
    rooms = [float(psutil.virtual_memory().available), *_rooms(used.vms, used.rss)]
    return max(0.0, min(rooms)) / MB


def _rooms(virtual: int, resident: int) -> Iterator[float]:
    """What limits leave to a process of this size: its own, or those of the container that it is in."""
    if sys.platform != "win32":
        import resource

        for name, used in (("RLIMIT_AS", virtual), ("RLIMIT_DATA", resident)):
            soft, _ = resource.getrlimit(getattr(resource, name))
            if soft != resource.RLIM_INFINITY:
                yield float(soft - used)
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            yield float(Path(path).read_text()) - resident


def say_needs(
    settings: PretrainSettings,
    machine: Machine,
    channels: int,
    room: float,
    folder: Path,
    emit: Callable[..., None],
) -> None:
    """Tell, before the first step, what the job will need, and warn where there is less: ``room`` MB.

    Raises EnvironmentFault where the disk of the run's ``folder`` is too small.
    """
    made = estimate(settings, machine, channels)
    for line in made.words().splitlines():
        emit("stage", name="estimate", text=line)
    check_room(folder, made.checkpoints_mb)
    if lacking := lack_of_memory(made, room):
        emit("warning", message=lacking, hint=advice(settings, machine, channels, room))


def out_of_memory(
    settings: PretrainSettings, machine: Machine, channels: int, room: float
) -> EnvironmentFault:
    """The error to end with: how much there was (``room`` MB at the start), and changed settings that would fit."""
    what = f"out of memory on the {machine.device.type.upper()}, where this job could have {room:,.0f} MB"
    return EnvironmentFault(what, advice(settings, machine, channels, room, failed=True))


def advice(
    settings: PretrainSettings, machine: Machine, channels: int, room: float, failed: bool = False
) -> str:
    """What to change, in the order of what it costs, so that the estimate fits into ``room`` MB.

    ``failed``: these settings have just run out of memory, so they need more than they were estimated at if that was
    less than the room, and so does every other choice.
    """
    try:
        most = SAFE * (min(room, estimate(settings, machine, channels).memory_mb) if failed else room)
        for changes in _lighter(settings, machine.ranks):
            need = estimate(settings.with_values(changes), machine, channels).memory_mb
            if need <= most:
                named = " ".join(f"--{name} {str(value).lower()}" for name, value in changes.items())
                return f"in a new run folder this should fit: {named} (about {need:,.0f} MB)"
    except (RuntimeError, MemoryError):
        pass  # not even the small trial network of the estimate fits
    return (
        "lower optim.batch, crops.random_crops, crops.input_size or model.feature_size, "
        "close other programs, or use a machine with more memory"
    )


def _lighter(settings: PretrainSettings, ranks: int) -> Iterator[dict[str, Any]]:
    """Changes that need less memory, mildest first; each line adds to the ones before."""
    changes: dict[str, Any] = {}
    if not settings.model.checkpointing:
        changes["model.checkpointing"] = True
        yield dict(changes)
    batch, rounds = settings.optim.batch, settings.optim.accumulate
    while batch % 2 == 0 and (batch // 2) % ranks == 0:
        batch, rounds = batch // 2, rounds * 2
        changes |= {"optim.batch": batch, "optim.accumulate": rounds}
        yield dict(changes)
    if batch > ranks:
        changes |= {"optim.batch": ranks, "optim.accumulate": 1}
        yield dict(changes)
    if settings.crops.random_crops > 2:
        changes["crops.random_crops"] = 2
        yield dict(changes)
    size = settings.model.feature_size
    while size >= 24 and size % 24 == 0:
        size //= 2
        changes["model.feature_size"] = size
        yield dict(changes)
