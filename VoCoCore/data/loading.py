"""From sample numbers to batches: loader workers read regions of prepared volumes, and nothing else."""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from VoCoCore.data.sampling import case_of
from VoCoCore.data.store import Store
from VoCoCore.data.workers import PREFETCHED
from VoCoCore.devices import is_out_of_memory
from VoCoCore.errors import EnvironmentFault, VocoError
from VoCoCore.geometry import Box

Views = Callable[[int, Sequence[int]], dict[str, np.ndarray]]


class ByNumber(Dataset):
    """Samples by number; an error of ours is a sample too, because torch would wrap it in a trace on its way out of a
    worker: it is raised where the job is.
    """

    def __getitem__(self, number: int) -> dict[str, Tensor] | VocoError:
        try:
            return self.sample(number)
        except VocoError as error:
            return error

    def sample(self, number: int) -> dict[str, Tensor]:
        """The arrays of one sample. Raises DataError for a prepared volume that is damaged or gone."""
        raise NotImplementedError


class Samples(ByNumber):
    """Sample number -> arrays: one region of one prepared volume and what to cut from it.

    ``keys`` name the prepared volumes; ``views`` gives, for (sample number, shape), the arrays of the pretext task,
    ``region`` among them. With ``seed`` the cases are visited in a new order each epoch, without it in turn.
    """

    def __init__(self, store: Path, keys: Sequence[str], views: Views, seed: int | None = None) -> None:
        self.store, self.keys, self.views, self.seed = Store(store), list(keys), views, seed

    def case(self, number: int) -> int:
        """Position of the case of a sample."""
        return number % len(self.keys) if self.seed is None else case_of(self.seed, number, len(self.keys))

    def sample(self, number: int) -> dict[str, Tensor]:
        """The arrays of one sample; see `ByNumber`."""
        case = self.case(number)
        volume = self.store.open(self.keys[case])
        arrays = self.views(number, volume.shape[1:])
        start, size = arrays.pop("region")
        arrays["volumes"] = volume.read(Box(tuple(start), tuple(size)))
        arrays["case"] = np.asarray(case)
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}


@dataclass(frozen=True)
class Numbers:
    """Batches of sample numbers for one rank: all ranks together see 0, 1, 2, ... in order, from ``start`` on."""

    start: int
    stop: int
    batch: int
    rank: int = 0
    ranks: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch // self.ranks
        for first in range(self.start, self.stop, self.batch):
            mine = range(first + self.rank * share, first + (self.rank + 1) * share)
            yield [number for number in mine if number < self.stop]

    def __len__(self) -> int:
        return -(-(self.stop - self.start) // self.batch)


def make_loader(
    samples: Dataset, numbers: Iterable[list[int]], workers: int, pin: bool
) -> Iterator[dict[str, Tensor]]:
    """Batches of the samples with these ``numbers`` on the host, in order; ``pin`` for a GPU.

    Raises DataError for a prepared volume that is damaged or gone; see `worker_killed` for a worker that dies.
    """
    over = RawValue("b", 0)
    if workers:
        _allow_open_files()
        atexit.register(setattr, over, "value", 1)  # before multiprocessing ends and awaits its processes
    loader = DataLoader(
        samples,
        batch_sampler=numbers,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=PREFETCHED if workers else None,
        collate_fn=_collate,
        worker_init_fn=partial(_leave_signals_to_the_job, over) if workers else None,
        # Its own: a loader draws a seed when it starts, and a resumed job starts one more of them.
        generator=torch.Generator(),
    )
    try:
        for batch in loader:
            if isinstance(batch, VocoError):
                raise batch
            yield batch
    finally:
        over.value = 1


def worker_killed(error: BaseException) -> EnvironmentFault | None:
    """What it means when torch says that a worker died, which it does at any moment, wherever the job then is."""
    if isinstance(error, EOFError | ConnectionError) or getattr(error, "errno", None) in _TOO_MANY:
        return EnvironmentFault(
            "a process that reads volumes could not pass them on, most often because too many files are open",
            "allow more open files (ulimit -n), or use fewer workers (data.workers); then go on with --resume",
        )
    said = str(error)
    if not isinstance(error, RuntimeError | MemoryError) or "DataLoader worker" not in said:
        return None
    if any(word in said for word in _SHARED_MEMORY):
        return EnvironmentFault(
            "a process that reads volumes could not pass them on: the shared memory (/dev/shm) is full",
            "give the container more of it (docker run --shm-size 8g), or use fewer workers (data.workers, 0 needs "
            "none); then go on with --resume",
        )
    if not (any(word in said for word in _DIED) or is_out_of_memory(error)):
        return None  # an error of its own, which torch brings here with its trace
    return EnvironmentFault(
        "a process that reads volumes was killed, most often for want of memory",
        "use fewer workers (data.workers), then go on with --resume",
    )


_DIED = ("is killed by", "exited unexpectedly")
# Files that torch makes there for arrays, and how it says that one could be made but not written.
_SHARED_MEMORY = ("</torch_", "shared memory", "Bus error")
_TOO_MANY = {errno.EMFILE, errno.ENFILE}


def _allow_open_files() -> None:
    """Workers pass every array on through an open file; some systems allow 256 of them where thousands are possible."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
        if soft < wanted:
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _collate(samples: Sequence[dict[str, Tensor] | VocoError]) -> dict[str, Tensor] | VocoError:
    errors = [sample for sample in samples if isinstance(sample, VocoError)]
    if errors:
        return errors[0]
    whole = [sample for sample in samples if not isinstance(sample, VocoError)]
    if len(whole) > 1:
        return default_collate(whole)
    alone = {name: value[None] for name, value in whole[0].items()}  # a view: a volume need not be copied
    if get_worker_info() is not None:
        # As default_collate does: where there is no room, this raises an error. Later, in the thread that passes
        # batches on, it would only be printed, and the job would wait for ever.
        for value in alone.values():
            value.share_memory_()
    return alone


def _leave_signals_to_the_job(over: Any, _: int) -> None:
    """In a worker: a terminal's Ctrl-C and a cluster's signals reach every process, and the job still needs its data.

    SIGTERM is heeded once ``over`` says that the job needs nothing more.
    """
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)

    def end_if_over(_number: int, _frame: object) -> None:
        if over.value:
            os._exit(0)

    if os.name == "posix":
        signal.signal(signal.SIGTERM, end_if_over)


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy a batch, but for what is named ``host_``; from pinned memory the copy overlaps with the work before it.

    Apple's GPUs would read a batch after it is gone: they are waited for.
    """
    later = device.type != "mps"
    if device.type == "mps":  # which has no float64
        batch = {
            name: value.float() if value.dtype == torch.float64 else value for name, value in batch.items()
        }
    return {
        name: value if name.startswith("host_") else value.to(device, non_blocking=later)
        for name, value in batch.items()
    }
