"""Plans: orientation, spacing, intensity, foreground box and sizes, against slow and simple computations."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from VoCoCore.data.apply import apply_plan
from VoCoCore.data.intensity import percentiles, recognise
from VoCoCore.data.plan import foreground_box, largest_shape, plan_case, planned_body_part
from VoCoCore.errors import DataError
from VoCoCore.geometry import spacing_of
from VoCoCore.settings import PrepareSettings

AFFINE = np.diag([1.5, 1.0, 2.5, 1.0])
V1 = PrepareSettings(window=(-175, 250))
V2 = PrepareSettings(by_body_part=True, foreground=0.0, fit="pad")


def body(shape: tuple[int, int, int] = (20, 24, 16), seed: int = 0) -> np.ndarray:
    """A CT (1, X, Y, Z): noisy soft tissue in air."""
    rng = np.random.default_rng(seed)
    image = np.full(shape, -1000, np.int16)
    image[3:-4, 5:-2, 2:-3] = rng.integers(-100, 200, (shape[0] - 7, shape[1] - 7, shape[2] - 5))
    return image[None]


# --- orientation and affine ---


def all_orientations() -> list[np.ndarray]:
    """The 48 ways in which array axes can run along R, A, S."""
    found = []
    for order, signs in itertools.product(
        itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)
    ):
        affine = np.zeros((4, 4))
        affine[order, range(3)] = np.multiply(signs, (1.5, 1.0, 2.5))
        affine[3, 3] = 1
        found.append(affine)
    return found


@pytest.mark.parametrize("affine", all_orientations())
def test_a_landmark_keeps_its_place_in_the_patient(affine: np.ndarray) -> None:
    image = np.full((9, 8, 7), -1000, np.float32)
    image[1:8, 1:7, 1:6] = 0
    image[5, 2, 3] = 250
    plan = plan_case(image[None], affine, V1, (9, 8, 7))
    prepared = apply_plan(image[None], plan, np.float32)[0]
    # The brightest spot may lie between voxels: its centre of mass above the tissue is what is compared.
    weight = np.maximum(prepared - prepared[0, 0, 0], 0)
    centre = np.array([(weight * axis).sum() for axis in np.indices(weight.shape)]) / weight.sum()
    np.testing.assert_allclose(
        plan.affine[:3, :3] @ centre + plan.affine[:3, 3], affine[:3, :3] @ (5, 2, 3), atol=1.3
    )
    assert (np.diag(plan.affine)[:3] > 0).all()


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(4, 9)] * 3),
    st.tuples(*[st.floats(0.5, 4)] * 3),
    st.floats(-40, 40),
    st.sampled_from(["v1", "v2", "padded"]),
    st.integers(0, 2**32),
)
def test_prepared_voxels_are_where_the_affine_says(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], angle: float, kind: str, seed: int
) -> None:
    """A linear ramp survives every trilinear step, so a prepared value tells the place it was taken from."""
    turn = np.eye(4)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn[:2, :2] = [[c, -s], [s, c]]
    affine = turn @ np.diag([spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = np.random.default_rng(seed).normal(0, 50, 3)
    gradient = np.array([0.3, 0.2, 0.1])
    places = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    ramp = places @ gradient
    prepare = {"v1": V1, "v2": V2, "padded": PrepareSettings(spacing=(1.2, 1.3, 1.4), fit="pad")}[
        kind
    ].with_values(
        {"intensity": "ct", "window": (float(ramp.min()) - 1, float(ramp.max()) + 1), "foreground": 0.0}
    )
    plan = plan_case(ramp[None].astype(np.float32), affine, prepare, (12, 11, 10))
    prepared = apply_plan(ramp[None].astype(np.float32), plan, np.float32)[0]
    index = np.moveaxis(np.indices(plan.shape), 0, -1)
    there = index @ plan.affine[:3, :3].T + plan.affine[:3, 3]
    low, high = prepare.window or (0, 1)
    told = prepared * (high - low) + low
    oriented = plan.oriented_affine
    source = (there - oriented[:3, 3]) @ np.linalg.inv(oriented[:3, :3]).T
    sizes = [plan.source_shape[axis] for axis in plan.order]
    inside = ((source >= 0) & (source <= np.subtract(sizes, 1))).all(-1)
    assert inside.any()
    np.testing.assert_allclose(told[inside], (there @ gradient)[inside], atol=2e-3 * (high - low))


def test_spacing_keeps_the_first_voxel_and_takes_the_stated_size() -> None:
    prepare = PrepareSettings(intensity="ct", spacing=(1.0, 1.0, 1.0), foreground=0.0, fit="pad")
    image = np.full((1, 7, 6, 5), 40, np.int16)
    image[0, 0, 0, 0] = 41
    plan = plan_case(image, AFFINE, prepare, (1, 1, 1))
    assert plan.shape == (10, 6, 11)
    np.testing.assert_allclose(spacing_of(plan.affine), 1)
    np.testing.assert_allclose(plan.affine[:3, 3], 0)


# --- foreground ---


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_box_of_a_resampled_volume_is_that_of_all_its_values(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 8)] * 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    volume = np.where(rng.random(shape) < data.draw(st.floats(0, 0.3)), rng.normal(0, 1, shape), -3.0)
    steps = data.draw(st.tuples(*[st.sampled_from([0.37, 0.5, 1.0, 1.7, 2.0, 3.3])] * 3))
    points = tuple(np.arange(int((n - 1) / s + 1.5)) * s for n, s in zip(shape, steps, strict=True))
    grid = np.stack(np.meshgrid(*points, indexing="ij"))
    above = np.argwhere(map_coordinates(volume, grid, order=1, mode="nearest") > 0.1)
    found = foreground_box(volume.astype(np.float32), (points[0], points[1], points[2]), 0.1)
    if len(above) == 0:
        assert found is None
    else:
        np.testing.assert_array_equal(found, [above.min(0), above.max(0) + 1])


def test_any_channel_counts_as_foreground() -> None:
    channels = np.concatenate([body(), np.full_like(body(), -1000)])
    channels[1, 0, 7, 15] = 200
    plan = plan_case(channels, AFFINE, PrepareSettings(intensity="ct"), (8, 8, 8))
    assert plan.start == (0, 5, 2)
    assert np.add(plan.start, plan.size).tolist() == [16, 22, 16]


def test_a_volume_without_foreground_is_kept_whole_with_a_warning() -> None:
    image = np.full((1, 6, 6, 6), -1000, np.int16)
    image[0, 2, 2, 2] = -900
    plan = plan_case(image, AFFINE, V1, (6, 6, 6))
    assert plan.size == (6, 6, 6)
    assert "whole volume is kept" in plan.warnings[0]
    assert apply_plan(image, plan).max() == 0


# --- sizes and body parts ---


@pytest.mark.parametrize(
    ("part", "spacing", "window", "shape"),
    [
        ("abdomen", (1.5, 1.5, 1.5), (-175, 250), (100, 90, 66)),
        ("abdomen_without_label", (1.5, 1.5, 1.5), (-175, 250), (96, 80, 64)),
        ("headneck", (1.5, 1.5, 1.5), (-175, 250), (96, 80, 64)),
        ("chest", (1.25, 1.25, 5.0), (-1000, 500), (120, 108, 64)),
        (None, (1.5, 1.5, 1.5), (-175, 250), (100, 90, 66)),
    ],
)
def test_recipe_v2_follows_the_body_part(
    part: str | None,
    spacing: tuple[float, float, float],
    window: tuple[float, float],
    shape: tuple[int, int, int],
) -> None:
    image = np.zeros((1, 100, 90, 40), np.int16)
    image[0, :, :, 0] = -160
    affine = np.diag([1.5, 1.5, 2.5, 1.0])
    plan = plan_case(image, affine, V2.with_values({"intensity": "ct"}), (96, 80, 64), part)
    assert plan.shape == shape
    assert (plan.intensities[0].low, plan.intensities[0].high) == window
    assert largest_shape((100, 90, 40), affine, V2, (96, 80, 64), part) == shape
    if part == "chest" or part is None:
        np.testing.assert_allclose(spacing_of(plan.affine), spacing)


def test_what_the_user_sets_comes_before_the_rule_of_the_body_part() -> None:
    prepare = V2.with_values({"intensity": "ct", "window": (0, 100), "spacing": (2, 2, 2)})
    plan = plan_case(body(), AFFINE, prepare, (8, 8, 8), "chest")
    assert (plan.intensities[0].low, plan.intensities[0].high) == (0, 100)
    np.testing.assert_allclose(spacing_of(plan.affine), 2)


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("CHEST", "chest"),
        ("Head and Neck", "headneck"),
        ("thorax", "chest"),
        ("knee", "abdomen"),
        (None, "abdomen"),
    ],
)
def test_words_for_body_parts(word: str | None, part: str) -> None:
    assert planned_body_part(V2, word) == part
    assert planned_body_part(V1, word) is None


def test_padding_puts_the_odd_voxel_after() -> None:
    image = np.full((1, 3, 4, 5), 100, np.int16)
    image[0, 0, 0, 0] = 90
    plan = plan_case(image, np.eye(4), PrepareSettings(intensity="ct", fit="pad"), (6, 6, 6))
    filled = np.argwhere(apply_plan(image, plan)[0])
    assert filled.min(0).tolist() == [1, 1, 0]
    assert filled.max(0).tolist() == [3, 4, 4]
    np.testing.assert_allclose(plan.affine[:3, 3], [-1, -1, 0])


# --- intensity ---


def mr(shape: tuple[int, int, int] = (20, 20, 20)) -> np.ndarray:
    return np.abs(np.random.default_rng(1).normal(0, 150, shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("image", "kind", "word"),
    [
        (body()[0], "ct", "air"),
        (np.random.default_rng(0).integers(-120, 300, (12, 12, 12)), "ct", "fat"),
        (mr(), "mr", "no air"),
        (np.random.default_rng(0).normal(size=(12, 12, 12)), "mr", "no air"),
        (np.random.default_rng(0).integers(-4096, 4096, (12, 12, 12)), "mr", "below any Hounsfield"),
        (mr().astype(np.uint8), "mr", "no air"),
    ],
)
def test_ct_is_recognised_by_its_values(image: np.ndarray, kind: str, word: str) -> None:
    found, why = recognise(image)
    assert found == kind
    assert word in why


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([np.uint8, np.int16, np.int32, np.float32]),
    st.integers(1, 2000),
    st.tuples(st.floats(0, 50), st.floats(50, 100)),
    st.integers(0, 2**32),
)
def test_percentiles_are_those_of_all_voxels(
    dtype: type, spread: int, ranks: tuple[float, float], seed: int
) -> None:
    image: np.ndarray = np.random.default_rng(seed).integers(0, spread, (5, 6, 7)).astype(dtype)
    np.testing.assert_allclose(percentiles(image, ranks), np.percentile(image, ranks), rtol=1e-6, atol=1e-6)


def test_mr_is_scaled_by_the_percentiles_of_each_channel() -> None:
    channels = np.stack([mr(), 100 * mr() + 7])
    prepare = PrepareSettings(foreground=0.0, fit="pad")
    plan = plan_case(channels, np.eye(4), prepare, (20, 20, 20))
    prepared = apply_plan(channels, plan, np.float32)
    for channel, values in zip(channels, prepared, strict=True):
        low, high = np.percentile(channel, (0.5, 99.5))
        np.testing.assert_allclose(values, np.clip((channel - low) / (high - low), 0, 1), atol=1e-5)


def test_without_a_rule_the_range_becomes_zero_to_one() -> None:
    plan = plan_case(mr()[None], np.eye(4), PrepareSettings(intensity="none", foreground=0.0), (20, 20, 20))
    prepared = apply_plan(mr()[None], plan, np.float32)
    np.testing.assert_allclose(prepared[0], (mr() - mr().min()) / np.ptp(mr()), atol=1e-6)
    kept = plan_case(mr()[None] / 1000, np.eye(4), PrepareSettings(intensity="none"), (20, 20, 20))
    assert (kept.intensities[0].low, kept.intensities[0].high) == (0, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    image = mr()
    image[3, 4, 5] = value
    with pytest.raises(DataError, match="not finite"):
        plan_case(image[None], np.eye(4), V1, (8, 8, 8))


@pytest.mark.parametrize("value", [0, -1000])
def test_an_image_of_one_value_is_refused(value: int) -> None:
    with pytest.raises(DataError, match=f"same value, {value}"):
        plan_case(np.full((1, 5, 5, 5), value, np.int16), np.eye(4), V1, (8, 8, 8))


def test_a_plan_is_plain_json_that_says_why() -> None:
    plan = plan_case(body(), AFFINE, V2, (96, 96, 64), "chest")
    text = json.dumps(plan.to_dict())
    for word in ("chest", "1.25 x 1.25 x 5 mm", "as air does", "window -1000 to 500 HU"):
        assert word in text
