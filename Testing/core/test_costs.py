"""What must stay cheap, counted instead of timed: operations, waiting for the device, memory kept, bytes read."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from numcodecs import zstd
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from VoCoCore.data.crops import cut_at_once
from VoCoCore.data.loading import Samples
from VoCoCore.data.names import Names
from VoCoCore.data.sampling import TRAIN
from VoCoCore.data.store import Store
from VoCoCore.devices import Machine, is_out_of_memory
from VoCoCore.inference.swift import swift
from VoCoCore.inference.windows import slide
from VoCoCore.models.convolutions import SingleConv3d, quick_convolutions
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.networks import SegmentationNetwork
from VoCoCore.models.placing import placed
from VoCoCore.presets import resolve_pretrain
from VoCoCore.pretext.build import build_task, encoder_factory
from VoCoCore.pretext.voco import VoCo
from VoCoCore.pretext.voco_losses import both_directions, prediction_loss, regularisation_loss
from VoCoCore.protocols import resolve_finetune
from VoCoCore.training import finetune_needs
from VoCoCore.training.memory import room_mb
from VoCoCore.training.updates import Updater
from VoCoCore.training.validation import looked_at

CPU = Machine(torch.device("cpu"), "fp32", "")


class Counted(TorchDispatchMode):
    """Counts what reaches torch's kernels, by name."""

    def __init__(self):
        super().__init__()
        self.ops = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def counted(work):
    with Counted() as mode:
        work()
    return mode.ops


@pytest.fixture(scope="module")
def job():
    """A v1 step with a small U-Net: task, batch and one step of it."""
    torch.manual_seed(0)
    sizes = {"model.feature_size": 4, "model.projector_width": 16, "crops.counts": (2, 2, 1)}
    settings = resolve_pretrain({}, {"recipe": "v1", "preset": "tiny", "model.encoder": "unet", **sizes})
    # As an accelerator has it: on a processor norms are written out in operations of their own.
    task = build_task(settings, encoder_factory(settings, 1)).train()
    updater = Updater(task.parameters(), settings.optim, CPU)
    size = settings.crops.volume_size
    arrays = VoCo.views(settings, 0, size, TRAIN)
    batch = {name: torch.from_numpy(np.ascontiguousarray(value))[None] for name, value in arrays.items()}
    batch["volumes"] = torch.randint(0, 256, (1, 1, *size), dtype=torch.uint8)

    def step():
        updater.backward(task(batch).loss)
        updater.step(1e-3)
        task.after_step(0)

    step()  # the optimiser makes its state
    return task, batch, step


def test_a_step_never_waits_for_the_device(job):
    ops = counted(job[2])
    assert not ops.keys() & {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal"}


def test_a_step_has_no_more_operations_than_it_had(job):
    """932 when this was written; a loop over crops, pairs or parameters adds hundreds."""
    assert sum(counted(job[2]).values()) < 1050


def test_the_teacher_follows_and_the_optimiser_steps_in_one_operation_each(job):
    ops = counted(job[2])
    assert ops["_foreach_mul_"] == 1 and ops["_foreach_add_"] <= 2
    assert sum(count for name, count in ops.items() if name.startswith("_fused_adamw")) == 1


def test_the_losses_cost_the_same_for_any_number_of_pairs_and_volumes():
    def losses(volumes, bases):
        p, q, a, b = (torch.randn(volumes, n, 8, requires_grad=True) for n in (2, bases, 2, bases))
        labels = torch.softmax(torch.randn(volumes, 2, bases), -1)

        def work():
            logits = both_directions(p, q, a.detach(), b.detach(), "v1")
            (prediction_loss(logits, labels, "v1") + regularisation_loss(q, "v1")).backward()

        return sum(counted(work).values())

    assert losses(1, 4) == losses(1, 16) == losses(4, 16)


def test_crops_cost_the_same_for_any_number_of_them():
    volumes = torch.rand(1, 1, 24, 24, 24)

    def cut(many):
        starts, sizes = torch.zeros(1, many, 3, dtype=torch.long), torch.full((1, many, 3), 12)
        flips, swap = torch.zeros(many, 3, dtype=torch.bool), torch.ones(many, dtype=torch.bool)
        ways = {"largest": (12, 12, 12)}
        return counted(lambda: cut_at_once(volumes, starts, sizes, (8, 8, 8), flips, swap, **ways))

    assert cut(2) == cut(18)


def kept_bytes(work):
    """What a forward pass keeps for the backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = work()
    return sum(kept.values()), result


def test_the_teacher_has_no_graph_and_its_targets_no_gradient(job):
    task, batch, _ = job
    crops = task.cut(batch)
    embedded = task.student.embed(crops)
    kept, found = kept_bytes(lambda: task._teach(crops, embedded))
    assert kept == 0 and not found.requires_grad
    assert all(not p.requires_grad and p.grad is None for p in task.teacher.parameters())
    bases = torch.randn(1, 4, 8, requires_grad=True)
    p = torch.randn(1, 2, 8, requires_grad=True)
    both_directions(p, bases.detach(), p.detach(), bases.detach(), "v1").sum().backward()
    assert bases.grad is None


def test_a_crop_reads_only_the_blocks_that_it_touches(tmp_path, monkeypatch):
    store = Store(tmp_path / "store").create()
    array = np.random.default_rng(0).integers(0, 256, (1, 192, 192, 96), np.uint8)
    store.write("0" * 64, array, {"affine": np.eye(4).tolist()})
    settings = resolve_pretrain({}, {"recipe": "v1", "preset": "tiny", "model.encoder": "unet"})
    settings = settings.with_values({"crops.volume_size": (48, 48, 96), "crops.counts": (1, 1, 1)})
    read, plain = [], zstd.decompress

    def decompress(content):
        read.append(len(content))
        return plain(content)

    samples = Samples(store.root, ["0" * 64], partial(VoCo.views, settings, stream=TRAIN))
    monkeypatch.setattr(zstd, "decompress", decompress)
    samples[1]
    # noise does not compress: at most 4 of the 16 blocks
    assert 0 < sum(read) < 4.2 * 48 * 48 * 96


def test_windows_go_through_the_network_in_batches():
    calls = []

    def network(x):
        calls.append(len(x))
        return x

    slide(torch.rand(1, 32, 32, 40), network, (16, 16, 16), 0.5, batch=4)
    assert sum(calls) == 3 * 3 * 4 and len(calls) <= 3 * 3 * 4 / 4 + 3


def small_network():
    torch.manual_seed(0)
    return SegmentationNetwork(build_encoder("unet", 1, 4, 32), 3)


def test_one_crop_never_meets_the_slow_convolution():
    x = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        ops = counted(lambda: swift(small_network(), CPU)(x))
    upward = 4  # transposed convolutions
    assert ops["mkldnn_convolution"] >= 18 and ops["convolution"] == upward
    trained = placed(small_network(), CPU).train()
    ops = counted(lambda: trained(x).sum().backward())
    assert ops["mkldnn_convolution"] >= 19 and ops["convolution"] == upward


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"padding": 2, "dilation": 2, "groups": 2}]
)
def test_one_crop_has_the_values_and_gradients_of_torchs_convolution(options):
    torch.manual_seed(0)
    plain = nn.Conv3d(6, 8, 3, **options)
    ours = nn.Conv3d(6, 8, 3, **options)
    ours.load_state_dict(plain.state_dict())
    quick_convolutions(ours)
    assert type(ours) is SingleConv3d
    for count in (1, 2):
        x = torch.rand(count, 6, 9, 8, 7, requires_grad=True)
        y = x.detach().clone().requires_grad_()
        weights = torch.rand_like(plain(x))
        (plain(x) * weights).sum().backward()
        (ours(y) * weights).sum().backward()
        torch.testing.assert_close(ours(y), plain(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(y.grad, x.grad, atol=1e-5, rtol=1e-5)
    for mine, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-3, rtol=1e-5)


def test_cases_that_share_a_name_are_named_in_one_pass():
    asked = []
    names = Names(fold=lambda name: asked.append(name) or name)
    given = [names.new("image") for _ in range(500)]
    assert len(set(given)) == 500 and given[-1] == "image-500"
    assert len(asked) <= 4 * 500


def test_a_look_at_many_held_out_volumes_costs_no_more_than_at_some():
    assert looked_at("abc") == ["a", "b", "c"] and looked_at("") == []
    seen = looked_at(range(16_000))
    assert len(set(seen)) == len(looked_at(range(500))) == 400
    assert seen[0] == 0 and seen[-1] >= 16_000 - 40 and seen == sorted(seen)


class Tried(nn.Module):
    """A network that counts its passes and stays where it is."""

    def __init__(self, calls):
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.ones(1)), calls

    def to(self, *_):
        return self

    def forward(self, x):
        self.calls.append("pass")
        return x * self.weight


@pytest.mark.parametrize(
    ("job", "calls"),
    [
        (finetune_needs.needs_of, "wait pass wait pass wait"),
        (finetune_needs.need_of, "pass wait pass wait"),
        (finetune_needs.steps_in, "wait pass wait wait pass wait wait pass wait"),
    ],
)
def test_on_a_gpu_a_pass_is_timed_from_its_start_to_its_end(job, calls, monkeypatch):
    """A GPU is given its work and does it later: a clock that does not wait for it measures something else."""
    found = []
    for name, answer in (("mem_get_info", (4 << 20, 20 << 20)), ("memory_reserved", 9 << 20)):
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 << 20)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: found.append("wait"))
    monkeypatch.setattr(finetune_needs, "_crops", lambda *_, **__: torch.ones(1, 1, 2, 2, 2))
    gpu = Machine(torch.device("cuda", 0), "fp32", "a GPU")
    values = {"data.source": "x", "patches.size": "32,32,32", "patches.per_case": 1, "optim.batch": 1}
    job(resolve_finetune({**values, "run.hours": 1}), Tried(found), 1, gpu)
    assert " ".join(found) == calls
    # What torch keeps of what a trial has used can be had again.
    assert room_mb(gpu) == 4 + 9 - 2


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
    ],
)
def test_a_gpu_says_in_several_ways_that_its_memory_is_full(said):
    assert is_out_of_memory(RuntimeError(said))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
