"""Augmentation of labelled crops against numpy and scipy, on both ways through it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.spatial.transform import Rotation

from VoCoCore.data import augment_intensity as augment_intensity_module
from VoCoCore.data.augment_intensity import augment_intensity, blurred, raised
from VoCoCore.data.augment_space import OUTSIDE, augment_space, nearest

WAYS = (False, True)  # crop by crop, all at once
SEEDS = st.integers(0, 2**31)
SHAPES = st.tuples(*[st.integers(1, 7)] * 3)


def crops(rng, shape, count=3, channels=2, kind=np.int16):
    images = rng.random((count, channels, *shape), dtype=np.float32)
    labels = rng.integers(OUTSIDE, 5, (count, *shape)).astype(kind)
    labels[labels == 4] = np.iinfo(np.int16).max if kind != np.int8 else 127
    return torch.from_numpy(images), torch.from_numpy(labels)


def moves(count, *, flips=None, turns=None, matrix=None, warped=None):
    """All the parameters, of nothing where nothing is given."""
    return {
        "flips": torch.zeros(count, 3, dtype=torch.bool) if flips is None else torch.as_tensor(flips),
        "turns": torch.zeros(count, dtype=torch.int64) if turns is None else torch.as_tensor(turns),
        "matrix": torch.eye(3).repeat(count, 1, 1) if matrix is None else torch.as_tensor(matrix),
        "warped": torch.zeros(count, dtype=torch.bool) if warped is None else torch.as_tensor(warped),
    }


def turned(array, flip, turn):
    """Flipped, then turned, by numpy; the last three axes are x, y, z."""
    for axis in range(3):
        array = np.flip(array, axis - 3) if flip[axis] else array
    if array.shape[-3] != array.shape[-2]:
        turn -= turn % 2
    return np.rot90(array, turn, (-3, -2))


def warped_by_scipy(array, matrix, **options):
    middle = (np.array(array.shape) - 1) / 2
    return affine_transform(array, matrix, middle - matrix @ middle, **options)


@given(SEEDS, SHAPES, st.sampled_from([np.int8, np.int16, np.int64]))
@settings(max_examples=40, deadline=None)
def test_flips_and_turns_are_numpys_on_images_and_labels(seed, shape, kind):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 5))
    images, labels = crops(rng, shape, count, kind=kind)
    flips, turns = rng.random((count, 3)) < 0.5, rng.integers(0, 4, count)
    before = images.clone()
    for at_once in WAYS:
        new, kinds = augment_space(images, labels, **moves(count, flips=flips, turns=turns), at_once=at_once)
        assert new.dtype == torch.float32
        assert kinds.dtype == labels.dtype
        for m in range(count):
            assert np.array_equal(new[m].numpy(), turned(images[m].numpy(), flips[m], turns[m]))
            assert np.array_equal(kinds[m].numpy(), turned(labels[m].numpy(), flips[m], turns[m]))
    assert torch.equal(images, before)


def between_voxels(shape, matrix):
    """Where the nearest voxel is a matter of rounding."""
    middle = (np.array(shape) - 1) / 2
    at = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    places = (at - middle) @ matrix.T + middle
    return (np.abs(places % 1 - 0.5) < 1e-4).any(-1)


@given(SEEDS, st.tuples(*[st.integers(2, 7)] * 3))
@settings(max_examples=40, deadline=None)
def test_affine_maps_are_scipys(seed, shape):
    """After flips and turns; a crop that is not warped stays exact."""
    rng = np.random.default_rng(seed)
    images, labels = crops(rng, shape)
    flips, turns = rng.random((3, 3)) < 0.5, rng.integers(0, 4, 3)
    matrix = np.eye(3) + 0.3 * rng.standard_normal((3, 3))
    which = np.array([True, False, True])
    given_moves = moves(3, flips=flips, turns=turns, matrix=np.stack([matrix] * 3), warped=which)
    for at_once in WAYS:
        new, kinds = augment_space(images, labels, **given_moves, at_once=at_once)
        for m in range(3):
            image, label = (turned(x[m].numpy(), flips[m], turns[m]) for x in (images, labels))
            if which[m]:
                channels = [warped_by_scipy(c, matrix, order=1, mode="nearest") for c in image]
                image = np.stack(channels)
                label = warped_by_scipy(label, matrix, order=0, mode="grid-constant", cval=OUTSIDE)
            np.testing.assert_allclose(new[m].numpy(), image, atol=1e-5)
            same = kinds[m].numpy() == label
            assert (same | between_voxels(shape, matrix) & which[m]).all()


@given(SEEDS, st.tuples(*[st.integers(1, 7)] * 3))
@settings(max_examples=40, deadline=None)
def test_nearest_voxels_for_devices_without_them_are_torchs(seed, shape):
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(-1, 9, (2, 1, *shape)).astype(np.int16))
    grid = torch.from_numpy(rng.uniform(-1.5, 1.5, (2, 4, 5, 6, 3)).astype(np.float32))
    torchs = F.grid_sample(
        labels.float() - OUTSIDE, grid, mode="nearest", padding_mode="zeros", align_corners=True
    )
    found = nearest(labels, grid)
    assert found.dtype == labels.dtype and torch.equal(found.float(), torchs + OUTSIDE)


@pytest.mark.parametrize("at_once", WAYS)
@pytest.mark.parametrize("shape", [(8, 9, 5), (1, 6, 4), (64, 64, 64)])
def test_the_identity_changes_nothing(at_once, shape):
    images, labels = crops(np.random.default_rng(0), shape, 1)
    new, kinds = augment_space(images, labels, **moves(1, warped=[True]), at_once=at_once)
    torch.testing.assert_close(new, images, atol=2e-5, rtol=0)
    assert torch.equal(kinds, labels)
    new, _ = augment_space(images, labels, **moves(1), at_once=at_once)
    assert torch.equal(new, images)


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_a_sphere_stays_a_sphere(seed):
    """Rotated and scaled: labels lie on the image, and the sphere grows by what was asked for."""
    rng = np.random.default_rng(seed)
    shape = (32, 30, 28)
    at = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij"))
    ball = np.linalg.norm(at, axis=0) < 9
    scale = rng.uniform(0.8, 1.2)
    matrix = Rotation.random(random_state=int(seed)).as_matrix() / scale
    images, labels = torch.from_numpy(ball[None, None].astype(np.float32)), torch.from_numpy(ball[None] * 3)
    new, kinds = augment_space(images, labels, **moves(1, matrix=matrix[None], warped=[True]))
    from_image, from_label = new[0, 0] > 0.5, kinds[0] == 3
    overlap = 2 * (from_image & from_label).sum() / (from_image.sum() + from_label.sum())
    assert overlap > 0.95
    expected = np.linalg.norm(at, axis=0) < 9 * scale
    assert 2 * (from_label.numpy() & expected).sum() / (from_label.sum() + expected.sum()) > 0.93


def test_zooming_out_leaves_no_label_outside():
    images, labels = crops(np.random.default_rng(0), (8, 8, 8), 1)
    labels = labels.clamp(min=0)
    _, kinds = augment_space(images, labels, **moves(1, matrix=2 * torch.eye(3)[None], warped=[True]))
    inside = torch.zeros(8, 8, 8, dtype=torch.bool)
    inside[2:6, 2:6, 2:6] = True
    assert torch.equal(kinds[0] != OUTSIDE, inside)


def settings_of(count, **given):
    """All the parameters of intensity, of nothing where nothing is given."""
    nothing = {"scale": 1.0, "shift": 0.0, "gamma": 1.0, "noise": 0.0, "blur": 0.0}
    whole = {name: torch.full((count,), value) for name, value in nothing.items()}
    return {
        **whole,
        **{name: torch.as_tensor(v).float() for name, v in given.items()},
        "seeds": list(range(count)),
    }


@given(SEEDS, SHAPES)
@settings(max_examples=40, deadline=None)
def test_intensities_by_numpy(seed, shape):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 5))
    images = crops(rng, shape, count)[0] - 0.1  # some below 0
    scale, shift, gamma = (
        rng.uniform(0.7, 1.4, count),
        rng.uniform(-0.2, 0.2, count),
        rng.uniform(0.5, 2, count),
    )
    gamma[rng.random(count) < 0.4] = 1
    options = settings_of(count, scale=scale, shift=shift, gamma=gamma)
    before = images.clone()
    for at_once in WAYS:
        new = augment_intensity(images, **options, at_once=at_once)
        assert new.dtype == torch.float32
        for m in range(count):
            x = images[m].numpy().astype(float)
            x = np.maximum(x, 0) ** gamma[m] if gamma[m] != 1 else x
            np.testing.assert_allclose(new[m].numpy(), x * scale[m] + shift[m], atol=1e-5)
    assert torch.equal(images, before)


@pytest.mark.parametrize("at_once", WAYS)
def test_nothing_asked_for_changes_nothing(at_once):
    images = crops(np.random.default_rng(0), (6, 5, 4))[0] - 0.2
    assert torch.equal(augment_intensity(images, **settings_of(3), at_once=at_once), images)


@pytest.mark.parametrize("at_once", WAYS)
@pytest.mark.parametrize("absent", [("blur",), ("gamma",), ("noise",), ("blur", "gamma", "noise")])
def test_what_no_crop_has_is_not_computed(absent, at_once, monkeypatch):
    images = crops(np.random.default_rng(0), (6, 5, 4))[0]
    given = {"scale": [1.2, 0.8, 1], "gamma": [0.7, 1.5, 1], "noise": [0.1, 0, 0.2], "blur": [1, 0, 2]}
    options = settings_of(3, **{name: value for name, value in given.items() if name not in absent})
    expected = augment_intensity(images, **options, at_once=at_once)
    for name, work in (("blur", "blurred"), ("gamma", "raised"), ("noise", "_normal")):
        if name in absent:
            monkeypatch.setattr(
                augment_intensity_module, work, lambda *_: pytest.fail("computed for nothing")
            )
    found = augment_intensity(images, **{**options, **dict.fromkeys(absent)}, at_once=at_once)
    torch.testing.assert_close(found, expected)


def test_a_power_is_exact_at_its_ends():
    values = torch.tensor([0.0, 1.0, -2.0]).view(1, 1, 1, 1, 3)
    assert raised(values, torch.tensor([0.37])).flatten().tolist() == [0, 1, 0]


@given(SEEDS, SHAPES)
@settings(max_examples=30, deadline=None)
def test_blur_is_a_gaussian_over_what_is_inside(seed, shape):
    rng = np.random.default_rng(seed)
    images, _ = crops(rng, shape)
    sigmas = np.array([rng.uniform(0.3, 3), 0, 1.0])
    options = settings_of(3, blur=sigmas)
    ways = [augment_intensity(images, **options, at_once=at_once).numpy() for at_once in WAYS]
    # Zeros outside, divided by the weight that lies inside: nothing of the library's own borders is left.
    wide = {"mode": "constant", "truncate": 40.0}
    for m in (0, 2):
        share = gaussian_filter(np.ones(shape), sigmas[m], **wide)
        for c in range(2):
            image = images[m, c].numpy().astype(float)
            for new in ways:
                expected = gaussian_filter(image, sigmas[m], **wide) / share
                np.testing.assert_allclose(new[m, c], expected, atol=1e-5)
    assert all(np.array_equal(new[1], images[1].numpy()) for new in ways)


def test_blur_of_a_point_has_the_asked_width():
    image = torch.zeros(1, 1, 33, 33, 33)
    image[..., 16, 16, 16] = 1
    row = blurred(image, torch.tensor([2.0]))[0, 0].sum((1, 2))
    at = torch.arange(33) - 16.0
    assert row.sum().item() == pytest.approx(1, abs=1e-5)
    assert (row * at.square()).sum().sqrt().item() == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("at_once", WAYS)
def test_noise_follows_from_its_seeds(at_once):
    images = crops(np.random.default_rng(0), (24, 24, 24), 4)[0]
    spread = torch.tensor([0.1, 0.0, 0.3, 0.1])
    options = settings_of(4, noise=spread)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    new = augment_intensity(images, **options, at_once=at_once)
    assert torch.equal(torch.get_rng_state(), state), "the program's own random numbers go on as they were"
    assert torch.equal(new, augment_intensity(images, **options, at_once=at_once))
    added = new - images
    assert torch.equal(new[1], images[1])
    for m in (0, 2, 3):
        assert added[m].std().item() == pytest.approx(spread[m].item(), rel=0.02)
        assert added[m].mean().item() == pytest.approx(
            0, abs=3 * spread[m].item() / len(added[m].flatten()) ** 0.5
        )
    assert abs(np.corrcoef(added[0].flatten(), added[3].flatten())[0, 1]) < 0.03
    assert abs(np.corrcoef(added[0, 0].flatten(), added[0, 1].flatten())[0, 1]) < 0.04
    other = augment_intensity(images, **{**options, "seeds": [2**63 - 1, *[0] * 3]}, at_once=at_once)
    assert not torch.equal(other[0], new[0])


def test_a_crop_is_treated_alike_whatever_the_others_get():
    images = crops(np.random.default_rng(0), (8, 8, 8))[0]
    options = settings_of(
        3, noise=[0.1, 0.1, 0.1], blur=[1, 0.5, 0], gamma=[1.2, 1, 0.8], shift=[0.1, 0, 0.2]
    )
    both = [augment_intensity(images, **options, at_once=at_once) for at_once in WAYS]
    torch.testing.assert_close(*both, atol=1e-6, rtol=0)
    swapped = {**options, "seeds": options["seeds"][::-1]}
    for at_once in WAYS:
        again = augment_intensity(images, **swapped, at_once=at_once)
        assert torch.equal(again[1], both[at_once][1])
        assert not torch.equal(again[0], both[at_once][0])
    quiet = {**options, "noise": torch.tensor([0, 0.1, 0]), "blur": torch.tensor([0, 0.5, 0])}
    assert torch.equal(augment_intensity(images, **quiet)[1], both[0][1])
