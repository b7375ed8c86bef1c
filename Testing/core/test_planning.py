"""What is chosen where a fine-tuning leaves it open: from the cases, the weights, the machine and the time."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from VoCoCore.devices import Machine
from VoCoCore.errors import SettingsError
from VoCoCore.fields import flatten
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.protocols import PROTOCOLS, resolve_finetune
from VoCoCore.settings import ENCODER_LIMITS
from VoCoCore.training.case_facts import Facts
from VoCoCore.training.crop_plan import ENOUGH, Need, crop_size
from VoCoCore.training.planning import (
    CROP_VOXELS,
    LONGEST,
    SMALL_UNET,
    Planner,
    finished_plan,
    is_planned,
    with_flips,
)
from VoCoCore.training.takeover import with_card

CT = Facts(np.array([0.8, 0.8, 3.0]), np.array([300.0, 300.0, 240.0]), "ct", (-20.0, 180.0), 20)
MR = Facts(np.array([1.0, 1.0, 1.0]), np.array([35.0, 50.0, 36.0]), "mr", (10.0, 900.0), 100)


def plan(facts: Facts = CT, source=None, names=(), device="cpu", ranks=1, need=lambda s: None, **changes):
    """Settings with every value, and the reasons, for a machine that need not be here; ``need``: what a crop takes."""
    machine = Machine(torch.device(device), "fp32", device, 0, ranks)
    named = {name.replace("__", "."): value for name, value in changes.items()}
    made, reasons = Planner(resolve_finetune({}, named), facts, source or {}, machine, need).plan()
    made, more = with_flips(made, names)
    return made, reasons + more


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
    assert made.prepare.spacing == (1.0, 1.0, 1.0)
    assert made.patches.size == (32, 48, 32), "longer where the case is longer"
    made, reasons = plan(MR, device="cuda")
    assert made.patches.size == (48, 64, 48) and any(
        "the whole of a median case (35 x 50 x 36" in r for r in reasons
    )
    assert (made.model.feature_size, made.optim.steps) == (48, 25_000)


def test_no_window_begins_below_air() -> None:
    assert plan(replace(CT, under_labels=(-995.0, 390.0)))[0].prepare.window == (-1024.0, 735.0)


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
        "patches__per_case": 3,
        "augment__flip": "0.1,0.2,0.3",
        "optim__batch": 6,
        "optim__steps": 40,
        "optim__lr": 0.02,
    }
    made, reasons = plan(source=PARENT, **given)
    flat = made.flat()
    for name, value in given.items():
        found = flat[name.replace("__", ".")]
        assert (",".join(f"{v:g}" for v in found) if isinstance(found, list) else found) == value
    assert not reasons
    assert plan(prepare__window="5,6", prepare__intensity="ct")[0].prepare.window == (5.0, 6.0)


def test_a_small_u_net_learns_at_a_higher_rate_than_others() -> None:
    small = plan(model__encoder="unet", model__feature_size=12)
    assert small[0].optim.lr == 4e-3 and any(reason.startswith("optim.lr") for reason in small[1])
    for other in (
        {"model__encoder": "unet", "model__feature_size": 48},
        {"model__encoder": "swin_unetr", "model__feature_size": 12},
        {"model__encoder": "unet", "model__feature_size": 12, "task": "classification"},
    ):
        assert plan(**other)[0].optim.lr == 1e-3


def test_a_small_encoder_that_comes_trained_is_moved_less_than_its_new_decoder() -> None:
    small = {"model__encoder": "unet", "model__feature_size": 12}
    made, reasons = plan(source={"encoder": "unet", "holds": "encoder"}, **small)
    assert made.optim.encoder_lr == 0.3 and any(reason.startswith("optim.encoder_lr") for reason in reasons)
    tuned = {"holds": "network"}
    parent = {**PARENT, "holds": "encoder"}
    wide = {"model__encoder": "unet", "model__feature_size": SMALL_UNET + 1}
    widest = {"model__encoder": "unet", "model__feature_size": SMALL_UNET}
    assert plan(source=parent, **widest)[0].optim.encoder_lr == 0.3
    for source, chosen, share in (
        ({}, small, 1.0),
        (tuned, small, 1.0),
        (parent, wide, 1.0),
        (parent, {**small, "task": "classification"}, 1.0),
        (parent, {**small, "optim__encoder_lr": 0.7}, 0.7),
    ):
        made, reasons = plan(source=source, **chosen)
        assert made.optim.encoder_lr == share
        assert not any(reason.startswith("optim.encoder_lr") for reason in reasons)


def test_nothing_is_left_open_however_much_was_given() -> None:
    flat = finished_plan(plan()[0]).flat()
    for name in (
        "model.encoder",
        "patches.size",
        "patches.per_case",
        "optim.batch",
        "optim.lr",
        "optim.encoder_lr",
        "optim.steps",
    ):
        settings = FinetuneSettings().with_values({**flat, name: None})
        assert not is_planned(settings), name
        made = finished_plan(Planner(settings, CT, {}, Machine(torch.device("cpu"), "fp32", "")).plan()[0])
        assert is_planned(made) and made.flat()[name] is not None


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "auto"])
def test_a_named_protocol_leaves_neither_rate_nor_flips_to_be_chosen(protocol) -> None:
    made = resolve_finetune({}, {"protocol": protocol})
    assert made.optim.lr and made.augment.flip == (0.2, 0.2, 0.2) and made.optim.encoder_lr == 1.0


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
        (["liver", "spleen"], (0.2, 0.0, 0.0)),
        (["left kidney", "Right Kidney"], (0.0, 0.0, 0.0)),
        (["kidney_left"], (0.0, 0.0, 0.0)),
        (["Anterior", "Posterior"], (0.2, 0.0, 0.0)),
        (["bright spot", "cleft"], (0.2, 0.0, 0.0)),
        (["background", "label 1"], (0.2, 0.0, 0.0)),
        (["background", "label 1", "label 2"], (0.0, 0.0, 0.0)),
    ],
)
def test_labels_with_sides_are_not_flipped_unless_one_asks_for_it(names, flip) -> None:
    made, reasons = plan(names=names)
    assert made.augment.flip == flip
    assert any("sides" in reason for reason in reasons) == (flip[0] == 0)
    made, reasons = plan(names=names, augment__flip="0.5,0.2,0.2")
    assert made.augment.flip == (0.5, 0.2, 0.2) and not any("flip" in reason for reason in reasons)


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


CARD = {
    "encoder": "unet",
    "feature_size": "8",
    "card": json.dumps(
        {
            "prepare": {
                "spacing": [7, 8, 9],
                "intensity": "ct",
                "window": [-50, 90],
                "percentiles": [0.5, 99.5],
            }
        }
    ),
}


def test_a_fine_tuned_network_hands_its_preparation_on() -> None:
    """Whatever else would be chosen from the cases, and whether or not anything else is open."""

    def taken(source, **changes) -> tuple[tuple, list[str]]:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        made, reasons = with_card(resolve_finetune({}, named), source)
        machine = Machine(torch.device("cpu"), "fp32", "cpu", 0, 1)
        made, _ = Planner(made, CT, source, machine).plan()
        return (made.prepare.spacing, made.prepare.intensity, made.prepare.window), reasons

    found, reasons = taken(CARD)
    assert found == ((7, 8, 9), "ct", (-50, 90))
    (said,) = reasons
    assert said.startswith(
        "prepare.spacing 7 x 8 x 9, prepare.intensity ct, prepare.window -50 to 90: as the fine-"
    )
    assert taken(CARD, prepare__spacing="1,1,1", prepare__window="0,9")[0] == ((1, 1, 1), "ct", (0, 9))
    assert taken(CARD, task="classification")[0] == (None, "ct", (-50, 90))
    assert taken(CARD, protocol="btcv")[0] == ((1.5, 1.5, 1.5), "ct", (-175, 250))
    for damaged in ("[" * 100_000, "[]", '{"prepare": {"spacing": null}}'):
        assert taken({**CARD, "card": damaged}, prepare__spacing="1,1,1")[0][0] == (1, 1, 1)
    wrong = {**CARD, "card": json.dumps({"prepare": {"window": [None, "x"]}})}
    with pytest.raises(SettingsError, match=r"prepare\.window needs a number"):
        taken(wrong)
    usual = {**CARD, "card": json.dumps({"prepare": {"spacing": None, "intensity": "ct", "window": None}})}
    assert taken(usual)[0][2] is None, "the usual window, not one around what is labelled here"
    for broken in ("{", "[]", '{"prepare": 3}'):
        assert taken({**CARD, "card": broken}) == (taken({})[0], [])


# Crops


@given(
    voxels=st.tuples(*[st.integers(5, 400)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    encoder=st.sampled_from(sorted(ENCODER_LIMITS)),
)
@hypothesis_settings(max_examples=40, deadline=None)
def test_a_crop_is_as_near_to_a_cube_in_mm_as_any_of_its_size(voxels, spacing, encoder) -> None:
    low, step = ENCODER_LIMITS[encoder]
    most = max(300_000, low**3)
    size = crop_size(voxels, spacing, low, step, most)
    whole = [max(low, -(-edge // step) * step) for edge in voxels]

    def stretch(edges) -> float:
        mm = np.multiply(edges, spacing)
        shortest = np.where(np.less(edges, whole), mm, np.inf).min()
        return max(1.0, round(max(mm) / shortest, 3))

    others = [edges for edges in product(*(range(low, w + 1, step) for w in whole)) if np.prod(edges) <= most]
    largest = max(np.prod(edges) for edges in others)
    assert size in others and np.prod(size) >= ENOUGH * largest
    alike = [stretch(edges) for edges in others if np.prod(edges) >= ENOUGH * largest]
    assert stretch(size) == pytest.approx(min(alike))


def test_crops_of_thick_slices_are_wide_not_long() -> None:
    made, reasons = plan(device="cuda", model__encoder="unet")
    x, y, z = np.multiply(made.patches.size, made.prepare.spacing)
    assert max(x, y, z) < 1.5 * min(x, y, z), "by voxels it was 90 x 90 x 288 mm"
    text = next(reason for reason in reasons if reason.startswith("patches.size"))
    assert "mm, as near to a cube" in text and f"{x:.0f}" in text


def needing(room: float, crop: float = 100.0, seconds: float | None = None):
    """A machine with ``room`` MB where 50 000 voxels take ``crop`` MB beside 50 MB of weights."""
    return lambda s: Need(crop * np.prod(s.patches.size) / 50_000, 50.0, room, seconds)


def test_batch_and_crops_follow_the_memory() -> None:
    numbers = {}
    for room in (10_000, 500, 400, 270, 190):
        made, reasons = plan(need=needing(room))
        numbers[room] = made.optim.batch, made.patches.per_case
        text = next(reason for reason in reasons if "optim.batch" in reason)
        assert text.startswith("optim.batch") and "patches.per_case" in text and f"{room:,} MB" in text
        assert made.patches.size == plan()[0].patches.size
    assert numbers == {10_000: (2, 2), 500: (2, 1), 400: (2, 1), 270: (1, 1), 190: (1, 1)}
    made, _ = plan(device="cuda", need=needing(1e6))
    assert (made.optim.batch, made.patches.per_case) == (4, 4)
    made, _ = plan(device="cuda", need=needing(1e6), ranks=3)
    assert (made.optim.batch, made.patches.per_case) == (6, 4), "two for each of three"
    assert plan(need=needing(500), optim__batch=3)[0].patches.per_case == 1
    assert plan(need=needing(10_000), patches__per_case=4)[0].optim.batch == 1
    made, _ = plan(replace(CT, cases=1))
    assert (made.optim.batch, made.patches.per_case) == (1, 4), "of one case more crops"
    assert plan(replace(CT, cases=1), task="classification")[0].patches.per_case == 1


def test_a_crop_too_large_for_the_memory_is_made_smaller() -> None:
    made, reasons = plan(device="cuda", model__encoder="unet", need=needing(1000.0))
    need = needing(1000.0)(made)
    assert need.crops >= 1 and np.prod(made.patches.size) >= 100_000, made.patches.size
    assert any(r.startswith("patches.size") and "1,000 MB of memory" in r for r in reasons)
    made, _ = plan(need=needing(10.0))
    assert made.patches.size == (32, 32, 32) and made.optim.batch == 1, "no smaller one can be"


@pytest.mark.parametrize("length", [{"optim__steps": 100}, {"optim__epochs": 3}])
def test_hours_beside_a_length_that_counts_change_nothing(length) -> None:
    alone, _ = plan(need=needing(10_000), **length)
    made, reasons = plan(need=needing(10_000, seconds=0.5), run__hours=0.1, **length)
    assert (made.optim, made.patches) == (alone.optim, alone.patches)
    assert not any(" h are enough" in reason for reason in reasons)


def test_few_hours_give_fewer_crops_a_step() -> None:
    made, reasons = plan(need=needing(10_000, seconds=0.5), run__hours=0.25)
    assert (made.optim.batch, made.patches.per_case) == (1, 1), (
        "0.25 h x 0.85 / 1500 steps: half a second each"
    )
    assert any("0.25 h are enough for 1500 steps" in reason for reason in reasons)
    made, _ = plan(need=needing(10_000, seconds=0.5), run__hours=2)
    assert (made.optim.batch, made.patches.per_case) == (2, 2)


def test_many_cases_are_seen_often_enough() -> None:
    made, reasons = plan(replace(CT, cases=1000))
    assert made.optim.steps == 5000 and any("10 epochs of 1000 cases" in reason for reason in reasons)
    assert any("150 epochs of 20 cases" in reason for reason in plan()[1])
