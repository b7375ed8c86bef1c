"""Pre-training as one job: prepare, train, look at held-out volumes, leave weights. Everything goes to a run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from VoCoCore import __version__
from VoCoCore.data.loading import Numbers, Samples, make_loader
from VoCoCore.data.sampling import TRAIN, VALIDATION
from VoCoCore.devices import Machine, choose, this_rank, wait_for_each_other
from VoCoCore.errors import DataError, EnvironmentFault, SettingsError, StopRequested
from VoCoCore.models.weights import save_weights
from VoCoCore.pretext.build import build_task, encoder_factory
from VoCoCore.runs.describe import last_checkpoint
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.files import read_json
from VoCoCore.settings import PretrainSettings
from VoCoCore.training import checkpoint, ending, memory, validation
from VoCoCore.training.cohort import Cohort, gather_cohort
from VoCoCore.training.explain import explained
from VoCoCore.training.loop import Job, run_steps
from VoCoCore.training.monitor import Monitor
from VoCoCore.training.opening import open_run, take_up
from VoCoCore.training.pictures import keep_pictures
from VoCoCore.training.reporter import Listener, Reporter
from VoCoCore.training.updates import Updater
from VoCoCore.training.workarounds import mend


@dataclass(frozen=True)
class Result:
    """What a job left: its folder, the encoder's weights (None when it stopped before the end), the steps done."""

    run: Path
    weights: Path | None
    steps: int
    finished: bool


class Pretraining:
    """One attempt at a run; `pretrain` is the way to it."""

    def __init__(
        self,
        settings: PretrainSettings,
        run: RunDirectory,
        listeners: Iterable[Listener],
        should_stop: Callable[[], bool],
    ) -> None:
        self.settings, self.run, self.report = settings, run, Reporter(run, listeners)
        self.machine: Machine = choose(settings.run)
        self.asked = should_stop
        if settings.optim.batch % self.machine.ranks:
            raise SettingsError(
                f"optim.batch {settings.optim.batch} cannot be divided among {self.machine.ranks} ranks",
                "use a multiple of the number of ranks",
            )
        self.channels, self.room = 1, memory.room_mb(self.machine)
        self.best = -1.0
        self.is_best = False

    def emit(self, kind: str, **fields: Any) -> None:
        """Tell the run folder and every listener; silent on other ranks than the first."""
        if self.machine.main:
            self.report(kind, **fields)

    def should_stop(self) -> bool:
        """Whether this attempt was asked to end; all ranks agree, whichever of them was asked."""
        stop = self.should_stop_alone()
        if self.machine.ranks == 1:
            return stop
        flag = torch.tensor(float(stop), device=self.machine.device)
        dist.all_reduce(flag)
        return bool(flag.item())

    def should_stop_alone(self) -> bool:
        """The same, asked by one rank for itself; the first one looks into the folder for all."""
        return self.asked() or (self.machine.main and self.run.stop_requested())

    def work(self, attempt: int) -> Result:
        """Do the job; see `pretrain`. Errors of libraries that the machine caused come out in our own words."""
        try:
            return self._work(attempt)
        except Exception as error:
            known = explained(error, self.machine.ranks, self._out_of_memory)
            if known is error:
                raise
            raise known from error

    def _out_of_memory(self) -> EnvironmentFault:
        return memory.out_of_memory(self.settings, self.machine, self.channels, self.room)

    def _work(self, attempt: int) -> Result:
        self.emit("stage", name="preparing")
        cohort = self._gather()
        self.channels = cohort.channels
        if self.machine.main and not checkpoint.checkpoints(self.run.checkpoints):
            needs = (self.settings, self.machine, cohort.channels, self.room)
            memory.say_needs(*needs, self.run.path, self.emit)
        torch.manual_seed(self.settings.run.seed)
        self.task = self._build(cohort)
        self.updater = Updater(self.task.parameters(), self.settings.optim, self.machine)
        start = self._resume()
        self._note(device=self.machine.words, data=cohort.facts())
        self.emit("started", attempt=attempt, step=start, device=self.machine.words, data=cohort.facts())
        done = run_steps(self._job(cohort, start))
        finished = done >= self.settings.optim.steps
        weights = self._export(cohort, done) if finished else None
        return Result(self.run.path, weights, done, finished)

    def _gather(self) -> Cohort:
        """The first rank prepares; the others then find the cohort that it left."""
        parts = (self.settings, self.run, self.emit, self.should_stop_alone)
        cohort = gather_cohort(*parts) if self.machine.main else None
        wait_for_each_other()
        return cohort or gather_cohort(*parts)

    def _note(self, **facts: Any) -> None:
        """Add to environment.json what only the job knows."""
        if self.machine.main:
            known = read_json(self.run.path / "environment.json") or {}
            self.run.write_json("environment.json", {**known, **facts})

    def _build(self, cohort: Cohort) -> Any:
        task = build_task(self.settings, encoder_factory(self.settings, cohort.channels)).to(
            self.machine.device
        )
        mend(task, self.machine)
        if self.settings.run.compile:
            task.export().compile(dynamic=False)
        return task

    def _resume(self) -> int:
        found, damaged = checkpoint.newest(self.run.checkpoints)
        if damaged and found is None:
            raise DataError(
                f"no checkpoint in {self.run.checkpoints} is whole",
                "put copies back, or delete that folder to begin again from step 0",
            )
        if found is None:
            return 0
        step, extra = checkpoint.load_checkpoint(found, self.task, self.updater)
        wait_for_each_other()  # nobody looks for checkpoints any more when the damaged ones are moved
        for path in damaged if self.machine.main else ():
            aside = checkpoint.set_aside(path).name
            self.emit(
                "warning",
                message=f"checkpoint {path.name} is damaged, so the one of step {step} is used",
                hint=f"it was set aside as {aside} and may be deleted",
            )
        self.best = float(extra["best"])
        return step

    def _job(self, cohort: Cohort, start: int) -> Job:
        settings, optim, machine = self.settings, self.settings.optim, self.machine
        views = partial(_views, type(self.task), settings, TRAIN)
        samples = Samples(Path(cohort.store), cohort.train, views, seed=settings.run.seed)
        per_step = optim.batch * optim.accumulate
        numbers = Numbers(start * per_step, optim.steps * per_step, optim.batch, machine.rank, machine.ranks)
        monitor = Monitor(settings, machine, self.updater, self.task.diagnostics, self.emit, start)
        return Job(
            task=self.task,
            model=self._shared(),
            updater=self.updater,
            batches=make_loader(samples, numbers, self._workers(), machine.device.type == "cuda"),
            machine=machine,
            optim=optim,
            monitor=monitor,
            start=start,
            validate=partial(self._validate, cohort),
            validate_every=settings.run.validate_every or optim.steps,
            save=self._save,
            save_every=settings.run.checkpoint_every or optim.steps,
            should_stop=self.should_stop,
        )

    def _shared(self) -> nn.Module:
        if self.machine.ranks == 1:
            return self.task
        return nn.parallel.DistributedDataParallel(self.task, broadcast_buffers=False)

    def _workers(self) -> int:
        if self.settings.data.workers is not None:
            return self.settings.data.workers
        # On a CPU the network needs every core itself, and a read is short beside a step.
        return 0 if self.machine.device.type == "cpu" else min(8, max(1, torch.get_num_threads() - 1))

    def _validate(self, cohort: Cohort, done: int) -> None:
        if not cohort.val or not self.machine.main:
            return
        settings, machine = self.settings, self.machine
        views = partial(_views, type(self.task), settings, VALIDATION)
        samples = Samples(Path(cohort.store), cohort.val, views)
        numbers = Numbers(
            0, len(cohort.val) * settings.run.validation_rounds, min(settings.optim.batch, len(cohort.val))
        )
        seen = validation.look(self.task, make_loader(samples, numbers, 0, False), machine)
        values = validation.score(seen, settings.crops)
        self.is_best, self.best = (
            values["position_accuracy"] > self.best,
            max(self.best, values["position_accuracy"]),
        )
        self.emit("metrics", step=done, split="val", values=values)
        keep_pictures(self.run.validation / "latest.npz", samples, seen, settings.crops, done)
        self.emit("image", file="validation/latest.npz", step=done)

    def _save(self, done: int) -> None:
        if not self.machine.main:
            return
        folder = self.run.checkpoints
        checkpoint.save_checkpoint(folder, done, self.task, self.updater, {"best": self.best}, self.is_best)
        self.is_best = False
        self.emit("checkpoint", step=done)

    def _export(self, cohort: Cohort, done: int) -> Path:
        model, path = self.settings.model, self.run.weights / "encoder.safetensors"
        if self.machine.main:
            facts = {
                "what": "VoCo pre-trained encoder",
                "encoder": model.encoder,
                "feature_size": str(model.feature_size),
                "in_channels": str(cohort.channels),
                "input_size": ",".join(str(edge) for edge in self.settings.crops.input_size or ()),
                "recipe": self.settings.recipe,
                "steps": str(done),
                "data": cohort.fingerprint,
                "run": self.run.name,
                "vococore": __version__,
            }
            save_weights(self.task.export(), path, facts)
        return path


def _views(
    task: Any, settings: PretrainSettings, stream: int, number: int, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    return task.views(settings, number, shape, stream)


def pretrain(
    settings: PretrainSettings,
    run_folder: str | Path,
    *,
    environment: dict[str, Any] | None = None,
    resume: bool = False,
    listeners: Iterable[Listener] = (),
    should_stop: Callable[[], bool] = lambda: False,
    after: Callable[[RunDirectory], object] = lambda run: None,
) -> Result:
    """Pre-train an encoder as ``settings`` (complete, see `presets.resolve_pretrain`) say, in ``run_folder``.

    ``resume`` goes on from the newest whole checkpoint. ``listeners`` get every event as a dictionary; ``should_stop``
    is asked after each step; ``after`` is called at the end, whatever it was, with the run (to write its report).
    Raises SettingsError, DataError, EnvironmentFault; the run's status and events then say the same.
    """
    if this_rank() > 0:
        # The first rank owns the run; the others only compute.
        return Pretraining(settings, RunDirectory(run_folder), (), should_stop).work(attempt=0)
    run = open_run(settings, Path(run_folder), environment or {}, resume)
    with run.lock(), run.heartbeat():
        take_up(settings, run)
        run.clear_stop()
        attempt = run.next_attempt()
        run.write_status("preparing", total=settings.optim.steps)
        try:
            result = Pretraining(settings, run, listeners, should_stop).work(attempt)
        except StopRequested:
            # Asked to end while still preparing: what is prepared stays prepared.
            ending.stopped(run, last_checkpoint(run) or 0)
            raise
        except KeyboardInterrupt:
            raise ending.cut_short(run) from None
        except BaseException as error:
            ending.failed(run, error)
            with suppress(Exception):
                after(run)
            raise
        if result.finished:
            run.events.emit("finished", state="finished", step=result.steps)
            run.write_status("finished", result.steps)
        else:
            ending.stopped(run, result.steps)
        after(run)
    return result
