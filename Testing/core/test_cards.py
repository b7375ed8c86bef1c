"""What is said of CUDA cards that PyTorch has no programs for, and of a cuDNN that is slow in half precision."""

from __future__ import annotations

import pytest
import torch

from VoCoCore import cards, devices
from VoCoCore.devices import available, choose, is_out_of_memory
from VoCoCore.errors import EnvironmentFault
from VoCoCore.models.placing import placed
from VoCoCore.settings import RunSettings

TODAY = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.fixture
def card(monkeypatch):
    """A machine with one CUDA card of some capability, and a PyTorch built for some others."""

    def make(capability, built=TODAY, cudnn=91900, hip=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=0: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _=0: "Some Card")
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
        monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
        monkeypatch.setattr(devices, "multiplies_bf16", lambda device: device.type == "cuda")

    return make


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((7, 5), TODAY, True),
        ((8, 9), TODAY, True),  # programs for 8.6
        ((9, 0), TODAY, True),
        ((12, 1), TODAY, True),
        ((13, 0), TODAY, True),  # by the portable form
        ((7, 0), TODAY, False),
        ((6, 1), TODAY, False),
        ((8, 0), ["sm_86"], False),  # programs for a later one of the generation
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),  # for that one alone
        ((10, 3), ["sm_100f"], True),
        ((9, 0), [], True),
    ],
)
def test_a_card_is_used_where_pytorch_has_programs_for_it(card, capability, built, runs):
    card(capability, built)
    assert ("cuda" in available()) == runs
    assert (cards.left_out() == "") == runs


def test_builds_for_amd_name_their_cards_otherwise(card):
    card((9, 4), ["gfx942"], hip="6.4")
    assert available()[0] == "cuda" and cards.slow_half() == ""


def test_why_a_card_is_left_out_is_said_where_the_device_is(card):
    card((7, 0))
    assert "Some Card is left out" in choose(RunSettings(device="auto")).words
    assert "left out" not in choose(RunSettings(device="cpu")).words  # nobody asked for it
    with pytest.raises(EnvironmentFault, match=r"here: Some Card .* capability 7\.0"):
        choose(RunSettings(device="cuda"))


@pytest.mark.parametrize(
    ("cudnn", "slow"), [(91002, True), (90800, True), (90701, False), (91500, False), (None, False)]
)
def test_a_cudnn_without_half_precision_is_said_where_it_matters(card, cudnn, slow):
    card((9, 0), cudnn=cudnn)
    assert ("slow" in choose(RunSettings(precision="bf16")).words) == slow
    assert "slow" not in choose(RunSettings(precision="fp32")).words
    if cudnn == 91002:
        assert "cuDNN 9.10 has no 3D convolutions" in choose(RunSettings()).words


@pytest.mark.parametrize(
    ("cudnn", "precision", "last"), [(91002, "bf16", True), (91002, "fp32", False), (91900, "bf16", False)]
)
def test_such_a_cudnn_gets_networks_in_the_order_that_it_can_convolve(
    card, cudnn, precision, last, monkeypatch
):
    card((9, 0), cudnn=cudnn)
    network = torch.nn.Conv3d(2, 2, 3)
    to = network.to
    monkeypatch.setattr(network, "to", lambda *device, **order: to(**order))  # there is no card to go to
    weight = placed(network, devices.Machine(torch.device("cuda"), precision, "")).weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d) == last


def test_float32_is_float32_on_a_card_too(card):
    card((9, 0))
    for precision, rounded in (("fp32", False), ("bf16", True)):
        choose(RunSettings(precision=precision))
        assert torch.backends.cudnn.allow_tf32 == rounded


def test_a_job_of_the_processor_asks_nothing_of_a_card(card, monkeypatch):
    card((9, 0))
    monkeypatch.setattr(cards, "has_kernels", lambda: pytest.fail("that starts CUDA"))
    monkeypatch.setattr(devices, "has_kernels", lambda: pytest.fail("that starts CUDA"))
    assert choose(RunSettings(device="cpu")).device.type == "cpu"


@pytest.mark.parametrize(
    ("count", "per_task", "torchrun", "number"),
    [
        (4, None, True, 2),
        (4, "4", False, 2),
        (1, "1", False, 0),
        (1, None, False, None),
        (1, "1", True, None),
    ],
)
def test_each_rank_has_a_card_of_its_own(card, count, per_task, torchrun, number, monkeypatch):
    """With --gpus-per-task a cluster shows each of them its own alone; else each sees all and takes its number."""
    card((9, 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(devices.dist, "init_process_group", lambda backend: None)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for name, value in (("RANK", "2"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_GPUS_PER_TASK", raising=False)
    if per_task:
        monkeypatch.setenv("SLURM_GPUS_PER_TASK", per_task)
    if number is None:
        with pytest.raises(EnvironmentFault, match="rank 2 of this machine has no GPU: there are 1"):
            choose(RunSettings())
    else:
        assert choose(RunSettings()).device == torch.device("cuda", number)


def test_cudnns_words_for_a_want_of_memory_are_known():
    assert is_out_of_memory(RuntimeError("FIND was unable to find an engine to execute this computation"))
