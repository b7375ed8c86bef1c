"""The step loop: one for every job, knowing no task by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from VoCoCore.data.loading import to_device
from VoCoCore.devices import Machine
from VoCoCore.settings import OptimSettings
from VoCoCore.training.monitor import Monitor
from VoCoCore.training.schedule import warmup_cosine
from VoCoCore.training.updates import Updater


@dataclass
class Job:
    """What the loop works on. ``model`` is the task, wrapped where several ranks share it."""

    task: Any
    model: nn.Module
    updater: Updater
    batches: Iterator[dict[str, Tensor]]
    machine: Machine
    optim: OptimSettings
    monitor: Monitor
    start: int
    validate: Callable[[int], None]
    validate_every: int
    save: Callable[[int], None]
    save_every: int
    should_stop: Callable[[], bool]


def run_steps(job: Job) -> int:
    """Train from step ``job.start`` to the end or until asked to stop; returns the number of steps done.

    Nothing in a step waits for the device: counters and metrics are read by the monitor, every so many steps.
    """
    optim, done = job.optim, job.start
    warmup = optim.warmup or 0
    job.model.train()
    while done < optim.steps:
        lr = warmup_cosine(done, optim.lr, warmup, optim.steps)
        for _ in range(optim.accumulate):
            batch = to_device(next(job.batches), job.machine.device)
            with job.machine.autocast():
                outcome = job.model(batch)
            job.updater.backward(outcome.loss / optim.accumulate)
        job.updater.step(lr)
        job.task.after_step(done)
        done += 1
        stopping = job.should_stop()
        last = stopping or done == optim.steps
        job.monitor.after_step(done, lr, outcome, last)
        if done % job.validate_every == 0 or done == optim.steps:
            job.validate(done)
            job.model.train()
        if done % job.save_every == 0 or last:
            job.save(done)
        if stopping:
            break
    return done
