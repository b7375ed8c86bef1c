"""What the benchmarks of a GPU share: its clock, its memory, and a way to end where there is none."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from side_by_side import options, peak_mb
from torch.profiler import ProfilerActivity, profile

SKIPPED = 77
Work = Callable[[], Any]


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


def device_name(device: str) -> str:
    """The device as rows name it."""
    return torch.cuda.get_device_name() if device == "cuda" else "CPU, a trial"


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
