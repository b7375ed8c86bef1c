"""Trilinear sampling of a volume at the points of a regular grid, one axis after the other, numpy only.

A grid of points is three coordinate arrays, so interpolation factors into one linear step per axis. Working
slice by slice keeps everything in the processor's cache, and the intensity window rides along without its own
pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Points = tuple[np.ndarray, np.ndarray, np.ndarray]
SliceStep = Callable[[np.ndarray], np.ndarray]


def spaced_size(size: int, old: float, new: float) -> int:
    """Voxels along an axis of ``size`` voxels after changing its spacing from ``old`` to ``new`` mm."""
    # round() goes half to even; nine decimals first, so that noise in the spacing cannot turn exact halves.
    return max(1, round(round((size - 1) * old / new + 1, 9)))


def resize_points(old_shape: Sequence[int], new_shape: Sequence[int]) -> Points:
    """Coordinates that resize with align_corners: first voxel centre on the first, last on the last."""
    x, y, z = (np.linspace(0.0, old - 1, new) for old, new in zip(old_shape, new_shape, strict=True))
    return x, y, z


def sample(
    volume: np.ndarray,
    points: Points,
    out: np.ndarray,
    before: SliceStep | None = None,
    after: SliceStep | None = None,
) -> None:
    """Fill ``out`` (X', Y', Z') with ``volume`` (X, Y, Z) at ``points``, in float32; borders are clamped.

    ``before`` changes source values and ``after`` interpolated ones; both get float32 slices that they may
    work on in place. ``out`` may be of any dtype that the result of ``after`` can be stored in.
    """
    # Slices along the axis that lies slowest in memory are read once and in one piece.
    order = sorted(range(3), key=lambda axis: -abs(volume.strides[axis]))
    source, target = volume.transpose(order), out.transpose(order)
    outer, rows, columns = (_neighbours(points[axis], volume.shape[axis]) for axis in order)
    lows, highs, weights = outer
    kept: dict[int, np.ndarray] = {}
    for place, (low, high, weight) in enumerate(zip(lows, highs, weights, strict=True)):
        kept = {i: kept[i] if i in kept else _plane(source[i], before) for i in {int(low), int(high)}}
        plane = kept[int(low)] if weight == 0 else _between(kept[int(low)], kept[int(high)], weight)
        plane = _along(_along(plane, rows, axis=0), columns, axis=1)
        if plane is kept[int(low)]:
            plane = plane.copy()
        target[place] = after(plane) if after else plane


def plane_at(volume: np.ndarray, axis: int, points: Points) -> np.ndarray:
    """The plane across ``axis`` at ``points[axis]``, one coordinate, and the other axes' points, float32."""
    shape = tuple(len(p) for p in points)
    out = np.empty(shape, np.float32)
    low, high, _ = _neighbours(points[axis], volume.shape[axis])
    first = int(low[0])
    part = volume[(slice(None),) * axis + (slice(first, int(high[0]) + 1),)]
    moved = list(points)
    moved[axis] = np.clip(points[axis], 0, volume.shape[axis] - 1) - first
    sample(part, (moved[0], moved[1], moved[2]), out)
    return out


def _neighbours(points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper voxel of each point, and the upper one's float32 weight."""
    inside = np.clip(points, 0.0, size - 1.0)
    low = np.floor(inside).astype(np.intp)
    weight = (inside - low).astype(np.float32)
    return low, np.minimum(low + 1, size - 1), weight


def _plane(source: np.ndarray, before: SliceStep | None) -> np.ndarray:
    plane = source.astype(np.float32)
    return before(plane) if before else plane


def _between(first: np.ndarray, second: np.ndarray, weight: np.ndarray | float) -> np.ndarray:
    """first + (second - first) * weight, without touching either."""
    result = second - first
    result *= weight
    result += first
    return result


def _along(plane: np.ndarray, neighbours: tuple[np.ndarray, np.ndarray, np.ndarray], axis: int) -> np.ndarray:
    low, high, weight = neighbours
    if not weight.any():
        whole = len(low) == plane.shape[axis] and np.array_equal(low, np.arange(len(low)))
        return plane if whole else plane.take(low, axis=axis)
    shape = (-1, 1) if axis == 0 else (1, -1)
    result = plane.take(high, axis=axis)
    first = plane.take(low, axis=axis)
    result -= first
    result *= weight.reshape(shape)
    result += first
    return result
