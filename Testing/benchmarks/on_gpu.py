"""What the benchmarks of a GPU share: its clock, its memory, its loader workers, and a way to end where there is none.

Work that takes batches from a loader is timed as in the middle of a long job: what the workers have read ahead while
something else was timed is taken first, without a step, and some work follows untimed. Steps would not do for that:
where reading takes but a little longer than a step, a full store of batches lasts for hundreds of them.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from side_by_side import options, peak_mb
from torch.profiler import ProfilerActivity, profile

from VoCoCore.data.workers import PREFETCHED, fitting, shared_memory_free, usual_workers

SKIPPED = 77
Work = Callable[[], Any]


@dataclass(frozen=True)
class Fed:
    """``work`` on batches of a loader that reads on while nobody asks, ``ahead`` batches at most."""

    work: Work
    batches: Iterator[Any]
    ahead: int

    def __call__(self) -> None:
        """Do it once."""
        self.work()

    def drain(self) -> None:
        """Take what was read ahead: from now on the workers are as far as the steps let them be."""
        for _ in range(self.ahead):
            next(self.batches)


def gpu_options(what: str | None) -> argparse.ArgumentParser:
    """``--device``, and ``--tiny`` for sizes at which a processor can try the benchmark out."""
    parser = options(what)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu only to try it out")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing, to try it out")
    return parser


def skip_without(device: str) -> None:
    """End the program where there is no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        print("skipped: there is no GPU here", file=sys.stderr)
        sys.exit(SKIPPED)


def device_name(device: str, workers: int | None = None) -> str:
    """The device as rows name it, with the number of loader workers where they count."""
    if device != "cuda":
        return "CPU, a trial"
    return torch.cuda.get_device_name() + ("" if workers is None else f", {workers} loader workers")


def loader_workers(batch: int) -> int:
    """Loader workers of a job on a GPU, for both sides, or as many as have room for batches of ``batch`` bytes."""
    usual, free, each = usual_workers(torch.device("cuda"), 1), shared_memory_free(), PREFETCHED * batch
    found = usual if free is None else fitting(usual, batch, free)
    if free is not None and found < usual:
        print(
            f"/dev/shm has {free / 1e6:.0f} MB free, and {usual} loader workers may have {usual * each / 1e6:.0f} MB "
            f"of batches there: both sides have {found}, and wait longer for data than where there is more (for a "
            "container: docker run --shm-size 8g)",
            file=sys.stderr,
        )
    return found


class Clock:
    """Seconds by the wall, with all of the device's work done at both ends, and its memory."""

    def __init__(self, device: str) -> None:
        self.gpu, self.before = device == "cuda", peak_mb()

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.gpu:
            torch.cuda.synchronize()

    def seconds(self, work: Work, times: int = 1) -> float:
        """Of one of ``times`` calls in a row: the host may run ahead of the device, as in a job."""
        self.wait()
        begun = time.perf_counter()
        for _ in range(times):
            work()
        self.wait()
        return (time.perf_counter() - begun) / times

    def stretch(self, work: Work, times: int, untimed: int) -> float:
        """The same after ``untimed`` calls, and of `Fed` work with nothing read ahead before these."""
        if isinstance(work, Fed):
            work.drain()
        for _ in range(untimed):
            work()
        return self.seconds(work, times)

    def forget_peak(self) -> None:
        """Count the peak of the device's memory from now on: while cuDNN tries its ways, it takes room for any."""
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()

    def peak_mb(self) -> float:
        """The most that was allocated on the device; on a processor, what the process took beyond its imports."""
        return torch.cuda.max_memory_allocated() / 1e6 if self.gpu else peak_mb() - self.before

    def work(self, step: Work, names: re.Pattern[str]) -> float:
        """Seconds of the device in the operations of ``step`` whose names match, by torch's profiler."""
        kinds = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * self.gpu]
        with profile(activities=kinds) as seen:
            step()
            self.wait()
        events = [event for event in seen.key_averages() if names.match(event.key)]
        spent = (e.self_device_time_total if self.gpu else e.self_cpu_time_total for e in events)
        return sum(spent) / 1e6

    def most_flops(self, edge: int) -> float:
        """Operations a second in one large matmul: bf16 on a GPU."""
        kind: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16} if self.gpu else {}
        a, b = (torch.randn(edge, edge, **kind) for _ in range(2))
        self.seconds(lambda: a @ b, 3)
        return 2 * edge**3 / self.seconds(lambda: a @ b, 10)
