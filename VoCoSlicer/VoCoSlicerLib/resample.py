"""Voxels looked up on another grid: linear for images, nearest for labels, slice by slice; numpy only.

Grids are a shape (i, j, k) and an affine (4, 4) to world RAS mm; arrays are (k, j, i). Everything here may run in a
thread: no call holds Python's lock for long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from VoCoCore.geometry import cropped_affine, shear_of, spacing_of

Shape = tuple[int, int, int]
Tick = Callable[[int], None]
_SHEARED = 1e-3  # as the trainer's own files: largest cosine
_OBLIQUE = 1 << 21  # voxels looked up at once: each needs some forty bytes meanwhile
_ALIGNED = 0.02  # voxels that an axis may drift over a whole grid and still count as parallel


def exportGrid(shape: Shape, affine: np.ndarray) -> tuple[Shape, np.ndarray]:
    """The grid (shape (i, j, k), affine) that jobs read a case on: its first volume's, straight if that is sheared."""
    return straightGrid(shape, affine) if shear_of(affine) > _SHEARED else (shape, affine)


def straightGrid(shape: Sequence[int], affine: np.ndarray) -> tuple[Shape, np.ndarray]:
    """The grid at right angles that covers a sheared one: the closest rotation of its axes, the same spacing."""
    affine = np.asarray(affine, float)
    spacing = spacing_of(affine)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    straight = np.eye(4)
    straight[:3, :3] = (left @ right) * spacing
    straight[:3, 3] = affine[:3, 3]
    ends = np.array(np.meshgrid(*[(0, edge - 1) for edge in shape])).reshape(3, -1)
    places = (np.linalg.inv(straight) @ affine @ np.vstack([ends, np.ones(8)]))[:3]
    low = np.floor(places.min(axis=1) + 1e-6)
    high = np.ceil(places.max(axis=1) - 1e-6)
    i, j, k = (int(edge) for edge in high - low + 1)
    return (i, j, k), cropped_affine(straight, low)


def linear(
    array: np.ndarray,
    affine: np.ndarray,
    shape: Sequence[int],
    target: np.ndarray,
    tick: Tick = lambda done: None,
) -> np.ndarray:
    """``array`` (k, j, i) at the voxels of the grid (``shape``, ``target``); its smallest value outside of it.

    Whole numbers stay whole numbers, rounded. ``tick`` hears the bytes of each finished slice.
    """
    matrix = np.linalg.inv(affine) @ target
    i, j, k = shape
    out = np.full((k, j, i), array.min(), array.dtype)
    base = _plane(matrix, i, j)
    limits = np.array(array.shape[::-1], float).reshape(3, 1, 1) - 1
    for number in range(k):
        places = base + (matrix[:3, 2] * number).reshape(3, 1, 1)
        inside = ((places >= -1e-6) & (places <= limits + 1e-6)).all(axis=0)
        if inside.any():
            values = _interpolated(array, np.clip(places[:, inside], 0, limits[:, 0]))
            out[number][inside] = np.rint(values) if array.dtype.kind in "iu" else values
        tick(out[number].nbytes)
    return out


def _interpolated(array: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values at places (3, n), which lie in the array, along i, j, k."""
    low = np.minimum(places.astype(np.int64), np.array(array.shape[::-1]).reshape(3, 1) - 2)
    high, part = low + 1, places - low
    total = np.zeros(places.shape[1])
    for corner in range(8):
        at = [high[axis] if corner >> axis & 1 else low[axis] for axis in range(3)]
        shares = [part[axis] if corner >> axis & 1 else 1 - part[axis] for axis in range(3)]
        total += array[at[2], at[1], at[0]] * (shares[0] * shares[1] * shares[2])
    return total


def nearestSlabs(
    array: np.ndarray, affine: np.ndarray, shape: Sequence[int], target: np.ndarray, most: int = 1 << 25
):
    """``array`` (k, j, i) at the voxels of the grid (``shape``, ``target``), nearest neighbour, in slabs.

    Yields (slices k, j, i of the grid, values); what is not covered by the array does not come, and single voxels of
    a slab outside of it are 0.
    """
    if array.size == 0:
        return
    matrix = np.linalg.inv(affine) @ target
    low, high = _reach(matrix, array.shape[::-1], shape)
    if (high <= low).any():
        return
    axes = _parallel(matrix, shape)
    box = tuple(slice(int(low[axis]), int(high[axis])) for axis in (2, 1, 0))
    thick = max(1, most // max(1, (high[0] - low[0]) * (high[1] - low[1])))
    for start in range(box[0].start, box[0].stop, thick):
        where = (slice(start, min(start + thick, box[0].stop)), box[1], box[2])
        yield (
            where,
            (_oblique(array, matrix, where) if axes is None else _separate(array, matrix, axes, where)),
        )


def _plane(matrix: np.ndarray, i: int, j: int) -> np.ndarray:
    """Places (3, j, i) of the voxels of slice 0 in the other grid."""
    along = matrix[:3, 0].reshape(3, 1, 1) * np.arange(i)
    across = matrix[:3, 1].reshape(3, 1, 1) * np.arange(j).reshape(1, -1, 1)
    return along + across + matrix[:3, 3].reshape(3, 1, 1)


def _reach(matrix: np.ndarray, source: Sequence[int], shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """First and end voxel (3,) of the grid's part that the source can touch."""
    ends = np.array(np.meshgrid(*[(-0.5, edge - 0.5) for edge in source])).reshape(3, -1)
    places = (np.linalg.inv(matrix) @ np.vstack([ends, np.ones(8)]))[:3]
    low = np.clip(np.ceil(places.min(axis=1) - 1e-6), 0, shape)
    high = np.clip(np.floor(places.max(axis=1) + 1e-6) + 1, 0, shape)
    return low.astype(int), high.astype(int)


def _parallel(matrix: np.ndarray, shape: Sequence[int]) -> list[int] | None:
    """For each axis of the source the one of the grid that it runs along; None where axes are oblique to each other."""
    drift = np.abs(matrix[:3, :3]) * np.asarray(shape)
    axes = [int(np.argmax(row)) for row in drift]
    for row, axis in zip(drift, axes, strict=True):
        if row.sum() - row[axis] > _ALIGNED:
            return None
    return axes if sorted(axes) == [0, 1, 2] else None


def _separate(array: np.ndarray, matrix: np.ndarray, axes: Sequence[int], where) -> np.ndarray:
    """A slab where each axis can be looked up by itself."""
    ranges = where[::-1]  # i, j, k
    picks, covered = [], [None, None, None]
    for own, axis in enumerate(axes):
        steps = np.arange(ranges[axis].start, ranges[axis].stop)
        at = np.floor(matrix[own, axis] * steps + matrix[own, 3] + 0.5).astype(np.intp)
        edge = array.shape[2 - own]
        covered[axis] = (at >= 0) & (at < edge)
        picks.append(np.clip(at, 0, edge - 1))
    found = _picked(array, picks[::-1])  # k, j, i of the source
    # Axis number n of the result is source axis 2 - n, which runs along axes[2 - n] of the grid.
    order = [axes[2 - number] for number in range(3)]
    found = found.transpose([order.index(axis) for axis in (2, 1, 0)])
    if all(inside.all() for inside in covered):
        return found
    return found * (covered[2][:, None, None] & covered[1][:, None] & covered[0]).astype(found.dtype)


def _picked(array: np.ndarray, picks: Sequence[np.ndarray]) -> np.ndarray:
    """array[np.ix_(*picks)], as a view where the picks are runs: that is the usual case, and costs nothing."""
    if all(len(pick) == 1 or (np.diff(pick) == 1).all() for pick in picks):
        return array[tuple(slice(int(pick[0]), int(pick[-1]) + 1) for pick in picks)]
    return array[np.ix_(*picks)]


def _oblique(array: np.ndarray, matrix: np.ndarray, where) -> np.ndarray:
    out = np.empty([part.stop - part.start for part in where], array.dtype)
    thick = max(1, _OBLIQUE // max(1, out[0].size))
    for start in range(0, len(out), thick):
        end = min(start + thick, len(out))
        first = where[0].start
        _obliquePart(array, matrix, (slice(first + start, first + end), *where[1:]), out[start:end])
    return out


def _obliquePart(array: np.ndarray, matrix: np.ndarray, where, out: np.ndarray) -> None:
    """Fill ``out`` with few, large steps: each of them may have to wait for Python's lock."""
    k, j, i = (np.arange(part.start, part.stop, dtype=float) for part in where)
    flat, inside = np.zeros(out.shape, np.intp), np.ones(out.shape, bool)
    for own in (2, 1, 0):  # z slowest
        place = (matrix[own, 2] * k + (matrix[own, 3] + 0.5))[:, None, None]
        place = place + (matrix[own, 1] * j)[:, None] + matrix[own, 0] * i
        at = np.floor(place, out=place).astype(np.intp)
        edge = array.shape[2 - own]
        inside &= at.view(np.uintp) < edge  # a negative place is a very large one
        flat *= edge
        flat += at
    flat *= inside
    np.multiply(np.take(array.reshape(-1), flat, mode="clip"), inside, out=out, casting="unsafe")
