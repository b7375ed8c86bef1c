"""Which crops are drawn and how they are augmented: inside, on the right voxels, the same for the same number."""

from __future__ import annotations

from dataclasses import fields
from math import cos, exp, log, radians, sin

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from VoCoCore.data.patches import LEAST_DEVIATION, Patches, draw_patches, starts_around
from VoCoCore.data.places import STORED_PLACES, Places, places_of
from VoCoCore.finetune_settings import FinetuneAugmentSettings, PatchSettings

SIZES = st.tuples(*[st.integers(1, 40)] * 3)
NOTHING = dict.fromkeys(("turn", "rotate", "zoom", "scale", "shift", "gamma", "noise", "blur"), 0.0) | {
    "flip": (0.0, 0.0, 0.0)
}


def label_of(seed: int, shape: tuple[int, ...] = (30, 24, 20)) -> np.ndarray:
    """Background with three classes of very different sizes."""
    label = np.zeros(shape, np.int16)
    label[2:20, 2:20, 2:18] = 1
    label[22:26, 5:8, 5:8] = 2
    label[27, 20, 15 + seed % 3] = 7
    return label


def draw(number: int = 0, seed: int = 0, label: np.ndarray | None = None, **changes) -> Patches:
    """Crops of 16^3, without augmentation unless ``changes`` says so."""
    label = label_of(0) if label is None else label
    places = changes.pop("places", None) or places_of(label, 0)
    names = {item.name for item in fields(PatchSettings)}
    own = {"size": (16, 16, 16), "per_case": 2, **{n: v for n, v in changes.items() if n in names}}
    spacing = changes.pop("spacing", (1.0, 1.0, 1.0))
    augment = FinetuneAugmentSettings(**{**NOTHING, **{n: v for n, v in changes.items() if n not in names}})
    return draw_patches(PatchSettings(**own), augment, seed, number, label.shape, places, spacing)


def centres(drawn: Patches, size: int = 1) -> np.ndarray:
    return drawn.starts + size // 2


# Places


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    values=st.lists(st.integers(0, 32767), min_size=1, max_size=4),
    seed=st.integers(0, 2**60 - 1),
)
@settings(max_examples=60, deadline=None)
def test_places_are_where_the_values_are(shape, values, seed) -> None:
    label = np.random.default_rng(seed).choice(np.asarray(values, np.int16), shape)
    for turned in (label, label.T, label[::-1]):
        found = places_of(turned, seed)
        expected, counts = np.unique(turned, return_counts=True)
        assert np.array_equal(found.values, expected) and np.array_equal(found.counts, counts)
        for value, voxels in zip(found.values, found.voxels, strict=True):
            where = {tuple(voxel) for voxel in voxels.tolist()}
            assert where == {tuple(voxel) for voxel in np.argwhere(turned == value).tolist()}


def test_of_many_voxels_an_even_part_is_kept() -> None:
    label = np.zeros((40, 40, 40), np.int16)
    label[:, :, 20:] = 1
    found = places_of(label, 3)
    assert [len(voxels) for voxels in found.voxels] == [STORED_PLACES] * 2
    assert len({tuple(v) for v in found.voxels[1].tolist()}) == STORED_PLACES, "no voxel twice"
    # A mean of 4096 even draws out of 32000 lies within five standard errors of the middle.
    assert np.abs(found.voxels[1].mean(0) - (19.5, 19.5, 29.5)).max() < 5 * 11.6 / 64
    again, other = places_of(label, 3), places_of(label, 4)
    assert np.array_equal(found.voxels[0], again.voxels[0])
    assert not np.array_equal(found.voxels[0], other.voxels[0])


# Where crops lie


@given(shape=SIZES, size=SIZES, share=st.tuples(*[st.floats(0, 1)] * 3))
@settings(max_examples=200, deadline=None)
def test_crops_lie_inside_or_around_the_volume(shape, size, share) -> None:
    centre = np.floor(np.multiply(share, np.subtract(shape, 1))).astype(int)
    (start,) = starts_around(centre[None], size, shape)
    for first, edge, length, middle in zip(start.tolist(), size, shape, centre.tolist(), strict=True):
        if edge <= length:
            assert first >= 0 and first + edge <= length
            assert first <= middle < first + edge
            free = edge // 2 <= middle and middle - edge // 2 + edge <= length
            assert not free or first == middle - edge // 2, "moved though there was room"
        else:
            before, after = -first, first + edge - length
            assert before >= 0 and after >= 0 and abs(before - after) <= 1, "the volume is in the middle"


@given(number=st.integers(0, 10**9), seed=st.integers(0, 2**63 - 1), edge=st.sampled_from([16, 24, 48]))
@settings(max_examples=60, deadline=None)
def test_a_positive_crop_shows_a_labelled_voxel(number, seed, edge) -> None:
    label = label_of(seed)
    for start in draw(number, seed, label, size=(edge,) * 3, positive=1.0, per_case=3).starts:
        low = np.maximum(start, 0)
        x, y, z = (slice(a, b) for a, b in zip(low, start + edge, strict=True))
        assert (label[x, y, z] > 0).any()


def chosen(balance: str, positive: float, draws: int = 600) -> np.ndarray:
    """Label values under the centres of many crops, 4 to a draw."""
    label = np.pad(label_of(0, (64, 64, 64)), 16)  # so that no crop is moved from its centre
    found, options = [], {"places": places_of(label, 0), "balance": balance, "positive": positive}
    for number in range(draws):
        drawn = draw(number, 1, label, per_case=4, **options)
        found += [label[tuple(centre)] for centre in centres(drawn, 16)]
    return np.asarray(found)


def test_each_class_is_as_frequent_as_the_others() -> None:
    values, counts = np.unique(chosen("classes", 1.0), return_counts=True)
    assert values.tolist() == [1, 2, 7]
    assert np.abs(counts / counts.sum() - 1 / 3).max() < 0.06  # six standard errors


def test_each_voxel_is_as_frequent_as_the_others() -> None:
    found = chosen("voxels", 1.0)
    label = label_of(0, (64, 64, 64))
    share = np.mean(label[label > 0] == 1)
    assert set(found.tolist()) <= {1, 2, 7} and abs(np.mean(found == 1) - share) < 0.02


@pytest.mark.parametrize("positive", [0.0, 0.33, 0.75, 1.0])
def test_the_share_of_positive_crops(positive) -> None:
    found = np.mean(chosen("classes", positive) > 0)
    spread = 6 * (positive * (1 - positive) / 2400) ** 0.5
    assert abs(found - positive) <= spread


def test_where_a_case_lacks_what_is_wanted_crops_lie_anywhere() -> None:
    for label in (np.zeros((30, 30, 30), np.int16), np.ones((30, 30, 30), np.int16)):
        starts = np.concatenate([draw(n, 0, label, per_case=8).starts for n in range(40)])
        assert len(np.unique(starts, axis=0)) > 200 and starts.min() == 0 and starts.max() == 14


def test_a_whole_case_is_one_view_from_its_first_voxel() -> None:
    drawn = draw_patches(
        PatchSettings(size=(16, 16, 16)),
        FinetuneAugmentSettings(flip=(0.2, 0.2, 0.2)),
        0,
        5,
        (16, 16, 16),
        None,
    )
    assert drawn.starts.tolist() == [[0, 0, 0]] and drawn.flips.shape == (1, 3)


# The same number, the same draw

ALL = dict.fromkeys(NOTHING, 0.5) | {"flip": (0.5, 0.5, 0.5), "per_case": 3}


def same(first: Patches, second: Patches) -> bool:
    return all(np.array_equal(a, vars(second)[name]) for name, a in vars(first).items())


@given(number=st.integers(0, 2**40), seed=st.integers(0, 2**63 - 1))
@settings(max_examples=30, deadline=None)
def test_a_draw_depends_on_seed_and_number_alone(number, seed) -> None:
    first = draw(number, seed, **ALL)
    np.random.seed(number % 1000)
    draw(number + 1, seed, **ALL)
    assert same(first, draw(number, seed, **ALL))
    assert not same(first, draw(number + 1, seed, **ALL)) and not same(first, draw(number, seed ^ 1, **ALL))


def test_augmentation_does_not_change_which_crops_are_drawn() -> None:
    for number in range(20):
        assert np.array_equal(draw(number, **ALL).starts, draw(number, per_case=3).starts)


# Augmentation


def test_without_probability_nothing_is_done() -> None:
    for number in range(30):
        drawn = draw(number, per_case=4)
        assert not drawn.flips.any() and not drawn.turns.any() and not drawn.warped.any()
        assert np.array_equal(drawn.matrix, np.broadcast_to(np.eye(3, dtype=np.float32), (4, 3, 3)))
        for name, idle in (("scale", 1), ("shift", 0), ("gamma", 1), ("noise", 0), ("blur", 0)):
            assert np.all(getattr(drawn, name) == idle), name


CERTAIN = dict.fromkeys(NOTHING, 1.0) | {"flip": (1.0, 1.0, 1.0), "per_case": 8}
RANGES = {
    "scale_range": 0.2,
    "shift_range": 0.3,
    "gamma_range": 0.4,
    "noise_range": 0.05,
    "blur_range": 2.0,
    "degrees": 10.0,
    "zoom_range": 0.25,
}


def test_with_certainty_all_is_done_within_its_range() -> None:
    drawn = [draw(number, **CERTAIN, **RANGES) for number in range(60)]
    joined = {name: np.concatenate([vars(d)[name] for d in drawn]) for name in vars(drawn[0])}
    assert joined["flips"].all() and joined["warped"].all() and set(joined["turns"]) == {1, 2, 3}
    bounds = {
        "scale": (0.8, 1.2),
        "shift": (-0.3, 0.3),
        "gamma": (exp(-0.4), exp(0.4)),
        "noise": (0.0, 0.05),
        "blur": (LEAST_DEVIATION, 2.0),
    }
    for name, (low, high) in bounds.items():
        values, width = joined[name], high - low
        assert values.min() >= low - 1e-6 and values.max() <= high + 1e-6, name
        assert values.min() < low + 0.1 * width and values.max() > high - 0.1 * width, f"{name}: all of it"
    assert len(np.unique(joined["seeds"])) == len(joined["seeds"]), "each crop has noise of its own"


def test_quarter_turns_need_a_square() -> None:
    turns = [draw(n, size=(16, 32, 16), **CERTAIN).turns for n in range(20)]
    assert set(np.concatenate(turns)) == {2}


def test_each_axis_has_its_own_probability_of_a_flip() -> None:
    flips = np.concatenate([draw(n, flip=(0.0, 1.0, 0.5), per_case=8).flips for n in range(60)])
    assert not flips[:, 0].any() and flips[:, 1].all() and 0.35 < flips[:, 2].mean() < 0.65


def in_mm(matrix: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """The map of offsets in millimetres of a map of offsets in voxels."""
    return np.diag(spacing) @ matrix.astype(float) @ np.linalg.inv(np.diag(spacing))


@given(number=st.integers(0, 10**6), spacing=st.tuples(*[st.floats(0.5, 6.0)] * 3))
@settings(max_examples=60, deadline=None)
def test_a_map_is_a_rotation_and_a_change_of_size_in_space(number, spacing) -> None:
    options = {"rotate": 1.0, "degrees": 20.0, "zoom": 1.0, "zoom_range": 0.3, "per_case": 4}
    for matrix in draw(number, spacing=spacing, **options).matrix:
        found = in_mm(matrix, spacing)
        factor = np.cbrt(np.linalg.det(found))
        assert 1 / 1.3 - 1e-4 <= factor <= 1.3 + 1e-4
        rotation = found / factor
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=2e-4)
        # Three turns by at most 20 degrees about fixed axes turn no direction by more than their sum.
        assert np.trace(rotation) >= 1 + 2 * cos(radians(60)) - 1e-4


def test_a_rotation_is_the_product_of_turns_about_x_then_y_then_z() -> None:
    """Against the closed form, with the angles taken from the matrix itself."""
    spacing = (0.8, 0.8, 3.0)
    for number in range(30):
        found = in_mm(draw(number, rotate=1.0, degrees=30.0, spacing=spacing, per_case=1).matrix[0], spacing)
        about_z, about_x = np.arctan2(found[1, 0], found[0, 0]), np.arctan2(found[2, 1], found[2, 2])
        about_y = np.arctan2(found[2, 0], np.hypot(found[2, 1], found[2, 2]))
        assert max(abs(about_x), abs(about_y), abs(about_z)) <= radians(30) + 1e-4
        x = np.array([[1, 0, 0], [0, cos(about_x), -sin(about_x)], [0, sin(about_x), cos(about_x)]])
        y = np.array([[cos(about_y), 0, -sin(about_y)], [0, 1, 0], [sin(about_y), 0, cos(about_y)]])
        z = np.array([[cos(about_z), -sin(about_z), 0], [sin(about_z), cos(about_z), 0], [0, 0, 1]])
        np.testing.assert_allclose(found, z @ y @ x, atol=1e-5)


def test_larger_and_smaller_are_equally_likely() -> None:
    factors = [
        log(np.cbrt(np.linalg.det(matrix)))
        for n in range(100)
        for matrix in draw(n, zoom=1.0, zoom_range=0.5, per_case=4).matrix
    ]
    assert abs(np.mean(factors)) < 6 * log(1.5) / 3**0.5 / 20
    assert min(factors) < -0.9 * log(1.5) and max(factors) > 0.9 * log(1.5)


def test_half_of_the_crops_are_augmented_where_the_probability_is_a_half() -> None:
    drawn = [draw(n, **{**ALL, "per_case": 4}) for n in range(150)]
    for name, idle in (("turns", 0), ("scale", 1), ("shift", 0), ("gamma", 1), ("noise", 0), ("blur", 0)):
        share = np.mean([np.mean(vars(d)[name] != idle) for d in drawn])
        assert 0.38 < share < 0.62, name  # six standard errors
    assert 0.65 < np.mean([d.warped.mean() for d in drawn]) < 0.85, "rotated, or resized, or both"


def test_places_keep_what_the_header_says(tmp_path) -> None:
    """Through a store: the same places come back."""
    from VoCoCore.data.store import Store

    label = label_of(1)
    made, store = places_of(label, 9), Store(tmp_path / "store").create()
    header = {
        "affine": np.eye(4).tolist(),
        "labels": {"values": made.values.tolist(), "counts": made.counts.tolist()},
    }
    store.write("ab" * 32, np.stack([label, label]), header, made.voxels)
    found: Places = Store(store.root).open("ab" * 32).places()
    assert np.array_equal(found.values, made.values) and np.array_equal(found.counts, made.counts)
    assert all(np.array_equal(a, b) for a, b in zip(found.voxels, made.voxels, strict=True))
