"""The pieces of training: updates that skip and clip, held-out scores, checkpoints, warnings, no waiting."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from VoCoCore.data import crops, sampling
from VoCoCore.devices import Machine
from VoCoCore.evaluation.verdict import judge
from VoCoCore.models.encoders import build_encoder
from VoCoCore.presets import resolve_pretrain
from VoCoCore.pretext.task import Outcome
from VoCoCore.pretext.voco import VoCo, effective_rank
from VoCoCore.settings import OptimSettings
from VoCoCore.training.intervals import bootstrap_interval
from VoCoCore.training.monitor import Monitor
from VoCoCore.training.updates import FIRST_SCALE, Updater
from VoCoCore.training.validation import HeldOut, score

CPU = Machine(torch.device("cpu"), "fp32", "cpu")
HALF = Machine(torch.device("cpu"), "fp16", "cpu")


def two_nets():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    return ours, copy.deepcopy(ours)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("machine", "clip"), [(CPU, None), (CPU, 0.01), (HALF, None), (HALF, 0.01)])
def test_updates_equal_plain_adamw_with_clipping(fused, machine, clip):
    """Scale and clip ride in the optimiser's kernel; the result is that of the textbook sequence."""
    ours, theirs = two_nets()
    updater = Updater(ours.parameters(), OptimSettings(clip=clip, amsgrad=True, weight_decay=0.1), machine)
    if not fused:
        updater.fused = False
        updater.optimizer = torch.optim.AdamW(updater.parameters, lr=0.0, weight_decay=0.1, amsgrad=True)
    plain = torch.optim.AdamW(theirs.parameters(), lr=0.0, weight_decay=0.1, amsgrad=True)
    for step in range(5):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        updater.backward(ours(x).square().mean())
        updater.step(0.01 * step)
        theirs(x).square().mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip or 1e9)
        plain.param_groups[0]["lr"] = 0.01 * step
        plain.step()
        plain.zero_grad()
        torch.testing.assert_close(updater.norm, norm, rtol=1e-4, atol=1e-7)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("machine", [CPU, HALF])
def test_a_step_without_a_finite_gradient_changes_nothing_and_is_counted(machine, bad):
    net, _ = two_nets()
    updater = Updater(net.parameters(), OptimSettings(), machine)
    x = torch.ones(2, 5)
    updater.backward(net(x).sum())
    updater.step(0.1)
    before = copy.deepcopy(net.state_dict())
    moments = copy.deepcopy(updater.optimizer.state_dict()["state"])
    updater.backward(net(x).sum() * bad)
    updater.step(0.1)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    for number, state in updater.optimizer.state_dict()["state"].items():
        assert all(torch.equal(state[name], moments[number][name]) for name in state)
    assert updater.skipped.item() == 1
    assert updater.scale.item() == (FIRST_SCALE / 2 if machine is HALF else 1)
    updater.backward(net(x).sum())
    updater.step(0.1)
    assert updater.skipped.item() == 1
    assert any(not torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_many_skipped_steps_in_a_row_do_not_stop_fp16_for_good():
    """The scale is halved at each: at 0 every later step would be skipped too."""
    net, _ = two_nets()
    updater = Updater(net.parameters(), OptimSettings(), HALF)
    for _ in range(170):
        updater.backward(net(torch.ones(1, 5)).sum() * float("nan"))
        updater.step(0.1)
    before = copy.deepcopy(net.state_dict())
    updater.backward(net(torch.ones(1, 5)).sum())
    updater.step(0.1)
    assert updater.skipped.item() == 170
    assert any(not torch.equal(before[name], value) for name, value in net.state_dict().items())


def stepped(net, x, machine):
    """An updater of ``net`` that has done a step on ``x``."""
    updater = Updater(net.parameters(), OptimSettings(), machine)
    updater.backward(net(x).sum())
    updater.step(0.1)
    return updater


def test_updates_resume_where_they_were():
    ours, theirs = two_nets()
    x = torch.ones(2, 5)
    first = stepped(ours, x, HALF)
    theirs.load_state_dict(ours.state_dict())
    second = Updater(theirs.parameters(), OptimSettings(), HALF)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for net, updater in ((ours, first), (theirs, second)):
        updater.backward(net(x).sum())
        updater.step(0.1)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("fused", [True, False])
def test_updates_go_on_on_a_device_of_another_kind(fused):
    """A checkpoint of a Mac's GPU, whose kernels take no flag, on a processor; and the other way round."""
    ours, theirs = two_nets()
    x = torch.ones(2, 5)
    first = stepped(ours, x, CPU)
    theirs.load_state_dict(ours.state_dict())
    state = copy.deepcopy(first.state_dict())
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = not fused
    second = Updater(theirs.parameters(), OptimSettings(), CPU)
    second.fused = fused
    second.load_state_dict(state)
    for net, updater in ((ours, first), (theirs, second)):
        updater.backward(net(x).sum())
        updater.step(0.1)
    assert all(torch.allclose(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def seen(labels, answers, volumes):
    """Held-out results whose logits say ``answers`` and labels ``labels``, one crop a sample."""
    eye = np.eye(16)
    return HeldOut(np.asarray(volumes), eye[labels][:, None], eye[answers][:, None], {"loss_prediction": 1.0})


CROPS = resolve_pretrain({}, {"preset": "tiny"}).crops


def test_held_out_scores():
    values = score(seen([0, 1, 2, 3], [0, 1, 2, 5], [0, 0, 1, 1]), CROPS)
    assert values["position_accuracy"] == 0.75 and values["volumes"] == 2
    assert values["accuracy_low"] == 0.5 and values["accuracy_high"] == 1.0
    assert values["chance"] == pytest.approx(1 / 9, abs=0.01)
    assert values["shuffled_accuracy"] == pytest.approx(3 / 16)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_is_no_answer(odd):
    found = seen([0, 1, 2, 3], [0, 1, 2, 3], [0, 0, 1, 1])
    found.logits[2, 0, 2] = odd
    values = score(found, CROPS)
    assert np.isnan(values["position_accuracy"]) and np.isnan(values["shuffled_accuracy"])
    assert "not numbers" in judge(values, 16, active=False).title


def test_the_shuffled_control_is_what_shuffling_gives():
    rng = np.random.default_rng(0)
    labels, answers = rng.integers(0, 4, 60), rng.integers(0, 3, 60)
    control = score(seen(labels, answers, range(60)), CROPS)["shuffled_accuracy"]
    shuffled = [(rng.permutation(labels) == answers).mean() for _ in range(4000)]
    assert control == pytest.approx(np.mean(shuffled), abs=0.005)


def test_the_interval_resamples_volumes():
    """Of one case in each volume the accuracy is 0 or 1, and volumes are what is drawn anew."""
    right = np.arange(20) % 2
    found = score(seen(np.zeros(20, int), right, range(20)), CROPS)
    assert (found["accuracy_low"], found["accuracy_high"]) == bootstrap_interval(1.0 - right)
    assert found["accuracy_low"] == pytest.approx(0.5 - 1.96 * 0.5 / np.sqrt(20), abs=0.06)
    one = score(seen(np.zeros(4, int), right[:4], [0] * 4), CROPS)
    assert one["accuracy_low"] == one["accuracy_high"] == one["position_accuracy"] == 0.5


def test_effective_rank_of_known_bases():
    assert effective_rank(torch.eye(6)).item() == pytest.approx(6)
    assert effective_rank(torch.ones(6, 6)).item() == pytest.approx(1, abs=1e-4)
    two = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3))
    assert effective_rank(two).item() == pytest.approx(2, abs=1e-4)


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_reported_not_a_crash(odd):
    """The step itself changes nothing and is counted; its report has to be possible too."""
    _, task = small_task("v1", **{"crops.counts": "4,4,1"})
    bases = torch.randn(2, 16, 8)
    bases[1] = odd
    found = task.diagnostics(Outcome({}, {"logits": bases, "labels": bases, "bases": bases}))
    assert found["effective_rank"].isnan() and found["base_similarity"].isnan()
    assert effective_rank(torch.stack([torch.eye(16), torch.full((16, 16), odd)])).isnan().tolist() == [
        False,
        True,
    ]


def small_task(recipe, **changes):
    values = {
        "recipe": recipe,
        "preset": "tiny",
        "model.encoder": "unet",
        "model.feature_size": 4,
        "model.projector_width": 16,
        "crops.counts": "2,2,1",
        **changes,
    }
    settings = resolve_pretrain({}, values)
    torch.manual_seed(0)
    return settings, VoCo(settings, lambda: build_encoder("unet", 1, 4, (32, 32, 32)))


def small_batch(settings, numbers=(0, 1)):
    rng = np.random.default_rng(0)
    size = settings.crops.volume_size
    draws = [VoCo.views(settings, number, size, sampling.TRAIN) for number in numbers]
    batch = {name: torch.tensor(np.stack([d[name] for d in draws])) for name in draws[0]}
    batch["volumes"] = torch.tensor(rng.integers(0, 256, size=(len(numbers), 1, *size), dtype=np.uint8))
    return batch


@pytest.mark.parametrize("recipe", ["paper", "v1", "v2"])
def test_nothing_in_a_step_waits_for_the_device(recipe, monkeypatch):
    """Reading a number from a tensor is what makes a GPU wait: in a step nobody may."""
    # On a processor crops are cut in a way that reads their places: here they are cut as on an accelerator.
    monkeypatch.setattr(crops, "_on_host", lambda volumes: False)
    settings, task = small_task(recipe)
    updater = Updater(task.parameters(), settings.optim, CPU)
    batch = small_batch(settings)

    def refuse(self, *_, **__):
        raise AssertionError("a step read a tensor's value")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    outcome = task.train()(batch)
    updater.backward(outcome.loss)
    updater.step(1e-3)


def test_each_knob_acts_alone():
    """Table 6 and Table 7 are one option each: a changed knob changes the loss or the number of terms as it says."""
    _, plain = small_task("v1")
    batch = small_batch(plain.settings)
    terms = plain.train()(batch).terms
    _, without = small_task("v1", **{"pretext.lambda": 0})
    assert set(without.train()(batch).terms) == {"prediction"}
    _, half = small_task("v1", **{"pretext.lambda": 0.5})
    torch.testing.assert_close(half.train()(batch).terms["regularisation"], terms["regularisation"] / 2)
    for knob in (
        {"pretext.momentum": 0.5},
        {"pretext.both_directions": False},
        {"pretext.prediction": "paper"},
    ):
        _, other = small_task("v1", **knob)
        assert not torch.equal(other.train()(batch).terms["prediction"], terms["prediction"]), knob
    gradients = []
    for detach in (True, False):
        _, task = small_task("paper", **{"pretext.detach": detach, "pretext.lambda": 0})
        task.train()(batch).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in task.parameters() if p.grad is not None]))
    assert not torch.equal(*gradients)


@pytest.mark.parametrize("recipe", ["v1", "v2"])
def test_the_teacher_follows_once_a_step_of_however_many_batches(recipe):
    settings, task = small_task(recipe)
    batch, student = small_batch(settings), task.student if recipe == "v1" else task.student.head
    teacher = list(task.train().teacher.network.parameters())
    share = settings.pretext.momentum
    for step in range(2):
        expected = [
            share * theirs.detach() + (1 - share) * own.detach()
            for theirs, own in zip(teacher, student.parameters(), strict=True)
        ]
        for _ in range(4):
            task(batch)
        for found, value in zip(teacher, expected, strict=True):
            torch.testing.assert_close(found, value)
        task.after_step(step)


@pytest.mark.parametrize("recipe", ["paper", "v1", "v2"])
def test_every_trained_parameter_gets_a_gradient(recipe):
    settings, task = small_task(recipe)
    task.train()(small_batch(settings)).loss.backward()
    for name, parameter in task.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def watched(steps):
    """A monitor of a run whose base crops all look alike, and what it tells."""
    told = []
    settings = resolve_pretrain({}, {"preset": "tiny", "optim.steps": steps})
    updater = Updater([nn.Parameter(torch.zeros(1))], settings.optim, CPU)
    updater.norm = torch.tensor(0.0)

    def alike(outcome):
        return {"base_similarity": torch.tensor(0.99), "effective_rank": torch.tensor(1.1)}

    def emit(kind, **fields):
        told.append((kind, fields))

    return told, Monitor(settings.run, steps, CPU, updater, alike, emit, 0)


def test_a_slow_first_step_is_not_expected_of_the_others(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    told, monitor = watched(1000)
    for step in range(1, 101):
        now[0] += 60.0 if step == 1 else 0.1
        monitor.after_step(step, 1e-3, Outcome({"prediction": torch.tensor(1.0)}), False)
    left = {fields["step"]: fields["eta_s"] for kind, fields in told if kind == "progress"}
    assert left[1] == pytest.approx(999 * 60)
    assert left[10] == pytest.approx(99) and left[100] == pytest.approx(90)


def test_a_collapse_is_said_with_what_to_change():
    told, monitor = watched(100)
    outcome = Outcome({"prediction": torch.tensor(1.0)})
    for step in range(1, 101):
        monitor.after_step(step, 1e-3, outcome, step == 100)
    warnings = [fields for kind, fields in told if kind == "warning"]
    assert len(warnings) == 1 and "collapse" in warnings[0]["message"] and "optim.clip" in warnings[0]["hint"]
