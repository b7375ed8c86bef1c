"""Boxes, grids, position labels and world maps, against counting voxels and against corners written by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from VoCoCore.errors import SettingsError
from VoCoCore.geometry import Box, Grid, cropped_affine, resized_affine, shear_of, spacing_of, to_ras

COUNTS = [(2, 2, 1), (3, 3, 1), (4, 4, 1), (5, 5, 1), (3, 3, 2), (4, 4, 2)]


@st.composite
def grid_and_crop(draw):
    """Any counts, any volume they fit, any whole-voxel crop inside it, smaller or larger than a base crop."""
    counts = draw(st.tuples(*[st.integers(1, 5)] * 3))
    size = tuple(draw(st.integers(n, 17)) for n in counts)
    crop = tuple(draw(st.integers(1, s)) for s in size)
    start = tuple(draw(st.integers(0, s - c)) for s, c in zip(size, crop, strict=True))
    return Grid(size, counts), Box(start, crop)


@given(grid_and_crop())
@settings(max_examples=150, deadline=None)
def test_labels_are_what_counting_voxels_gives(case):
    grid, box = case
    owner = np.empty(grid.volume_size, dtype=int)
    for number, base in enumerate(grid.boxes()):
        cut = tuple(slice(int(a), int(b)) for a, b in zip(base.start, base.stop, strict=True))
        owner[cut] = number
    cut = tuple(slice(int(a), int(b)) for a, b in zip(box.start, box.stop, strict=True))
    counted = np.bincount(owner[cut].ravel(), minlength=grid.n) / owner[cut].size
    np.testing.assert_allclose(grid.overlap_labels(box), counted, rtol=0, atol=1e-12)


@given(grid_and_crop())
@settings(max_examples=100, deadline=None)
def test_labels_sum_to_one_and_factor(case):
    grid, box = case
    y = grid.overlap_labels(box)
    assert y.dtype == np.float64 and (y >= 0).all()
    assert y.sum() == pytest.approx(1, abs=1e-12)
    block = y.reshape(grid.counts)
    x, a, z = block.sum((1, 2)), block.sum((0, 2)), block.sum((0, 1))
    np.testing.assert_allclose(block, np.einsum("i,j,k->ijk", x, a, z), atol=1e-12)


@pytest.mark.parametrize("counts", COUNTS)
def test_a_base_crop_is_one_hot_and_a_crop_of_base_size_meets_at_most_four_per_layer(counts):
    size = tuple(12 * n for n in counts)
    grid = Grid(size, counts)
    for number, base in enumerate(grid.boxes()):
        assert grid.overlap_labels(base).tolist() == np.eye(grid.n)[number].tolist()
    rng = np.random.default_rng(0)
    for _ in range(50):
        start = tuple(rng.uniform(0, s - 12) for s in size)
        met = (grid.overlap_labels(Box(start, (12, 12, 12))) > 0).sum()
        assert met <= (4 if counts[2] == 1 else 8)


@given(grid_and_crop())
@settings(max_examples=50, deadline=None)
def test_bases_cover_the_volume_without_overlap_at_rounded_edges(case):
    grid, _ = case
    assert sum(box.volume for box in grid.boxes()) == np.prod(grid.volume_size)
    for axis, (size, n) in enumerate(zip(grid.volume_size, grid.counts, strict=True)):
        assert grid.edges[axis].tolist() == [round(i * size / n) for i in range(n + 1)]


def test_classes_are_numbered_with_x_slowest():
    grid = Grid((30, 40, 20), (3, 4, 2))
    box = grid.boxes()[(2 * 4 + 1) * 2 + 1]
    assert box.start == (20, 10, 10) and box.size == (10, 10, 10)


def test_a_crop_outside_counts_only_its_share_inside():
    assert Grid((10, 10, 10), (2, 1, 1)).overlap_labels(Box((-5, 0, 0), (10, 10, 10))).tolist() == [0.5, 0.0]


def test_corners_of_an_oblique_flipped_volume():
    """Corners written by hand: 2 mm along -R, 3 mm along A turned by 90 degrees to S, 4 mm along A."""
    affine = np.array([[-2.0, 0, 0, 10], [0, 0, 4, 20], [0, 3, 0, 30], [0, 0, 0, 1]])
    corners = Box((0, 0, 0), (5, 5, 5)).corners(affine)
    # Faces lie half a voxel outside the first and last voxel centres.
    np.testing.assert_allclose(corners.min(0), [10 - 2 * 4.5, 20 - 2, 30 - 1.5])
    np.testing.assert_allclose(corners.max(0), [10 + 1, 20 + 4 * 4.5, 30 + 3 * 4.5])
    np.testing.assert_allclose(corners[0], [11, 18, 28.5])


@given(st.integers(0, 10**6), st.tuples(*[st.integers(2, 12)] * 3))
@settings(max_examples=60, deadline=None)
def test_to_ras_keeps_every_voxel_where_it_is(seed, shape):
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * rng.uniform(0.5, 4, size=3), rng.normal(size=3) * 50
    order, flips, new = to_ras(shape, affine)
    places = (
        np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    )
    turned = np.flip(places.transpose(*order, 3), flips)
    index = np.stack(np.meshgrid(*map(np.arange, turned.shape[:3]), indexing="ij"), -1)
    np.testing.assert_allclose(index @ new[:3, :3].T + new[:3, 3], turned, atol=1e-9)
    assert sorted(order) == [0, 1, 2] and (np.diag(new)[:3] > 0).all()
    np.testing.assert_allclose(sorted(spacing_of(new)), sorted(spacing_of(affine)))
    assert shear_of(affine) < 1e-9


def test_resizing_keeps_first_and_last_voxel_centres():
    affine = cropped_affine(np.diag([2.0, 3, 4, 1]), (1, 2, 3))
    new = resized_affine(affine, (10, 11, 12), (19, 6, 12))
    np.testing.assert_allclose(new @ [0, 0, 0, 1], [2, 6, 12, 1])
    np.testing.assert_allclose(new @ [18, 5, 11, 1], affine @ [9, 10, 11, 1])


def test_resizing_to_one_voxel_keeps_the_extent():
    new = resized_affine(np.eye(4), (5, 5, 5), (1, 5, 5))
    bounds = Box((0, 0, 0), (1, 5, 5)).corners(new)
    np.testing.assert_allclose([bounds.min(0), bounds.max(0)], [[-0.5] * 3, [4.5] * 3])


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Grid((3, 4, 4), (4, 4, 1)), "does not fit"),
        (lambda: Grid((3.5, 4, 4), (1, 1, 1)), "whole numbers"),
        (lambda: Grid((4, 4), (1, 1)), "three"),
        (lambda: Box((0, 0, 0), (1, 0, 1)), "positive"),
        (lambda: Box((0, np.nan, 0), (1, 1, 1)), "finite"),
    ],
)
def test_impossible_geometry_is_refused(make, word):
    with pytest.raises(SettingsError, match=word):
        make()
