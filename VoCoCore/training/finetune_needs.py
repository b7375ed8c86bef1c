"""What a fine-tuning will need, measured on its own network: time of a step, memory and disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from VoCoCore.devices import Machine, is_out_of_memory
from VoCoCore.errors import EnvironmentFault
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.models.placing import placed
from VoCoCore.training.crop_plan import Need
from VoCoCore.training.disk import check_room
from VoCoCore.training.live_memory import LivePeak
from VoCoCore.training.memory import room_mb
from VoCoCore.training.needs import LONG, FinetuneNeeds, clock, lack_of_memory, wall_clock

MB = 2**20
SHARE = 0.85  # of the hours that are training; the rest is for looks and checkpoints
LESS_MEMORY = (
    "lower patches.per_case, optim.batch, patches.size or model.feature_size, or set model.checkpointing"
)


def steps_in(
    settings: FinetuneSettings, network: nn.Module, channels: int, machine: Machine
) -> tuple[int, str]:
    """The number of steps that fit into run.hours, by timing two, and the reason in words."""
    assert settings.run.hours
    network = placed(network, machine).train()
    crops, seconds = _crops(settings, channels, machine, _count(settings, machine)), []
    for _ in range(3):
        began = wall_clock(machine.device.type)
        _pass(network, crops, machine)
        seconds.append(wall_clock(machine.device.type) - began)
    step = min(seconds) * settings.optim.accumulate * 1.1
    steps = max(10, int(settings.run.hours * 3600 * SHARE / step))
    return (
        steps,
        f"optim.steps {steps}: {settings.run.hours:g} h at about {step:.2g} s a step on this machine",
    )


def _count(settings: FinetuneSettings, machine: Machine) -> int:
    """Crops that one rank sees in a step."""
    assert settings.optim.batch
    each = settings.patches.per_case if settings.task == "segmentation" else 1
    assert each
    return max(1, settings.optim.batch // machine.ranks) * each


def _crops(settings: FinetuneSettings, channels: int, machine: Machine, count: int) -> Tensor:
    assert settings.patches.size
    return torch.rand(count, channels, *settings.patches.size, device=machine.device)


def _pass(network: nn.Module, crops: Tensor, machine: Machine) -> None:
    with machine.autocast():
        found = network(crops)
    outputs = found if isinstance(found, list) else [found]
    sum(output.float().square().mean() for output in outputs).backward()


def need_of(settings: FinetuneSettings, network: nn.Module, channels: int, machine: Machine) -> Need:
    """What a crop needs on ``network``, by trying one; timed where the job has only so many hours.

    Where not even that fits, a crop needs infinitely much.
    """
    room, fixed = room_mb(machine), _fixed_mb(settings, network)
    try:
        network, crops = placed(network, machine).train(), _crops(settings, channels, machine, count=1)
        with LivePeak(known=[*network.parameters(), crops]) as live:
            _pass(network, crops, machine)
        began = wall_clock(machine.device.type)
        if settings.run.hours is not None:
            _pass(network, crops, machine)
        seconds = wall_clock(machine.device.type) - began if settings.run.hours is not None else None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return Need(float("inf"), fixed, room)
    return Need(live.peak / MB, fixed, room, seconds)


def _fixed_mb(settings: FinetuneSettings, network: nn.Module) -> float:
    """Weights, gradients, moments, and the weights' average where one is kept."""
    return 4 * sum(p.numel() for p in network.parameters()) * _copies(settings) / MB


def _copies(settings: FinetuneSettings) -> int:
    """Numbers for each parameter: itself, its gradient, two moments (AMSGrad: three), its average.

    All but the gradient are in a checkpoint.
    """
    return 4 + settings.optim.amsgrad + (settings.optim.ema > 0)


def say_needs(
    settings: FinetuneSettings,
    network: nn.Module,
    channels: int,
    machine: Machine,
    folder: Path,
    emit: Callable[..., None],
) -> None:
    """Tell memory, disk and time before the first step, and warn where there is less memory.

    Raises EnvironmentFault where the disk of the run's ``folder`` is too small for the checkpoints.
    """
    room, needs = room_mb(machine), needs_of(settings, network, channels, machine)
    emit("stage", name="estimate", text=needs.words())
    check_room(folder, needs.checkpoints_mb)
    if lacking := lack_of_memory(needs, room):
        emit("warning", message=lacking, hint=LESS_MEMORY)


def needs_of(
    settings: FinetuneSettings, network: nn.Module, channels: int, machine: Machine
) -> FinetuneNeeds:
    """Figures of the job with settings that leave nothing open; tries ``network`` on one crop.

    Raises EnvironmentFault where not even that fits into the memory.
    """
    trained, count = sum(p.numel() for p in network.parameters()), _count(settings, machine)
    try:
        network, crops = placed(network, machine).train(), _crops(settings, channels, machine, count=1)
        began = clock(machine.device.type)
        with LivePeak(known=[*network.parameters(), crops]) as live:
            _pass(network, crops, machine)
        ended = clock(machine.device.type)
        if machine.device.type == "cuda" or ended - began < LONG:
            # A first pass has preparations in it: a card tries which algorithms are quick, for many times as long.
            began = ended
            _pass(network, crops, machine)
            ended = clock(machine.device.type)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(settings, machine) from error
        raise
    return FinetuneNeeds(
        parameters=trained,
        crops=count,
        weights_mb=_fixed_mb(settings, network),
        activations_mb=count * live.peak / MB,
        checkpoint_mb=4 * trained * (_copies(settings) - 1) / MB,
        volume_mb=0.0,
        step_s=(ended - began) * count * settings.optim.accumulate,
        steps=settings.optim.steps or 0,
        machine=machine.words,
        crop_size=tuple(crops.shape[2:]),
    )


def out_of_memory(settings: FinetuneSettings, machine: Machine) -> EnvironmentFault:
    """The error to end with, and what to change in a new run folder."""
    changes: dict[str, Any] = {}
    each = settings.patches.per_case or 1
    if each > 1 and settings.task == "segmentation":
        changes["patches.per_case"] = each // 2
    elif (settings.optim.batch or 1) > machine.ranks:
        changes["optim.batch"] = max(
            machine.ranks, (settings.optim.batch or 2) // 2 // machine.ranks * machine.ranks
        )
        changes["optim.accumulate"] = settings.optim.accumulate * 2
    elif not settings.model.checkpointing:
        changes["model.checkpointing"] = "true"
    named = " ".join(f"--{name} {value}" for name, value in changes.items())
    hint = f"in a new run folder, try {named}" if named else LESS_MEMORY
    return EnvironmentFault(f"out of memory on the {machine.device.type.upper()}", hint)
