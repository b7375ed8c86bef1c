"""Crops that pass the encoder a few at a time: the same step in less memory."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
import torch.distributed as dist

from VoCoCore.data.sampling import TRAIN
from VoCoCore.models.interface import Encoder
from VoCoCore.presets import resolve_pretrain
from VoCoCore.pretext.build import build_task, encoder_factory
from VoCoCore.pretext.parts import VOXELS, crops_at_once, embeddings_in_parts
from VoCoCore.pretext.voco import VoCo
from VoCoCore.training.live_memory import LivePeak


def job(recipe, checkpointing, bases=4, volumes=2, encoder="unet"):
    """A task and a batch of ``volumes``, the same for all with equal arguments but ``checkpointing``."""
    torch.manual_seed(0)
    options = {
        "recipe": recipe,
        "preset": "tiny",
        "model.encoder": encoder,
        "model.feature_size": 4,
        "model.projector_width": 16,
        "model.checkpointing": checkpointing,
        "crops.counts": (2, bases // 2, 1),
        "crops.random_crops": 2,
        "optim.batch": volumes,
    }
    settings = resolve_pretrain({}, options)
    task = build_task(settings, encoder_factory(settings, 1)).train()
    size, batch = settings.crops.volume_size, {}
    for number in range(volumes):
        for name, value in VoCo.views(settings, number, size, TRAIN).items():
            batch.setdefault(name, []).append(torch.from_numpy(np.ascontiguousarray(value)))
    batch = {name: torch.stack(values) for name, values in batch.items()}
    batch["volumes"] = torch.randint(0, 256, (volumes, 1, *size), dtype=torch.uint8)
    return task, batch


@pytest.mark.parametrize(
    ("recipe", "at_once", "sizes"),
    [
        *((recipe, at_once, {}) for recipe in ("paper", "v1", "v2") for at_once in (1, 5)),
        ("v1", 1, {"encoder": "unetr"}),
    ],
)
def test_a_step_in_parts_is_the_step_of_all_crops_at_once(recipe, at_once, sizes, monkeypatch):
    made = []
    for checkpointing in (False, True):
        task, batch = job(recipe, checkpointing, **sizes)
        monkeypatch.setitem(VOXELS, "cpu", at_once * prod(task.settings.crops.input_size))
        batch["crops"] = task.cut(batch).double()
        outcome = task.double()(batch)  # in which only a mistake makes a difference
        outcome.loss.backward()
        made.append((outcome, {n: p.grad for n, p in task.named_parameters() if p.grad is not None}))
    (whole, gradients), (parts, again) = made
    for name, term in whole.terms.items():
        torch.testing.assert_close(parts.terms[name], term, rtol=1e-7, atol=1e-9)
    assert gradients.keys() == again.keys()
    largest = max(g.abs().max() for g in gradients.values())
    for name, gradient in gradients.items():
        assert (again[name] - gradient).abs().max() < 1e-7 * largest, name


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no ranks")
@pytest.mark.parametrize("recipe", ["paper", "v1", "v2"])
def test_a_look_takes_no_more_crops_at_once_than_a_ranks_step(recipe):
    """Four ranks with a volume each train on 6 crops at a time; each looks at whole batches of four volumes."""
    task, batch = job(recipe, False, volumes=4)
    batch["crops"] = task.cut(batch).double()
    task = task.double().eval()
    seen = []
    for part in task.modules():
        if isinstance(part, Encoder):
            part.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    with torch.no_grad():
        alone = task(batch)
        assert set(seen) == {24}
        seen.clear()
        from torch.testing._internal.distributed.fake_pg import FakeStore

        dist.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
        try:
            shared = task(batch)
        finally:
            dist.destroy_process_group()
    assert set(seen) == {6}
    for name, term in alone.terms.items():
        torch.testing.assert_close(shared.terms[name], term, rtol=1e-7, atol=1e-9)


def test_what_a_step_in_parts_holds_hardly_grows_with_the_number_of_crops():
    def held(checkpointing, bases):
        task, batch = job("v1", checkpointing, bases)
        batch["crops"] = task.cut(batch).detach()
        with LivePeak(known=[*task.parameters(), *batch.values()]) as live:
            task(batch).loss.backward()
        return live.peak

    few, many = held(True, 4), held(True, 16)
    assert held(False, 16) > 2 * held(False, 4) and many < 1.5 * few
    assert many < 0.2 * held(False, 16)


def test_parts_have_as_many_crops_as_a_device_wants(monkeypatch):
    assert crops_at_once("cpu", (64, 64, 64)) == 1
    assert crops_at_once("cuda", (64, 64, 64)) == 4
    assert crops_at_once("cuda", (256, 256, 256)) == 1
    seen = []
    crops = torch.arange(3.0).view(3, 1, 1, 1, 1)
    found = embeddings_in_parts(lambda part: seen.append(len(part)) or part.flatten(1), crops)
    assert found.flatten().tolist() == [0, 1, 2] and seen == [1, 1, 1]
    seen.clear()
    monkeypatch.setitem(VOXELS, "cpu", 16)  # two crops of 8 voxels, however many channels these have
    embeddings_in_parts(lambda part: seen.append(len(part)) or part.flatten(1), torch.zeros(3, 4, 2, 2, 2))
    assert seen == [2, 1]
