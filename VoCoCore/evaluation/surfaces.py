"""Counts and surfaces of all labels of two label maps in one pass, and the distances between two surfaces.

A surface is the set of a mask's voxels that share a face with a voxel outside the mask, or lie on the border of the
image; a distance goes from the centre of a surface voxel to the nearest centre in the other surface. That is what MONAI
and MedPy compute; definitions with the area of surface patches between voxels give slightly other figures.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def counted(reference: np.ndarray, prediction: np.ndarray, labels: int) -> np.ndarray:
    """Voxels of each label in the reference, in the prediction and in both: int64 (3, labels).

    Both maps (A, B, C) hold whole numbers from 0 to ``labels`` - 1; nothing else must be in them.
    """
    counts = np.zeros(labels * labels, np.int64)
    for ours, theirs in zip(reference, prediction, strict=True):
        # Most voxels of most label maps are background twice, and need no counting.
        marked = np.flatnonzero(ours | theirs)
        pairs = ours.ravel()[marked].astype(np.intp)
        pairs *= labels
        pairs += theirs.ravel()[marked]
        counts += np.bincount(pairs, minlength=labels * labels)
    table = counts.reshape(labels, labels)
    return np.stack([table.sum(axis=1), table.sum(axis=0), table.diagonal()])


def surface_points(labels: np.ndarray, cut: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Surface voxels of all labels of a map (A, B, C) at once, 0 being no label.

    Returns their indices (n, 3) and labels (n,), sorted by label. What lies beyond the array counts as outside. A voxel
    that touches nothing outside its label but ``cut`` is none: bool (A + 2, B + 2, C + 2), a voxel wider on each side.
    """
    flat = [at * labels[0].size + np.flatnonzero(edge) for at, edge in enumerate(_edges(labels))]
    found = np.concatenate(flat) if flat else np.empty(0, np.intp)
    values = labels.ravel()[found]
    order = np.argsort(values, kind="stable")
    points, values = np.stack(np.unravel_index(found[order], labels.shape), axis=1), values[order]
    if cut is None:
        return points, values
    kept = _beside_others(np.pad(labels, 1), points + 1, cut)
    return points[kept], values[kept]


def _beside_others(labels: np.ndarray, points: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Which of ``points`` (n, 3) share a face with a voxel outside their label that is not in ``cut``."""
    values = labels[tuple(points.T)]
    found = np.zeros(len(points), bool)
    for step in (*np.eye(3, dtype=int), *-np.eye(3, dtype=int)):
        beside = tuple((points + step).T)
        found |= (labels[beside] != values) & ~cut[beside]
    return found


def _edges(labels: np.ndarray) -> Iterator[np.ndarray]:
    """For each plane of the first axis, which of its voxels lie on a label's surface: bool (B, C)."""
    nothing = np.zeros(labels.shape[1:], bool)
    before = nothing
    for at, plane in enumerate(labels):
        after = plane == labels[at + 1] if at + 1 < len(labels) else nothing
        if plane.any():
            inside = before & after
            _clear_steps(inside, plane)
            yield (plane != 0) & ~inside
        else:
            yield nothing
        before = after


def _clear_steps(inside: np.ndarray, plane: np.ndarray) -> None:
    """Clear ``inside`` (B, C) beside every change of value within the plane, and along its border."""
    same = plane[1:] == plane[:-1]
    inside[1:] &= same
    inside[:-1] &= same
    same = plane[:, 1:] == plane[:, :-1]
    inside[:, 1:] &= same
    inside[:, :-1] &= same
    inside[[0, -1]] = False
    inside[:, [0, -1]] = False


def distances(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each of ``points`` (n, 3) is from the nearest of ``others`` (m, 3), and the other way round.

    Both in millimetres; returns (n,) and (m,), exact, infinite where the other is empty.
    """
    from scipy.spatial import cKDTree

    if not (len(points) and len(others)):
        return np.full(len(points), np.inf), np.full(len(others), np.inf)
    # Surfaces are thin: a tree of their points is several times faster than a distance map of the box around them.
    one, two = (cKDTree(cloud, balanced_tree=False, compact_nodes=False) for cloud in (points, others))
    return two.query(points)[0], one.query(others)[0]
