"""Jobs on this machine's CUDA card beside the same on its processor. test_gpu.py runs this in its own process."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from made_models import WHOLE, card_of, network_of
from monai.networks.nets.swin_unetr import WindowAttention

from VoCoCore.devices import Machine, choose
from VoCoCore.evaluation import final
from VoCoCore.inference.predict import Predictor
from VoCoCore.models.attention import save_attention_memory
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.placing import placed
from VoCoCore.settings import RunSettings
from VoCoCore.training.finetune import finetune
from VoCoCore.training.pretrain import pretrain

CARD = "cuda"
HOST = Machine(torch.device("cpu"), "fp32", "")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def losses_of(job, settings, folder, **options):
    """Losses of a whole job by step."""
    found = {}

    def hear(event):
        if event["type"] == "metrics" and event["split"] == "train":
            found[event["step"]] = event["values"]["loss"]

    assert job(settings, folder, listeners=[hear], **options).finished
    return [found[step] for step in sorted(found)]


@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-4), ("bf16", 0.03), ("fp16", 0.01)])
@pytest.mark.parametrize("width", [4, 16, 20])
def test_attention_is_that_of_the_plain_formula(precision, near, width):
    plain = WindowAttention(3 * width, 3, (7, 7, 7), qkv_bias=True).to(CARD)
    pieces = copy.deepcopy(plain)
    save_attention_memory(pieces)
    mask = torch.where(torch.rand(8, 343, 343, device=CARD) < 0.3, -100.0, 0.0)
    x = torch.randn(16, 343, 3 * width, device=CARD)
    exact = plain(x, mask)
    wanted = torch.autograd.grad(exact.square().sum(), [*plain.parameters()])
    with choose(RunSettings(device=CARD, precision=precision)).autocast():
        found = pieces(x, mask)
    given = torch.autograd.grad(found.float().square().sum(), [*pieces.parameters()])
    for one, other in zip((found, *given), (exact, *wanted), strict=True):
        assert (one - other).norm() < near * other.norm() + 1e-3


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_an_encoder_is_that_of_the_processor(name):
    size, edges, _ = WHOLE[name]
    host = build_encoder(name, 1, size, edges)
    card = placed(copy.deepcopy(host), choose(RunSettings(device=CARD, precision="fp32")))
    crops = torch.randn(2, 1, *edges)
    maps, expected = card(crops.to(CARD)), host(crops)
    for one, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-3, atol=1e-3)
    for each in (maps, expected):
        sum(one.square().mean() for one in each).backward()
    for (key, one), other in zip(card.named_parameters(), host.parameters(), strict=True):
        if other.grad is not None:
            assert (one.grad.cpu() - other.grad).norm() < 0.01 * other.grad.norm() + 1e-4, key


@pytest.mark.parametrize("recipe", ["paper", "v1", "v2"])
def test_a_pretraining_is_that_of_the_processor(recipe, small_cohort, tmp_path):
    found = [
        losses_of(
            pretrain,
            small_cohort.settings(recipe, run__device=device, run__precision="fp32"),
            tmp_path / folder,
        )
        for folder, device in (("card", CARD), ("host", "cpu"))
    ]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)
    assert found[0] == pytest.approx(found[1], rel=0.1)  # steps of Adam make more of rounding


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_pretraining_in_half_precision_goes_on_where_it_was_stopped(precision, small_cohort, tmp_path):
    settings = small_cohort.settings("v1", run__device=CARD, run__precision=precision, data__workers=2)
    heard = []
    done = pretrain(
        settings, tmp_path, listeners=[heard.append], should_stop=lambda: "checkpoint" in kinds(heard)
    )
    assert not done.finished
    assert np.isfinite(losses_of(pretrain, settings, tmp_path, resume=True)).all()


def kinds(events):
    return [event["type"] for event in events]


def test_a_finetuning_is_that_of_the_processor_and_its_test_cases_are_scored(labelled_cohort, tmp_path):
    named = {"data__test_fraction": 0.2, "optim__ema": 0.9, "run__precision": "fp32"}
    found = [
        losses_of(finetune, labelled_cohort.settings(run__device=device, **named), tmp_path / folder)
        for folder, device in (("card", CARD), ("host", "cpu"))
    ]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)
    scores = [final.examine(tmp_path / folder) for folder in ("card", "host")]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


@pytest.mark.parametrize("encoder", sorted(WHOLE))
def test_a_prediction_is_that_of_the_processor(encoder):
    model = card_of(encoder, prepare={"spacing": [1.0, 1.0, 1.25], "fit": "pad"})
    image = np.random.default_rng(0).random((2, 90, 80, 70), np.float32)
    machine = choose(RunSettings(device=CARD, precision="fp32"))
    expected = Predictor([(network_of(encoder), model)], HOST).segment(image, np.eye(4))
    found = Predictor([(network_of(encoder), model)], machine).segment(image, np.eye(4))
    assert (found == expected).mean() > 0.999


def test_a_compiled_pretraining_learns_the_same(small_cohort, tmp_path):
    pytest.importorskip("triton")
    named = {"run__device": CARD, "run__precision": "fp32"}
    found = [
        losses_of(pretrain, small_cohort.settings("v1", run__compile=made, **named), tmp_path / str(made))
        for made in (True, False)
    ]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)
