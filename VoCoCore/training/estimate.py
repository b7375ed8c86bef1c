"""What a job will need: memory, disk and time, before it starts.

Operations and live activations are counted on the job's own encoder and one crop, without values. Time is taken from a
step, of a narrow network where the job's would take too long. The time left is corrected by the steps themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from VoCoCore.devices import Machine
from VoCoCore.errors import counted
from VoCoCore.models.attention import held_by_pieces
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.interface import Encoder
from VoCoCore.models.outline import without_values
from VoCoCore.models.placing import placed
from VoCoCore.pretext.build import build_task, encoder_factory
from VoCoCore.pretext.parts import crops_at_once
from VoCoCore.runs.narrate import duration
from VoCoCore.settings import PretrainSettings
from VoCoCore.training.live_memory import LivePeak
from VoCoCore.training.needs import LONG, Needs, clock

PROBE = {"cpu": 12, "mps": 12, "cuda": 48}
FITTED = (12, 24, 36)
MB = 2**20


@dataclass(frozen=True, kw_only=True)
class Estimate(Needs):
    """Figures for a pre-training; ``step_gflop``: operations of a step."""

    step_gflop: float

    def words(self) -> str:
        """Two lines that a person reads."""
        return (
            f"{self.parameters / 1e6:.1f} M trained parameters, {self.crops} crops a step "
            f"({self.step_gflop:,.0f} GFLOP); "
            f"about {self.memory_mb:,.0f} MB of memory ({self.weights_mb:,.0f} weights and optimiser, "
            f"{self.activations_mb:,.0f} activations), {self.checkpoints_mb:,.0f} MB of disk for checkpoints, "
            f"at most {self.volume_mb:.1f} MB a prepared volume\n"
            f"about {self.step_s:.2g} s a step on {self.machine}: {duration(self.seconds)} for "
            f"{counted(self.steps, 'step')}, to be corrected by the first of them"
        )


def estimate(
    settings: PretrainSettings, machine: Machine, channels: int = 1, cases: int | None = None
) -> Estimate:
    """Estimate the job that ``settings`` describe for so many ``cases`` (None: not known) of ``channels`` images."""
    crops, model, optim = settings.crops, settings.model, settings.optim
    assert crops.volume_size and crops.input_size
    n = crops.counts[0] * crops.counts[1] * crops.counts[2]
    count = (crops.random_crops + n) * optim.batch
    crop = (model.encoder, channels, crops.input_size, settings.pretext.pooling == "after")
    gflop, peak_mb = _gflop(*crop, model.feature_size), _peak_mb(*crop, model.feature_size)
    seconds = _seconds(*crop, model.feature_size, machine)
    passes = 3.0 + (settings.pretext.teacher == "network") + model.checkpointing
    trained, fixed = _sizes(settings, channels)
    voxels = crops.volume_size[0] * crops.volume_size[1] * crops.volume_size[2] * channels
    # Weights and gradients, two moments, and AMSGrad's largest second moment.
    copies = 4 + optim.amsgrad
    half = 0.6 if machine.precision in ("bf16", "fp16") else 1.0
    each = -(-count // machine.ranks)
    held = min(each, crops_at_once(machine.device.type, crops.input_size)) if model.checkpointing else each
    # The crops, and the volumes that they are cut from: as stored, and as numbers between 0 and 1.
    inputs = 4 * each * prod(crops.input_size) * channels + 5 * voxels * optim.batch / machine.ranks
    pieces = held_by_pieces(machine.device.type) if model.encoder == "swin_unetr" else 0
    return Estimate(
        parameters=trained,
        crops=count,
        step_gflop=gflop * passes * count * optim.accumulate,
        weights_mb=4 * (trained * copies + fixed) / MB,
        activations_mb=peak_mb * half * held + (inputs + pieces) / MB,
        checkpoint_mb=4 * (trained * (copies - 1) + fixed) / MB,
        volume_mb=voxels / MB,
        step_s=seconds * passes / 3 * count * optim.accumulate / machine.ranks,
        steps=optim.steps,
        machine=machine.words,
        cases=cases,
    )


@lru_cache
def _gflop(name: str, channels: int, edges: tuple[int, int, int], last_only: bool, size: int) -> float:
    """GFLOP forward for one crop of ``edges``, counted with tensors that have no values."""
    encoder, crop = _without_values(name, channels, edges, last_only, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(crop)
    return counter.get_total_flops() / 1e9


@lru_cache
def _peak_mb(name: str, channels: int, edges: tuple[int, int, int], last_only: bool, size: int) -> float:
    """MB of the tensors that a pass forward and back holds at most for one crop, in the same way.

    Parameters and their gradients are left out.
    """
    encoder, crop = _without_values(name, channels, edges, last_only, size)
    crop.requires_grad_()  # so that what the parameters need is kept, but none of their gradients is made
    with LivePeak(known=[*encoder.parameters(), crop]) as live:
        torch.autograd.grad(sum(m.float().mean() for m in encoder(crop)), crop)
    return live.peak / MB


def _without_values(
    name: str, channels: int, edges: tuple[int, int, int], last_only: bool, size: int
) -> tuple[Encoder, torch.Tensor]:
    with without_values():
        encoder = build_encoder(name, channels, size, edges, last_only=last_only)
        return encoder, torch.empty(1, channels, *edges)


@lru_cache
def _seconds(
    name: str, channels: int, edges: tuple[int, int, int], last_only: bool, size: int, machine: Machine
) -> float:
    """Seconds forward and backward for one crop, among as many as keep the device busy.

    Timed with a narrow network where the wide one would take too long. What does not grow with the width, such as the
    windows' attention, is in this time; the operations that the wide one has beyond go at a wide convolution's speed.
    """
    narrow = min(PROBE[machine.device.type], size)
    encoder = placed(build_encoder(name, channels, narrow, edges, last_only=last_only), machine)
    together = crops_at_once(machine.device.type, edges)
    crops = torch.randn(together, channels, *edges, device=machine.device)
    seconds = _quickest(lambda: encoder(crops), machine) / together
    if narrow == size:
        return seconds
    wide, probed = (_gflop(name, channels, edges, last_only, width) for width in (size, narrow))
    return seconds + 3 * (wide - probed) / _gflops_a_second(machine)


@lru_cache
def _gflops_a_second(machine: Machine) -> float:
    """GFLOP/s of a convolution of 48 channels, forward and backward."""
    convolution = placed(nn.Conv3d(48, 48, 3, padding=1), machine)
    maps = torch.randn(2, 48, 32, 32, 32, device=machine.device, requires_grad=True)
    seconds = _quickest(lambda: [convolution(maps)], machine)
    return 3 * 2 * 27 * 48**2 * maps[:, 0].numel() / 1e9 / seconds


def _quickest(maps_of: Callable[[], list[torch.Tensor]], machine: Machine) -> float:
    """Seconds of the second pass, or of the first where that takes a processor so long that its preparations do not
    matter and a user would wait for nothing."""
    first = _timed(maps_of, machine)
    return first if machine.device.type == "cpu" and first > LONG else min(first, _timed(maps_of, machine))


def _timed(maps_of: Callable[[], list[torch.Tensor]], machine: Machine) -> float:
    began = clock(machine.device.type)
    with machine.autocast():
        maps = maps_of()
    torch.stack([m.float().mean() for m in maps]).sum().backward()
    return clock(machine.device.type) - began


def _sizes(settings: PretrainSettings, channels: int) -> tuple[int, int]:
    """Number of trained and of other parameters of the whole task.

    Both are quadratic in the feature size, so three small networks tell them exactly for the largest.
    """
    counts = [_count(settings.with_values({"model.feature_size": size}), channels) for size in FITTED]
    curves = np.polyfit(FITTED, np.asarray(counts, dtype=float), deg=2)
    trained, fixed = (round(float(np.polyval(curve, settings.model.feature_size))) for curve in curves.T)
    return trained, fixed


def _count(settings: PretrainSettings, channels: int) -> tuple[int, int]:
    task = build_task(settings, encoder_factory(settings, channels))
    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in task.parameters()) - trained
