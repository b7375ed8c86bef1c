"""Protocols against the published table, and how settings are resolved."""

from __future__ import annotations

import json

import pytest

from VoCoCore.errors import SettingsError
from VoCoCore.finetune_settings import PROTOCOL_NAMES, FinetuneSettings
from VoCoCore.protocols import PROTOCOLS, resolve_finetune

# ROI, spacing, window, learning rate, weight decay, epochs, warm-up epochs, crops a step, positive : negative.
SEGMENTATIONS = {
    "btcv": (96, 1.5, (-175, 250), 3e-4, 1e-5, 3000, 100, 16, (3, 1)),
    "mmwhs": (64, 1.5, (0, 1700), 1e-3, 0.01, 1000, 50, 4, (9, 1)),
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
    assert made.optim.lr == lr and made.optim.weight_decay == decay
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
    assert made.optim.weight_decay == 0.01, "torch's own value, which the published code leaves"
    assert made.optim.epochs == 100 and made.optim.warmup_share == 0.05
    assert made.patches.size[:2] == (256, 256) and made.prepare.window == (0, 255)
    assert made.prepare.spacing is None and made.prepare.fit == "resize"


@pytest.mark.parametrize("name", ["lits", "spleen", "brats21"])
def test_protocols_after_plans_are_whole(name) -> None:
    made = resolve_finetune({}, {"protocol": name})
    assert made.prepare.spacing and made.patches.size and made.optim.batch == 2 and made.optim.steps
    assert (made.prepare.intensity == "mr") == (name == "brats21")
    if name == "spleen":
        assert made.patches.size == (160, 192, 64), "nnU-Net writes 64 x 192 x 160, slices first"


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
