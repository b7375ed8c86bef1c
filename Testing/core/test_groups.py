"""What of a network is trained, how fast and from when on; and what a segmentation makes of label values."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from VoCoCore.devices import Machine
from VoCoCore.downstream.classification import Classification
from VoCoCore.downstream.groups import DEEPEST, freeze, level_of, parameter_groups
from VoCoCore.downstream.losses import segmentation_loss
from VoCoCore.downstream.segmentation import Segmentation, lookup_table
from VoCoCore.finetune_settings import FinetuneOptimSettings
from VoCoCore.models.card import OutputClass
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.networks import ClassificationNetwork, SegmentationNetwork
from VoCoCore.protocols import resolve_finetune
from VoCoCore.training.finetune_look import Seen, Slice, best_of, case_scores, values_of
from VoCoCore.training.updates import Updater

SIZES = {"unet": (4, (32, 32, 32)), "unetr": (4, (32, 32, 32)), "swin_unetr": (12, (64, 64, 64))}
CPU = Machine(torch.device("cpu"), "fp32", "cpu")


@cache
def made(encoder: str, kind: type = SegmentationNetwork) -> nn.Module:
    size, edges = SIZES[encoder]
    return kind(build_encoder(encoder, 1, size, edges), 3)


def network(encoder: str, kind: type = SegmentationNetwork) -> Any:
    return copy.deepcopy(made(encoder, kind))


def optim(**changes: Any) -> FinetuneOptimSettings:
    return FinetuneOptimSettings(**{"steps": 10, "encoder_lr": 1.0, **changes})


def names_of(net: nn.Module, groups: list[dict[str, Any]]) -> list[set[str]]:
    """Names of the parameters of each group."""
    name_of = {id(parameter): name for name, parameter in net.named_parameters()}
    return [{name_of[id(parameter)] for parameter in group["params"]} for group in groups]


# Groups


@pytest.mark.parametrize("kind", [SegmentationNetwork, ClassificationNetwork])
@pytest.mark.parametrize("encoder", SIZES)
def test_every_trained_parameter_is_in_exactly_one_group(encoder, kind) -> None:
    net = network(encoder, kind)
    groups = names_of(net, parameter_groups(net, optim(layer_decay=0.5)))
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert sum(len(group) for group in groups) == len(set().union(*groups))
    assert set().union(*groups) >= trained
    assert all(not name.startswith("encoder.") for name in groups[0]) and groups[0]
    assert all(name.startswith("encoder.") for group in groups[1:] for name in group)
    held = Updater(parameter_groups(net, optim()), optim(), CPU).parameters
    assert {id(p) for p in held} == {id(p) for p in net.parameters() if p.requires_grad}


@pytest.mark.parametrize("encoder", SIZES)
def test_the_encoders_rate_falls_towards_its_input(encoder) -> None:
    net = network(encoder)
    groups = parameter_groups(net, optim(encoder_lr=0.4, layer_decay=0.5))
    assert "share" not in groups[0] and len(groups) == 2 + DEEPEST
    for level, (group, names) in enumerate(zip(groups[1:], names_of(net, groups)[1:], strict=True)):
        assert group["share"] == pytest.approx(0.4 * 0.5 ** (DEEPEST - level))
        assert names and all(level_of(name.removeprefix("encoder.")) == level for name in names)


LEVELS = {
    "unet": {
        "input_block.conv1.conv.weight": 0,
        "downsamples.0.conv1.conv.weight": 1,
        "downsamples.2.conv2.conv.weight": 3,
        "bottleneck.conv1.conv.weight": 4,
    },
    "unetr": {
        "vit.patch_embedding.position_embeddings": 0,
        "encoder1.layer.conv1.conv.weight": 0,
        "vit.blocks.0.mlp.linear1.weight": 1,
        "vit.blocks.5.mlp.linear1.weight": 2,
        "vit.blocks.11.mlp.linear1.weight": 4,
        "vit.norm.weight": 4,
        "encoder2.transp_conv_init.conv.weight": 1,
        "encoder4.transp_conv_init.conv.weight": 3,
    },
    "swin_unetr": {
        "swinViT.patch_embed.proj.weight": 0,
        "encoder1.layer.conv1.conv.weight": 0,
        "swinViT.layers1.0.blocks.0.attn.qkv.weight": 1,
        "swinViT.layers2c.0.layer.conv1.conv.weight": 2,
        "swinViT.layers4.0.blocks.1.mlp.linear1.weight": 4,
        "encoder2.layer.conv1.conv.weight": 1,
        "encoder10.layer.conv1.conv.weight": 4,
    },
}


@pytest.mark.parametrize("encoder", SIZES)
def test_levels_are_those_of_the_networks_stages(encoder) -> None:
    names = [name for name, _ in network(encoder).encoder.named_parameters()]
    for name, level in LEVELS[encoder].items():
        assert name in names and level_of(name) == level, name
    assert {level_of(name) for name in names} == set(range(DEEPEST + 1))


@pytest.mark.parametrize("encoder", SIZES)
def test_freezing(encoder) -> None:
    for what in ("none", "stem", "encoder"):
        net = network(encoder)
        before = {name for name, p in net.named_parameters() if p.requires_grad}
        groups = names_of(net, parameter_groups(net, optim(freeze=what)))
        after = {name for name, p in net.named_parameters() if p.requires_grad}
        frozen = before - after
        stem = {f"encoder.{name}" for name in net.encoder.stem}
        whole = {name for name in before if name.startswith("encoder.")}
        assert frozen == {"none": set(), "stem": stem, "encoder": whole}[what]
        assert not frozen & set().union(*groups)


def test_freezing_an_encoder_leaves_its_decoder() -> None:
    net = network("unet")
    freeze(net.encoder, "encoder")
    assert all(p.requires_grad for p in net.decoder.parameters())
    assert not any(p.requires_grad for p in net.encoder.parameters())


def step(net: nn.Module, updater: Updater, number: int, lr: float = 1e-2) -> None:
    crop = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(number))
    updater.backward(net(crop).square().mean())
    updater.step(lr, number)


def test_an_encoder_is_left_alone_until_its_first_step() -> None:
    settings, net = optim(decoder_first=0.3, weight_decay=0.5), network("unet")
    updater = Updater(parameter_groups(net, settings), settings, CPU)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for number in range(5):
        step(net, updater, number)
        for name, parameter in net.named_parameters():
            waits = name.startswith("encoder.") and number < 3  # three tenths of ten steps
            assert torch.equal(parameter, before[name]) == waits, f"{name} at step {number}"


def test_a_share_of_the_rate_is_what_it_says() -> None:
    """AdamW's first step moves each weight by its rate (against the sign of its gradient), whatever the gradient."""
    settings, net = optim(encoder_lr=0.25, layer_decay=0.5, weight_decay=0.0, clip=None), network("unet")
    updater = Updater(parameter_groups(net, settings), settings, CPU)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    step(net, updater, 0)
    moved = {name: (p.detach() - before[name]).abs().max().item() for name, p in net.named_parameters()}
    assert moved["decoder.output_block.conv.conv.weight"] == pytest.approx(1e-2, rel=1e-2)
    assert moved["encoder.bottleneck.conv2.conv.weight"] == pytest.approx(0.25e-2, rel=1e-2)
    assert moved["encoder.downsamples.0.conv1.conv.weight"] == pytest.approx(0.25e-2 / 8, rel=1e-2)
    assert moved["encoder.input_block.conv1.conv.weight"] == pytest.approx(0.25e-2 / 16, rel=1e-2)


def test_an_optimisers_state_comes_back_without_its_rates() -> None:
    """The rates are the settings': a checkpoint does not bring its own."""
    first, second = network("unet"), network("unet")
    slow, quick = optim(encoder_lr=0.1), optim(encoder_lr=0.9)
    updater = Updater(parameter_groups(first, slow), slow, CPU)
    step(first, updater, 0)
    other = Updater(parameter_groups(second, quick), quick, CPU)
    other.load_state_dict(updater.state_dict())
    assert [rate for rate, _ in other.rates][1:] == [0.9] * 5


# Label values

REGIONS = (OutputClass("whole", (1, 2, 4), (1, 1, 1)), OutputClass("core", (1, 4), (2, 2, 2)))
CLASSES = (
    OutputClass("background", (0,), (0, 0, 0)),
    OutputClass("a", (2,), (1, 0, 0)),
    OutputClass("b", (5,), (2, 0, 0)),
)


def task(classes: tuple[OutputClass, ...], activation: str) -> Segmentation:
    settings = resolve_finetune({}, {"patches.size": "32,32,32", "model.encoder": "unet"})
    return Segmentation(settings, network("unet"), classes, activation)


def test_label_values_become_class_numbers_or_regions() -> None:
    labels = torch.tensor([-1, 0, 1, 2, 4, 5, 6, 300], dtype=torch.int16).view(1, 8, 1, 1)
    found = task(CLASSES, "softmax").target(labels).flatten().tolist()
    assert found == [-1, 0, 0, 1, 0, 2, 0, 0], "what is no class is background, also beyond the highest"
    regions = task(REGIONS, "sigmoid").target(labels)[0, :, :, 0, 0].int().tolist()
    assert regions == [[0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 0, 1, 0, 0, 0]]
    assert lookup_table(REGIONS, "sigmoid").shape == (7, 2)


def seen_of(counts: list, slices: dict[int, Slice] | None = None) -> Seen:
    """Cases x (both, predicted, true) x classes."""
    return Seen(np.asarray(counts, np.int64), np.zeros(len(counts), int), slices or {})


def test_all_regions_count_for_the_best_state() -> None:
    """The first region is no background."""
    seen = seen_of([[[10, 1], [20, 10], [20, 10]], [[0, 4], [0, 4], [0, 4]]])
    both = values_of(seen, REGIONS, "segmentation")
    assert both["dice_whole"] == 0.5 and both["dice_core"] == pytest.approx((0.1 + 1) / 2)
    assert both["dice"] == pytest.approx((0.3 + 1.0) / 2)
    assert best_of(seen, REGIONS, "segmentation") == pytest.approx(both["dice"])


def test_background_and_what_nobody_has_do_not_count_for_the_best_state() -> None:
    seen = seen_of([[[99, 5, 0], [99, 10, 0], [99, 10, 0]], [[99, 0, 0], [99, 0, 0], [99, 0, 0]]])
    values = values_of(seen, CLASSES, "segmentation")
    assert values["dice"] == 0.5 == best_of(seen, CLASSES, "segmentation") and values["cases"] == 1
    assert "dice_b" not in values and "dice_background" not in values
    assert np.isnan(case_scores(seen, "softmax")).tolist() == [False, True]
    nothing = seen_of([[[9, 0, 0]] * 3])
    assert np.isnan(best_of(nothing, CLASSES, "segmentation"))
    assert "dice" not in values_of(nothing, CLASSES, "segmentation")


def test_a_diagnosis_is_compared_by_balanced_accuracy() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.6, 0.4]])
    seen = Seen(probabilities, np.array([0, 0, 0, 1]), {})
    assert best_of(seen, CLASSES[:2], "classification") == pytest.approx((2 / 3 + 0) / 2)
    values = values_of(seen, CLASSES[:2], "classification")
    assert values["accuracy"] == 0.5 and values["balanced_accuracy"] == pytest.approx(1 / 3)
    assert values["auroc"] == pytest.approx(2 / 3), "0.4 is above two of three"


# What several ranks, or batches added up, rely on: the loss of a batch is the mean of its crops' or cases'


@pytest.mark.parametrize(("classes", "activation"), [(CLASSES, "softmax"), (REGIONS, "sigmoid")])
@pytest.mark.parametrize("kind", ["dice_ce", "dice_focal", "tversky_ce"])
def test_crops_weigh_the_same_however_much_of_them_lies_outside(classes, activation, kind) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, len(classes), 6, 6, 6)
    labels = torch.randint(0, 6, (2, 6, 6, 6), dtype=torch.int16)
    labels[0, 2:] = -1
    target = task(classes, activation).target(labels)
    valid = None if activation == "softmax" else labels >= 0

    def loss(part: slice) -> torch.Tensor:
        kept = None if valid is None else valid[part]
        terms = segmentation_loss(logits[part], target[part], kind=kind, activation=activation, valid=kept)
        return torch.stack(list(terms.values()))

    both = loss(slice(0, 2))
    torch.testing.assert_close(both, (loss(slice(0, 1)) + loss(slice(1, 2))) / 2)


def test_a_rare_class_weighs_more_also_alone_in_its_batch() -> None:
    settings = resolve_finetune({}, {"task": "classification", "patches.size": "32,32,32"})
    diagnosis = Classification(settings, network("unet", ClassificationNetwork), [9, 3, 0]).eval()
    images = torch.randint(0, 32767, (4, 1, 1, 32, 32, 32), dtype=torch.int16)
    target = torch.tensor([[0], [1], [0], [0]])

    def loss(*cases: int) -> torch.Tensor:
        part = list(cases)
        return diagnosis({"images": images[part], "target": target[part]}).loss

    torch.testing.assert_close(loss(0, 1, 2, 3), (loss(0, 1) + loss(2, 3)) / 2)
    plain = torch.nn.functional.cross_entropy(diagnosis.network(images[1].float() / 32767), target[1])
    assert loss(1).item() == pytest.approx(plain.item() * 13 / (3 * 3)), "13 cases with at least one of each"
