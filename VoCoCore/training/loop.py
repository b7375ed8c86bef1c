"""The step loop: one for every job, knowing no task by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from VoCoCore.data.loading import to_device
from VoCoCore.devices import Machine
from VoCoCore.inference.allocator import kept_memory
from VoCoCore.settings import UpdateSettings
from VoCoCore.training.monitor import Monitor
from VoCoCore.training.schedule import warmup_cosine
from VoCoCore.training.updates import Updater


@dataclass(frozen=True)
class Look:
    """What a look at held-out cases says: keep this state as the best one; go no further; or that it was broken off,
    because the job is to stop, and has still to be done (all ranks agree).
    """

    better: bool = False
    enough: bool = False
    owed: bool = False


@dataclass
class Job:
    """What the loop works on. ``model`` is the task, wrapped where several ranks share it."""

    task: Any
    model: nn.Module
    updater: Updater
    batches: Iterator[dict[str, Tensor]]
    machine: Machine
    optim: UpdateSettings
    steps: int
    monitor: Monitor
    start: int
    ended: bool
    owed: bool  # the look after step ``start`` was broken off
    look: Callable[[int], Look]
    look_every: int
    save: Callable[[int], None]
    save_every: int
    should_stop: Callable[[], bool]


@kept_memory()
def run_steps(job: Job) -> tuple[int, bool]:
    """Train from step ``job.start`` to the end, or until a look or somebody says so; not at all if ``job.ended``.

    Returns the number of steps done, and whether the job is at its end (not so when it was asked to stop). Nothing in a
    step waits for the device: counters and metrics are read by the monitor, every so many steps.
    """
    optim, done, stopping, ended = job.optim, job.start, False, job.ended
    warmup = optim.warmup or 0
    assert optim.lr is not None  # chosen by the plan
    job.model.train()
    if job.owed:
        stopping, ended = _after_step(job, done, stopping, done == job.steps)
    while not (stopping or ended):
        lr = warmup_cosine(done, optim.lr, warmup, job.steps)
        for left in reversed(range(optim.accumulate)):
            batch = to_device(next(job.batches), job.machine.device)
            with _apart(job.model) if left else nullcontext():
                with job.machine.autocast():
                    outcome = job.model(batch)
                job.updater.backward(outcome.loss / optim.accumulate)
        job.updater.step(lr, done)
        job.task.after_step(done)
        done += 1
        stopping, ended = job.should_stop(), done == job.steps
        job.monitor.after_step(done, lr, outcome, stopping or ended)
        stopping, ended = _after_step(job, done, stopping, ended)
    return done, ended


def _apart(model: nn.Module) -> AbstractContextManager:
    """Context in which ranks keep their gradients to themselves: the last batch of a step adds up all of them."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def _after_step(job: Job, done: int, stopping: bool, ended: bool) -> tuple[bool, bool]:
    """Look and save where it is time; whether the job is then asked to stop, and whether it is at its end."""
    seen = Look()
    if done % job.look_every == 0 or ended:
        seen = job.look(done)
        job.model.train()
    stopping, ended = stopping or seen.owed, (ended or seen.enough) and not seen.owed
    if done % job.save_every == 0 or seen.better or stopping or ended:
        job.save(done)
    return stopping, ended
