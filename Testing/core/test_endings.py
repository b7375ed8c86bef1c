"""How an attempt ends or goes on: a second interrupt, listeners that go away, a disk that is full for a while."""

from __future__ import annotations

import errno
import itertools

import pytest
import torch
from kills import differences
from torch.distributed import DistNetworkError

from VoCoCore.devices import Machine
from VoCoCore.errors import EnvironmentFault, StopRequested
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.events import read_events
from VoCoCore.settings import OptimSettings
from VoCoCore.training.checkpoint import load_checkpoint, save_checkpoint
from VoCoCore.training.explain import explained
from VoCoCore.training.finetune import finetune
from VoCoCore.training.pretrain import pretrain
from VoCoCore.training.reporter import Reporter
from VoCoCore.training.updates import Updater


@pytest.fixture
def run(tmp_path):
    made = RunDirectory.create(tmp_path / "run", {}, {})
    with made.lock():
        yield made


def test_an_interrupt_for_good_leaves_a_stopped_run_that_goes_on(small_cohort, tmp_path):
    settings, seen = small_cohort.settings(optim__steps=4, run__checkpoint_every=1), []

    def twice():
        if sum(event["type"] == "checkpoint" for event in seen) == 2:
            raise KeyboardInterrupt
        return False

    with pytest.raises(StopRequested, match="last checkpoint is of step 2") as caught:
        pretrain(settings, tmp_path / "run", listeners=[seen.append], should_stop=twice)
    assert "--resume" in caught.value.hint
    run = RunDirectory(tmp_path / "run")
    assert run.state() == "stopped" and not run.is_locked()
    assert read_events(run.events_file)[-1]["state"] == "stopped"
    assert pretrain(settings, tmp_path / "run", resume=True).finished


def test_a_stop_while_a_resumed_job_still_prepares_keeps_its_step(small_cohort, stopped_run, tmp_path):
    """The volumes are prepared anew, in another store, and the wish comes before the first of them."""
    other = {"data__store": str(tmp_path / "other store")}
    settings = small_cohort.settings(optim__steps=4, run__checkpoint_every=1, **other)
    with pytest.raises(StopRequested):
        pretrain(settings, stopped_run.path, resume=True, should_stop=lambda: True)
    assert stopped_run.read_status().step == 2 and stopped_run.state() == "stopped"


@pytest.mark.parametrize(("work", "steps"), [(pretrain, 4), (finetune, 4), (finetune, 2)])
def test_a_look_is_broken_off_by_a_stop_and_made_up_for(work, steps, small_cohort, labelled_cohort, tmp_path):
    """Also the last one, without which the job is not finished."""
    cohort = small_cohort if work is pretrain else labelled_cohort
    settings = cohort.settings(optim__steps=steps, run__validate_every=2, run__checkpoint_every=100)
    assert work(settings, tmp_path / "whole").finished
    asked, seen = itertools.count(1), []

    def stop():
        """Asked after both steps, and then for the first case of the look."""
        return any(event["type"] == "started" for event in seen) and next(asked) > 2

    first = work(settings, tmp_path / "run", listeners=[seen.append], should_stop=stop)
    assert not first.finished and first.steps == 2 and next(asked) == 4
    assert not looks(tmp_path / "run")
    assert work(settings, tmp_path / "run", resume=True).finished
    assert looks(tmp_path / "run") == looks(tmp_path / "whole") != []
    assert [*differences(tmp_path / "whole", tmp_path / "run")] == []
    assert not [*(tmp_path / "run" / "checkpoints").glob("damaged*")]


def looks(run):
    """Steps and scores of the looks of a run."""
    events = read_events(run / "events.jsonl")
    return [(e["step"], e["values"]) for e in events if e["type"] == "metrics" and e["split"] == "val"]


def test_random_state_is_that_of_the_checkpoint(tmp_path):
    """Nothing in a step draws from it today; a network with dropout would."""
    net = torch.nn.Linear(3, 2)
    updater = Updater(net.parameters(), OptimSettings(), Machine(torch.device("cpu"), "fp32", "cpu"))
    torch.rand(7)
    path = save_checkpoint(tmp_path, 1, net, updater, {})
    expected = torch.rand(5)
    torch.manual_seed(99)
    load_checkpoint(path, net, updater)
    assert torch.equal(torch.rand(5), expected)


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(errno.EIO, "gone"), ValueError("closed file")])
def test_a_listener_that_goes_away_is_not_asked_again(error, run):
    heard, other = [], []

    def goes(event):
        heard.append(event)
        raise error

    report = Reporter(run, [goes, other.append])
    for step in (1, 2):
        report("progress", step=step, total=9, rate=1.0, eta_s=1.0)
    assert len(heard) == 1 and len(other) == 2


def test_a_disk_that_is_full_for_a_while_costs_figures_and_not_the_job(run, monkeypatch):
    heard = []
    report = Reporter(run, [heard.append])

    def full(*_, **__):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise EnvironmentFault("the disk is full") from error

    with monkeypatch.context() as patch:
        patch.setattr(run.events, "emit", full)
        patch.setattr(run, "write_status", full)
        report("metrics", step=1, split="train", values={"loss": 1.0})
        report("progress", step=1, total=9, rate=1.0, eta_s=1.0)
        with pytest.raises(EnvironmentFault):
            report("checkpoint", step=1)
    report("metrics", step=2, split="train", values={"loss": 0.5})
    assert [event["step"] for event in read_events(run.events_file) if event["type"] == "metrics"] == [2]
    assert len(heard) == 3


def test_a_run_that_another_job_has_taken_over_is_left_at_once(run, monkeypatch):
    def taken(*_, **__):
        raise EnvironmentFault("another job has taken over")

    monkeypatch.setattr(run, "write_status", taken)
    with pytest.raises(EnvironmentFault, match="taken over"):
        Reporter(run, [])("progress", step=1, total=9, rate=1.0, eta_s=1.0)


@pytest.mark.parametrize(
    ("error", "ranks", "kind"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), 1, EnvironmentFault),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            1,
            EnvironmentFault,
        ),
        (MemoryError(), 1, EnvironmentFault),
        (RuntimeError("MPS backend out of memory"), 1, EnvironmentFault),
        (RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1"), 2, EnvironmentFault),
        (RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1"), 1, RuntimeError),
        (DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed."), 2, EnvironmentFault),
        (OSError(errno.EMFILE, "Too many open files"), 1, EnvironmentFault),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), 1, EnvironmentFault),
        (ZeroDivisionError(), 2, ZeroDivisionError),
    ],
)
def test_what_libraries_say_is_told_in_our_words_and_defects_stay_defects(error, ranks, kind):
    made = explained(error, ranks, lambda: EnvironmentFault("out of memory", "smaller"))
    assert type(made) is kind and (kind is EnvironmentFault) == (made is not error)
