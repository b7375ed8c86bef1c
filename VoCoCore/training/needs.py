"""What one job needs on one machine, as figures, and where the machine has less."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from VoCoCore.errors import counted
from VoCoCore.runs.files import free_bytes
from VoCoCore.runs.narrate import duration

LONG = 1.0  # seconds of a trial on a processor, beyond which it is not done twice
KEPT = 4  # checkpoints that lie on the disk at one time: the newest two, the best, and one being written


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Figures for one job; sizes in MB (2**20 bytes), times in seconds.

    ``volume_mb``: one prepared case on the disk; ``cases``: how many are prepared (None: nobody has looked);
    ``machine``: what the time is for; ``runs``: jobs of this kind, one after the other, as for all folds.
    """

    parameters: int
    crops: int
    weights_mb: float
    activations_mb: float
    checkpoint_mb: float
    volume_mb: float
    step_s: float
    steps: int
    machine: str
    cases: int | None = None
    runs: int = 1

    @property
    def memory_mb(self) -> float:
        """Weights, gradients, optimiser and activations together."""
        return self.weights_mb + self.activations_mb

    @property
    def checkpoints_mb(self) -> float:
        """Disk for the checkpoints of all runs."""
        return self.runs * KEPT * self.checkpoint_mb

    @property
    def disk_mb(self) -> float:
        """Disk for checkpoints and, where their number is known, prepared cases."""
        return self.checkpoints_mb + (self.cases or 0) * self.volume_mb

    @property
    def seconds(self) -> float:
        """Time of all steps of all runs."""
        return self.runs * self.steps * self.step_s

    def words(self) -> str:
        """Some lines that a person reads."""
        raise NotImplementedError

    def figures(self) -> dict[str, Any]:
        """What a program reads: plain values by name."""
        numbers = ("memory_mb", "weights_mb", "activations_mb", "checkpoints_mb", "volume_mb", "disk_mb")
        times = {name: float(f"{getattr(self, name):.4g}") for name in ("step_s", "seconds")}
        counts = {name: getattr(self, name) for name in ("parameters", "crops", "cases", "steps", "runs")}
        sizes = {name: round(getattr(self, name), 2) for name in numbers}
        return {**counts, **sizes, **times, "machine": self.machine}


@dataclass(frozen=True, kw_only=True)
class FinetuneNeeds(Needs):
    """Those of a fine-tuning; ``crop_size`` (3,) in voxels."""

    crop_size: tuple[int, ...]

    def words(self) -> str:
        """One line."""
        each = f"each of {self.runs} folds: " if self.runs > 1 else ""
        return (
            f"{each}{self.parameters / 1e6:.1f} M parameters, {counted(self.crops, 'crop')} of "
            f"{' x '.join(map(str, self.crop_size))} a step; "
            f"about {self.memory_mb:,.0f} MB of memory, {KEPT * self.checkpoint_mb:,.0f} MB of disk; "
            f"{duration(self.step_s * self.steps)} or less for {counted(self.steps, 'step')}, "
            "to be corrected by the first of them"
        )


def clock(device: str) -> float:
    """Seconds, to time a trial by: on a processor those that this thread has computed, whatever runs beside it."""
    return time.thread_time() if device == "cpu" else wall_clock(device)


def wall_clock(device: str) -> float:
    """Seconds of the wall clock, once a GPU has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def lack_of_memory(needs: Needs, room: float) -> str:
    """What to say where ``room`` MB are less than a job needs; empty where they are not."""
    if needs.memory_mb <= room:
        return ""
    return (
        f"this job may run out of memory: it needs about {needs.memory_mb:,.0f} MB, "
        f"and {room:,.0f} MB can be had"
    )


def lack_of_disk(needs: Needs, folder: Path) -> str:
    """What to say where the disk on which ``folder`` is or will be has less room than a job needs."""
    free = free_bytes(folder)
    if free is None or needs.disk_mb <= free / 2**20:
        return ""
    return f"the disk is too small: the job needs about {needs.disk_mb:,.0f} MB, and {free / 2**20:,.0f} MB are free"
