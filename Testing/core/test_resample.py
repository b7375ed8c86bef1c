"""Sampling against scipy's map_coordinates, for any memory order, dtype and grid of points."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from VoCoCore.data.resample import plane_at, resize_points, sample, spaced_size


def reference(volume: np.ndarray, points: tuple[np.ndarray, ...]) -> np.ndarray:
    """Trilinear values in float64, borders clamped."""
    grid = np.stack(np.meshgrid(*points, indexing="ij"))
    return map_coordinates(volume.astype(np.float64), grid, order=1, mode="nearest")


@st.composite
def volumes(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(*[st.integers(1, 7)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.normal(0, 300, shape).astype(
        draw(st.sampled_from([np.int16, np.int32, np.float32, np.float64]))
    )
    turned = values.transpose(draw(st.permutations([0, 1, 2])))
    return np.flip(turned, tuple(draw(st.lists(st.integers(0, 2), unique=True))))


@settings(max_examples=60, deadline=None)
@given(volumes(), st.data())
def test_sampling_is_trilinear_with_clamped_borders(volume: np.ndarray, data: st.DataObject) -> None:
    coordinates = st.floats(-1.0, 8.0, allow_nan=False)
    points = tuple(np.array(data.draw(st.lists(coordinates, min_size=1, max_size=6))) for _ in range(3))
    out = np.empty(tuple(len(p) for p in points), np.float32)
    sample(volume, (points[0], points[1], points[2]), out)
    np.testing.assert_allclose(out, reference(volume, points), rtol=1e-4, atol=2e-3)


@settings(max_examples=30, deadline=None)
@given(volumes(), st.integers(0, 2), st.floats(-1.0, 8.0))
def test_one_plane_is_that_plane_of_the_whole(volume: np.ndarray, axis: int, place: float) -> None:
    points = [np.linspace(0, n - 1, 4) for n in volume.shape]
    points[axis] = np.array([place])
    plane = plane_at(volume, axis, (points[0], points[1], points[2]))
    assert plane.shape[axis] == 1
    np.testing.assert_allclose(plane, reference(volume, tuple(points)), rtol=1e-4, atol=2e-3)


def test_voxels_hit_exactly_are_copied_exactly() -> None:
    volume = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    out = np.empty_like(volume)
    sample(volume, resize_points(volume.shape, volume.shape), out)
    np.testing.assert_array_equal(out, volume)


def test_the_window_acts_before_and_rounding_after_interpolation() -> None:
    volume = np.array([0.0, 10.0], np.float32).reshape(2, 1, 1)
    out = np.empty((3, 1, 1), np.uint8)
    points = (np.array([0.0, 0.5, 1.0]), np.zeros(1), np.zeros(1))
    sample(volume, points, out, before=lambda v: np.minimum(v, 4), after=lambda v: v * 3)
    assert out.ravel().tolist() == [0, 6, 12]
    assert volume.ravel().tolist() == [0, 10], "the source is left alone"


def test_working_in_place_does_not_spoil_the_next_slice() -> None:
    volume = np.ones((1, 1, 1), np.float32)
    out = np.empty((3, 1, 1), np.float32)
    sample(volume, (np.zeros(3), np.zeros(1), np.zeros(1)), out, after=lambda v: np.multiply(v, 2, out=v))
    assert out.ravel().tolist() == [2, 2, 2]


@pytest.mark.parametrize(("old", "new"), [(3, 8), (8, 3), (1, 4), (5, 1), (6, 6)])
def test_resizing_keeps_the_first_and_the_last_voxel_centre(old: int, new: int) -> None:
    points = resize_points((old, 2, 2), (new, 2, 2))[0]
    assert len(points) == new
    assert points[0] == 0
    assert new == 1 or points[-1] == old - 1
    assert np.allclose(np.diff(points, 2), 0)


@given(st.integers(1, 600), st.integers(1, 400), st.integers(1, 400))
def test_new_size_is_rounded_half_to_even_in_exact_arithmetic(size: int, old: int, new: int) -> None:
    exact = (size - 1) * Fraction(old, new) + 1
    assert spaced_size(size, old / 100, new / 100) == round(exact)
