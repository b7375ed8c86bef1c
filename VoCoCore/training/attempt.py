"""One attempt at a run: what pre-training and fine-tuning share. Each says in a few methods what is its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from VoCoCore.data.loading import Numbers, make_loader
from VoCoCore.data.workers import usual_workers, workers_with_room
from VoCoCore.devices import Machine, all_ranks, choose, ranks_here, this_rank, wait_for_each_other
from VoCoCore.errors import EnvironmentFault, SettingsError, StopRequested, counted
from VoCoCore.models.placing import placed
from VoCoCore.runs.describe import last_checkpoint
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.files import read_json
from VoCoCore.training import checkpoint, ending
from VoCoCore.training.explain import explained
from VoCoCore.training.loop import Job, Look, run_steps
from VoCoCore.training.monitor import Monitor
from VoCoCore.training.opening import open_run, take_up
from VoCoCore.training.ranks import Ranks
from VoCoCore.training.reporter import Listener, Reporter
from VoCoCore.training.resuming import chosen_checkpoint, set_damaged_aside
from VoCoCore.training.updates import Updater


@dataclass(frozen=True)
class Result:
    """What a job left: its folder, its weights (None when it stopped before the end), the steps done."""

    run: Path
    weights: Path | None
    steps: int
    finished: bool


class Attempt:
    """One attempt at a run; `carry_out` is the way to it.

    A job's own are the methods that raise NotImplementedError here, and those that say that they do nothing.
    """

    def __init__(
        self,
        settings: Any,
        run: RunDirectory,
        listeners: Iterable[Listener],
        should_stop: Callable[[], bool],
    ) -> None:
        self.settings, self.run, self.report = settings, run, Reporter(run, listeners)
        self.machine: Machine = choose(settings.run)
        self.ranks = Ranks(self.machine.ranks)
        self.asked = should_stop
        self.best, self.is_best = -1.0, False
        self.owed = False  # a look was broken off

    # What a job says of itself

    def gather(self) -> None:
        """Find and prepare the cases; on every rank but the first, find them prepared."""
        raise NotImplementedError

    def say_needs(self) -> None:
        """Tell, before the first step, what the job will need."""

    def build(self) -> Any:
        """The task: one module whose forward pass gives the losses of a batch, see `pretext.task`."""
        raise NotImplementedError

    def updater_of(self, task: nn.Module) -> Updater:
        """The optimiser of the task's parameters."""
        return Updater(task.parameters(), self.settings.optim, self.machine)

    def samples(self) -> Any:
        """The training samples by number."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What may be told to anyone about the cases."""
        raise NotImplementedError

    def look(self, done: int) -> Look:
        """Look at the held-out cases."""
        raise NotImplementedError

    def has_enough(self) -> bool:
        """Whether the looks so far say to go no further, also those of an attempt before."""
        return False

    def export(self, done: int) -> Path:
        """Leave the weights."""
        raise NotImplementedError

    def out_of_memory(self) -> EnvironmentFault:
        """The error to end with when memory runs out: what to change."""
        raise NotImplementedError

    # What all jobs do

    def emit(self, kind: str, **fields: Any) -> None:
        """Tell the run folder and every listener; silent on other ranks than the first."""
        if self.machine.main:
            self.report(kind, **fields)

    def should_stop(self) -> bool:
        """Whether this attempt was asked to end; all ranks agree, whichever of them was asked."""
        return self.ranks.any(self.should_stop_alone())

    def should_stop_alone(self) -> bool:
        """The same, asked by one rank for itself; the first one looks into the folder for all."""
        return self.asked() or (self.machine.main and self.run.stop_requested())

    def breaks_off(self) -> bool:
        """Whether a look that may last is to end here, asked by one rank for itself, before each case."""
        return self.asked() or self.run.stop_requested()

    def work(self, attempt: int) -> Result:
        """Do the job. Errors of libraries that the machine caused come out in our own words."""
        try:
            return self._work(attempt)
        except Exception as error:
            stopping = self.settings.run.compile and self.asked()
            known = explained(error, self.machine.ranks, self.out_of_memory, stopping)
            if known is error:
                raise
            raise known from error

    def _work(self, attempt: int) -> Result:
        self.emit("stage", name="preparing")
        self._check_batch()
        if self.machine.main:
            self.gather()
        wait_for_each_other()
        if not self.machine.main:
            self.gather()
        self._check_batch()
        if self.machine.main and not checkpoint.checkpoints(self.run.checkpoints):
            self.say_needs()
        torch.manual_seed(self.settings.run.seed)
        self.task = placed(self.build(), self.machine)
        self.updater = self.updater_of(self.task)
        start = self._resume()
        self.note(device=self.machine.words, data=self.facts())
        self.emit("started", attempt=attempt, step=start, device=self.machine.words, data=self.facts())
        done, ended = run_steps(self._job(start))
        weights = self.export(done) if ended else None
        return Result(self.run.path, weights, done, ended)

    def _check_batch(self) -> None:
        batch, ranks = self.settings.optim.batch, self.machine.ranks
        if (batch or 0) % ranks:
            raise SettingsError(
                f"optim.batch {batch} cannot be divided among {ranks} ranks",
                "use a multiple of the number of ranks",
            )

    def note(self, **facts: Any) -> None:
        """Add to environment.json what only the job knows."""
        if self.machine.main:
            known = read_json(self.run.path / "environment.json") or {}
            self.run.write_json("environment.json", {**known, **facts})

    def _resume(self) -> int:
        found, damaged = chosen_checkpoint(self.run.checkpoints, self.ranks, self.machine.main)
        if found is None:
            return 0
        step, extra = checkpoint.load_checkpoint(found, self.task, self.updater)
        for words in set_damaged_aside(damaged, step):
            self.emit("warning", **words)
        self.take_up(extra)
        return step

    def kept(self) -> dict[str, Any]:
        """Plain values that a checkpoint keeps for `take_up`."""
        return {"best": self.best, "owed": self.owed}

    def take_up(self, extra: dict[str, Any]) -> None:
        """Take up what `kept` gave."""
        self.best, self.owed = float(extra["best"]), bool(extra.get("owed"))

    def _job(self, start: int) -> Job:
        settings, machine, steps = self.settings, self.machine, int(self.settings.optim.steps)
        monitor = Monitor(settings.run, steps, machine, self.updater, self.task.diagnostics, self.emit, start)
        return Job(
            task=self.task,
            model=self._shared(),
            updater=self.updater,
            batches=self._batches(start, steps),
            machine=machine,
            optim=settings.optim,
            steps=steps,
            monitor=monitor,
            start=start,
            ended=start >= steps or self.has_enough(),
            owed=self.owed,
            look=self._look,
            look_every=settings.run.validate_every or steps,
            save=self._save,
            save_every=settings.run.checkpoint_every or steps,
            should_stop=self.should_stop,
        )

    def _batches(self, start: int, steps: int) -> Iterator[dict[str, Tensor]]:
        optim, machine = self.settings.optim, self.machine
        per_step = optim.batch * optim.accumulate
        numbers = Numbers(start * per_step, steps * per_step, optim.batch, machine.rank, machine.ranks)
        samples = self.samples()
        return make_loader(samples, numbers, self._workers(samples, numbers), machine.device.type == "cuda")

    def _shared(self) -> nn.Module:
        if self.machine.ranks == 1:
            return self.task
        parallel = nn.parallel.DistributedDataParallel
        # Ranks do not give each other their buffers, which are equal at the start. Newer torch calls this otherwise.
        new, old = "forward_sync_buffers", "broadcast_buffers"
        option: dict[str, Any] = {new if new in signature(parallel).parameters else old: False}
        return parallel(self.task, **option)

    def _workers(self, samples: Any, numbers: Numbers) -> int:
        if self.settings.data.workers is not None:
            return self.settings.data.workers
        usual = usual_workers(self.machine.device, ranks_here())
        found = workers_with_room(samples, numbers, usual, ranks_here())
        if found < usual:
            message = (
                f"{counted(found, 'worker', 'reads', 'read')} volumes, not {usual}: shared memory is short"
            )
            self.emit("warning", message=message, hint="give the container more (docker run --shm-size 8g)")
        return found

    def _look(self, done: int) -> Look:
        seen = self.look(done)
        self.owed = seen.owed
        return seen

    def _save(self, done: int) -> None:
        if self.machine.main:
            folder = self.run.checkpoints
            checkpoint.save_checkpoint(folder, done, self.task, self.updater, self.kept(), self.is_best)
            self.emit("checkpoint", step=done)
        self.is_best = False
        self.ranks.meet()


def carry_out(
    kind: type[Attempt],
    settings: Any,
    run_folder: str | Path,
    *,
    environment: dict[str, Any] | None = None,
    resume: bool = False,
    listeners: Iterable[Listener] = (),
    should_stop: Callable[[], bool] = lambda: False,
    after: Callable[[RunDirectory], object] = lambda run: None,
) -> Result:
    """Do a job of ``kind`` in ``run_folder``: open or make the run, hold its lock, work, say how it ended.

    ``resume`` goes on from the newest whole checkpoint. ``listeners`` get every event as a dictionary; ``should_stop``
    is asked after each step; ``after`` is called at the end, whatever it was, with the run (to write its report).
    Raises SettingsError, DataError, EnvironmentFault; the run's status and events then say the same.
    """
    if this_rank() > 0:
        # The first rank owns the run; the others only compute.
        return kind(settings, RunDirectory(run_folder), (), should_stop).work(attempt=0)
    if all_ranks() > 1:
        # Before the run can be refused: the others would wait for a rank that never comes.
        choose(settings.run)
    run = open_run(settings, Path(run_folder), environment or {}, resume)
    with run.lock(), run.heartbeat():
        take_up(settings, run, anew=not resume)
        run.clear_stop()
        attempt = run.next_attempt()
        run.write_status("preparing", total=settings.optim.steps or 0)
        try:
            result = kind(settings, run, listeners, should_stop).work(attempt)
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
