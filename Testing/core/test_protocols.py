"""Protocols against the published table, how settings are resolved, and what is chosen where they are open."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from VoCoCore.devices import Machine
from VoCoCore.errors import SettingsError
from VoCoCore.fields import flatten
from VoCoCore.finetune_settings import PROTOCOL_NAMES, FinetuneSettings
from VoCoCore.protocols import PROTOCOLS, resolve_finetune
from VoCoCore.settings import ENCODER_LIMITS
from VoCoCore.training.planning import CROP_VOXELS, LONGEST, Facts, Planner, finished_plan, is_planned

# ROI, spacing, window, learning rate, weight decay, epochs, warm-up epochs, crops a step, positive : negative.
SEGMENTATIONS = {
    "btcv": (96, 1.5, (-175, 250), 3e-4, 1e-5, 3000, 100, 16, (3, 1)),
    "mmwhs": (64, 1.5, (0, 1700), 1e-3, None, 1000, 50, 4, (9, 1)),
    "amos": (96, 1.5, (-175, 250), 3e-4, 0.005, 1000, 50, 16, (9, 1)),
    "flare22": (96, 1.5, (-175, 250), 3e-4, 0.005, 3000, 100, 16, (9, 1)),
    "word": (96, 1.5, (-175, 250), 3e-4, 1e-5, 200, 5, 4, (9, 1)),
}


@pytest.mark.parametrize("name", SEGMENTATIONS)
def test_a_protocol_has_the_published_values(name) -> None:
    roi, spacing, window, lr, decay, epochs, warmup, crops, (positive, negative) = SEGMENTATIONS[name]
    made = resolve_finetune({}, {"protocol": name})
    assert (made.task, made.model.encoder, made.model.feature_size) == ("segmentation", "swin_unetr", 48)
    assert made.patches.size == (roi,) * 3 and made.prepare.spacing == (spacing,) * 3
    assert made.prepare.window == window and made.prepare.intensity == "ct" and made.prepare.fit == "pad"
    assert made.optim.lr == lr and (decay is None or made.optim.weight_decay == decay)
    assert made.optim.epochs == epochs and made.optim.warmup_share * epochs == pytest.approx(warmup)
    assert made.optim.steps is None and made.optim.batch * made.patches.per_case == crops
    assert made.patches.positive == pytest.approx(positive / (positive + negative))
    assert made.optim.amsgrad == (name == "mmwhs") and made.run.overlap == 0.75
    assert made.loss.kind == "dice_ce" and not made.loss.background
    assert made.augment.flip == (0.2, 0.2, 0.2) and made.augment.turn == 0.2
    assert made.augment.scale == made.augment.scale_range == 0.1 and made.augment.shift > 0
    others = ("rotate", "zoom", "gamma", "noise", "blur")
    assert not any(getattr(made.augment, other) for other in others)


def test_the_published_classification() -> None:
    made = resolve_finetune({}, {"protocol": "ccii"})
    assert (made.task, made.data.folds) == ("classification", 3)
    assert made.optim.lr == 3e-4 and made.optim.amsgrad and made.optim.batch == 4
    assert made.optim.epochs == 100 and made.optim.warmup_share == 0.05
    assert made.patches.size[:2] == (256, 256) and made.prepare.window == (0, 255)
    assert made.prepare.spacing is None and made.prepare.fit == "resize"


@pytest.mark.parametrize("name", ["lits", "spleen", "brats21"])
def test_protocols_after_plans_are_whole(name) -> None:
    made = resolve_finetune({}, {"protocol": name})
    assert made.prepare.spacing and made.patches.size and made.optim.batch == 2 and made.optim.steps
    assert (made.prepare.intensity == "mr") == (name == "brats21")


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_protocols_name_known_settings_and_none_of_another_layer(name) -> None:
    known = {option.name for option in FinetuneSettings.options()}
    assert set(PROTOCOLS[name]) <= known, "no unknown setting"
    private = ("init", "protocol", "data.source", "data.store", "run.seed", "run.device", "data.labels")
    assert not set(PROTOCOLS[name]) & set(private)
    made = resolve_finetune({}, {"protocol": name})
    for setting, value in PROTOCOLS[name].items():
        assert made.flat()[setting] == (list(value) if isinstance(value, tuple) else value)
    assert FinetuneSettings.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_every_protocol_has_a_name_and_the_other_way_round() -> None:
    assert set(PROTOCOL_NAMES) == set(PROTOCOLS)


# Order


def test_the_command_line_goes_before_the_file_and_both_before_the_protocol() -> None:
    config = {"protocol": "btcv", "optim.lr": 1e-2, "optim.weight_decay": 0.1, "patches.size": [64, 64, 64]}
    made = resolve_finetune(config, {"optim.lr": "0.5", "patches.size": "128x128x128"})
    assert made.optim.lr == 0.5 and made.patches.size == (128, 128, 128)
    assert made.optim.weight_decay == 0.1 and made.optim.epochs == 3000
    assert resolve_finetune(config, {"protocol": "word"}).optim.epochs == 200


LENGTHS = {"optim.steps": 70, "optim.epochs": 3.0, "run.hours": 2.0}


@pytest.mark.parametrize("protocol", ["auto", "btcv", "lits"])
@pytest.mark.parametrize("said", LENGTHS)
def test_the_last_word_on_the_length_counts_whatever_its_unit(said, protocol) -> None:
    for config, options in (
        ({"protocol": protocol}, {said: LENGTHS[said]}),
        ({"protocol": protocol, said: LENGTHS[said]}, {}),
        ({"protocol": protocol, "optim.steps": 9, "run.hours": 1}, {said: LENGTHS[said]}),
    ):
        found = resolve_finetune(config, options).flat()
        assert {n: found[n] for n in LENGTHS if found[n] is not None} == {said: LENGTHS[said]}


def test_a_fold_may_be_a_number_in_a_file() -> None:
    assert resolve_finetune({"data.fold": 2}, {}).data.fold == "2"
    assert resolve_finetune({"data.fold": None}, {}).data.fold is None


BAD = [
    ({"patches.size": "33,32,32", "model.encoder": "unet"}, ["patches.size", "multiples of 16"]),
    ({"patches.size": "32,32,32", "model.encoder": "swin_unetr"}, ["patches.size", "at least 64"]),
    ({"model.feature_size": 10, "model.encoder": "swin_unetr"}, ["feature_size 10", "multiple of 12"]),
    ({"model.feature_size": 6, "model.encoder": "unetr"}, ["feature_size 6", "multiple of 4"]),
    ({"data.labels": 0}, ["data.labels cannot be 0"]),
    ({"data.labels": 1.5}, ["data.labels cannot be 1.5"]),
    ({"data.labels": -1}, ["data.labels must be at least 0"]),
    ({"data.fold": "5"}, ["data.fold cannot be 5", "0 to 4"]),
    ({"data.fold": "-1"}, ["data.fold cannot be -1"]),
    ({"data.fold": "first"}, ["data.fold cannot be first", "or all"]),
    ({"data.fold": 7, "data.folds": 7}, ["data.fold cannot be 7", "0 to 6"]),
    ({"data.val_fraction": 0.6, "data.test_fraction": 0.4}, ["leave no case"]),
    ({"optim.steps": 5, "optim.warmup": 5}, ["optim.warmup 5 leaves none"]),
    ({"prepare.window": "3,3"}, ["prepare.window must rise"]),
    ({"prepare.percentiles": "99,1"}, ["prepare.percentiles must rise"]),
    ({"prepare.fit": "resize"}, ["prepare.fit must be pad"]),
    ({"prepare.by_body_part": True}, ["prepare.fit must be pad"]),
    ({"task": "classification", "prepare.fit": "pad"}, ["prepare.fit must be resize"]),
    ({"task": "classification", "protocol": "btcv"}, ["btcv is for segmentation, not classification"]),
    ({"task": "segmentation", "protocol": "ccii"}, ["ccii is for classification, not segmentation"]),
    ({"protocol": "amoss"}, ["Did you mean 'amos'"]),
    ({"task": "segment"}, ["Did you mean 'segmentation'"]),
    ({"loss.kind": "dice"}, ["loss.kind", "dice_ce"]),
    ({"run.hours": 0}, ["run.hours must be"]),
    ({"optim.ema": 1.0}, ["optim.ema must be"]),
    ({"patches.positive": 1.1}, ["patches.positive must be from 0.0 to 1.0"]),
    ({"augment.flip": "0.5"}, ["augment.flip needs 3 numbers"]),
    ({"optim.freze": "stem"}, ["Did you mean 'optim.freeze'"]),
]


@pytest.mark.parametrize(("values", "says"), BAD, ids=[str(values) for values, _ in BAD])
def test_values_that_cannot_be_meant(values, says) -> None:
    for config, options in ((values, {}), ({}, values)):
        with pytest.raises(SettingsError) as caught:
            resolve_finetune(config, options)
        assert all(word in str(caught.value) for word in says), str(caught.value)
        assert caught.value.hint


# Choosing

CT = Facts(np.array([0.8, 0.8, 3.0]), np.array([300.0, 300.0, 240.0]), "ct", (-20.0, 180.0), 20)
MR = Facts(np.array([1.0, 1.0, 1.0]), np.array([35.0, 50.0, 36.0]), "mr", (10.0, 900.0), 100)


def plan(facts: Facts = CT, source=None, names=(), device: str = "cpu", ranks: int = 1, **changes):
    """Settings with every value, and the reasons, for a machine that need not be here."""
    machine = Machine(torch.device(device), "fp32", device, 0, ranks)
    named = {name.replace("__", "."): value for name, value in changes.items()}
    made, reasons = Planner(resolve_finetune({}, named), facts, source or {}, names, machine).plan()
    return made, reasons


def test_a_plan_of_a_ct() -> None:
    made, reasons = plan()
    assert (made.model.encoder, made.model.feature_size) == ("unet", 12)
    assert made.prepare.intensity == "ct" and made.prepare.spacing == (0.938, 0.938, 3.0)
    assert made.prepare.window == (-70.0, 230.0), "a quarter of the range beyond what is labelled"
    assert np.prod(made.patches.size) <= CROP_VOXELS["cpu"] and all(e % 16 == 0 for e in made.patches.size)
    assert made.optim.batch == 2 and made.optim.steps == 1500
    said = " ".join(reasons)
    for word in ("model.encoder", "prepare.window", "between -20 and 180 HU", "prepare.spacing", "coarser"):
        assert word in said
    assert all(": " in reason for reason in reasons) and is_planned(finished_plan(made))


def test_a_plan_of_an_mr_takes_percentiles_and_the_whole_of_a_small_case() -> None:
    made, reasons = plan(MR)
    assert made.prepare.intensity == "mr" and made.prepare.window is None
    assert made.prepare.spacing == (1.0, 1.0, 1.0) and made.patches.size == (32, 32, 48)
    made, reasons = plan(MR, device="cuda")
    assert made.patches.size == (48, 64, 48) and any(
        "the whole of a median case (35 x 50 x 36" in r for r in reasons
    )
    assert (made.model.feature_size, made.optim.steps) == (48, 25_000)


def test_mixed_kinds_are_decided_case_by_case() -> None:
    made, _ = plan(replace(CT, kind="auto"))
    assert made.prepare.intensity == "auto" and made.prepare.window is None


def test_a_huge_volume_is_made_coarser_and_stays_anisotropic() -> None:
    made, _ = plan(Facts(np.array([0.1, 0.1, 0.4]), np.array([200.0, 100.0, 60.0]), "ct", None, 3))
    spacing = np.array(made.prepare.spacing)
    assert spacing.tolist() == [0.625, 0.312, 0.4]
    assert (np.array([200.0, 100.0, 60.0]) / spacing <= LONGEST * 1.01).all()
    assert made.prepare.window is None, "without labelled voxels the usual window"


def test_a_tiny_volume_gets_the_smallest_crop_of_each_encoder() -> None:
    small = Facts(np.ones(3), np.array([9.0, 9.0, 9.0]), "mr", None, 2)
    for encoder, (low, _) in ENCODER_LIMITS.items():
        assert plan(small, model__encoder=encoder)[0].patches.size == (low,) * 3


@given(
    extent=st.tuples(*[st.floats(5, 2000)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    encoder=st.sampled_from(sorted(ENCODER_LIMITS)),
    device=st.sampled_from(["cpu", "cuda"]),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_every_plan_fits_its_encoder_and_device(extent, spacing, encoder, device) -> None:
    facts = Facts(np.asarray(spacing), np.asarray(extent), "ct", (0.0, 100.0), 5)
    made, _ = plan(facts, device=device, model__encoder=encoder)
    low, step = ENCODER_LIMITS[encoder]
    assert all(edge >= low and edge % step == 0 for edge in made.patches.size)
    assert np.prod(made.patches.size) <= max(CROP_VOXELS[device], low**3)
    assert is_planned(finished_plan(made))


PARENT = {
    "encoder": "swin_unetr",
    "feature_size": "24",
    "prepare": json.dumps({"intensity": "ct", "window": [-175.0, 250.0], "by_body_part": False}),
}


def test_a_plan_follows_the_weights_it_starts_from() -> None:
    made, reasons = plan(source=PARENT)
    assert (made.model.encoder, made.model.feature_size) == ("swin_unetr", 24)
    assert made.prepare.window == (-175.0, 250.0) and made.prepare.intensity == "ct"
    assert made.patches.size == (64, 64, 64)
    assert sum("as in the weights it starts from" in r for r in reasons) == 2
    assert sum("as in pre-training" in r for r in reasons) == 2


@pytest.mark.parametrize("prepare", ["{", "[1]", '{"by_body_part": true, "window": [0, 1]}', "{}"])
def test_what_weights_say_in_another_way_is_passed_over(prepare) -> None:
    made, _ = plan(source={**PARENT, "prepare": prepare})
    assert made.prepare.window == (-70.0, 230.0)


def test_spacing_of_the_weights_is_taken_unless_it_is_far_off() -> None:
    near, far = {**PARENT, "spacing": "1.2,1.2,4"}, {**PARENT, "spacing": "9,9,9"}
    assert plan(source=near)[0].prepare.spacing == (1.2, 1.2, 4.0)
    for other in (
        far,
        {**PARENT, "spacing": "1,2"},
        {**PARENT, "spacing": "a,b,c"},
        {**PARENT, "spacing": "0,1,1"},
    ):
        assert plan(source=other)[0].prepare.spacing == (0.938, 0.938, 3.0)


def test_what_is_given_is_not_chosen() -> None:
    given = {
        "model__encoder": "unetr",
        "model__feature_size": 8,
        "prepare__intensity": "mr",
        "prepare__spacing": "2,2,2",
        "patches__size": "48,48,48",
        "optim__batch": 6,
        "optim__steps": 40,
    }
    made, reasons = plan(source=PARENT, **given)
    flat = made.flat()
    for name, value in given.items():
        found = flat[name.replace("__", ".")]
        assert (",".join(f"{v:g}" for v in found) if isinstance(found, list) else found) == value
    assert not reasons
    assert plan(prepare__window="5,6", prepare__intensity="ct")[0].prepare.window == (5.0, 6.0)


def test_a_protocols_values_stay_as_published() -> None:
    made, reasons = plan(protocol="btcv", source=PARENT, names=["left kidney"])
    assert made.prepare.window == (-175, 250) and made.augment.flip == (0.2, 0.2, 0.2)
    assert made.optim.steps == 15_000, "3000 epochs of 20 cases, 4 a step"
    assert [reason.split()[0] for reason in reasons] == ["optim.steps"]
    done = finished_plan(made)
    assert (done.optim.warmup, done.run.validate_every, done.run.checkpoint_every) == (500, 1500, 1000)


@pytest.mark.parametrize(
    ("names", "flip"),
    [
        (["liver", "spleen"], (0.2, 0.2, 0.2)),
        (["left kidney", "Right Kidney"], (0.0, 0.2, 0.2)),
        (["kidney_left"], (0.0, 0.2, 0.2)),
        (["Anterior", "Posterior"], (0.2, 0.0, 0.2)),
        (["lung_upper_lobe_left"], (0.0, 0.2, 0.0)),
        (["bright spot", "cleft"], (0.2, 0.2, 0.2)),
    ],
)
def test_labels_with_sides_are_not_flipped(names, flip) -> None:
    made, reasons = plan(names=names, augment__flip="0.2,0.2,0.2")
    assert made.augment.flip == flip
    assert any("a matter of sides" in reason for reason in reasons) == (min(flip) == 0)


def test_lengths() -> None:
    assert plan(optim__epochs=10)[0].optim.steps == 100, "20 cases, 2 a step"
    assert plan(optim__epochs=10, optim__accumulate=5)[0].optim.steps == 20
    assert plan(optim__epochs=0.001)[0].optim.steps == 1
    assert plan(run__hours=3)[0].optim.steps is None, "measured when the network is there"
    assert plan(ranks=3)[0].optim.batch == 3 and plan(ranks=2)[0].optim.batch == 2
    assert plan(replace(CT, cases=1))[0].optim.batch == 1


def test_a_classification_sees_each_case_whole() -> None:
    made, reasons = plan(task="classification")
    assert made.prepare.spacing is None and made.prepare.fit == "resize" and made.patches.per_case == 1
    assert made.patches.size and not any(reason.startswith("prepare.spacing") for reason in reasons)
    text = next(reason for reason in reasons if reason.startswith("patches.size"))
    assert "a part of" not in text and "375 x 375 x 80" in text


def test_a_plan_has_all_names_of_the_settings() -> None:
    made, _ = plan()
    assert set(dict(flatten(made.to_dict()))) == {option.name for option in FinetuneSettings.options()}
