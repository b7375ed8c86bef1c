"""From a network's output on the prepared grid back to the source's: linear between voxel centres, plane by plane."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from VoCoCore.data.plan import Plan
from VoCoCore.data.resample import spaced_size


def planes(
    pieces: Iterator[tuple[int, Tensor]], plan: Plan, axis: int
) -> Iterator[tuple[int, tuple[int, int], tuple[int, int], Tensor]]:
    """Planes of the oriented source (R, A, S), one at a time, from pieces of the prepared volume along ``axis``.

    ``pieces`` are (first plane, (K, X, Y, Z)) in order, without gaps, as `windows.slabs` gives them. Yields (index of
    the plane, first and end index along each of the other axes, values (K, u, v)); planes and voxels outside the
    foreground box do not come. Where the box reaches the end of the volume, nothing of the source lies outside it.
    """
    others = [other for other in range(3) if other != axis]
    shape = tuple(plan.source_shape[place] for place in plan.order)
    first, rows, columns = (_Axis(plan, shape[a], a) for a in (axis, *others))
    kept: Tensor | None = None
    at, base = first.begin, 0
    for start, piece in pieces:
        moved = piece.movedim(axis + 1, 1)
        known = moved if kept is None else torch.cat([kept.to(moved.device), moved], dim=1)
        base = start if kept is None else base
        last = base + known.shape[1] - 1
        ends = last == plan.size[axis] - 1
        while at < first.end and (ends or first.low[at - first.begin] < last):
            low, weight = int(first.low[at - first.begin]), float(first.weight[at - first.begin])
            plane = known[:, low - base]
            if weight:
                plane = torch.lerp(plane, known[:, low + 1 - base], weight)
            yield (
                at,
                (rows.begin, rows.end),
                (columns.begin, columns.end),
                columns.sample(rows.sample(plane, 1), 2),
            )
            at += 1
        kept, base = known[:, -1:].clone(), last


class _Axis:
    """Where the source's voxels lie between those of the prepared volume, along one axis."""

    def __init__(self, plan: Plan, length: int, axis: int) -> None:
        size, places = plan.size[axis], np.arange(length) / plan.step[axis] - plan.start[axis]
        # The number of voxels was rounded: the source's last may lie half a voxel, or a hair more, beyond ours.
        whole = plan.start[axis] + size == spaced_size(length, 1.0, plan.step[axis])
        inside = np.flatnonzero((places >= -0.5) & ((places < size - 0.5) | whole))
        self.begin, self.end = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
        at = np.clip(places[self.begin : self.end], 0, size - 1)
        self.low = np.minimum(np.floor(at).astype(np.int64), max(size - 2, 0))
        self.weight = (at - self.low).astype(np.float32)
        self.plain = bool(len(at)) and np.array_equal(at, np.arange(size))
        self._there: tuple[Tensor, Tensor, Tensor] | None = None

    def sample(self, values: Tensor, dim: int) -> Tensor:
        """``values`` at the source's voxels along ``dim``."""
        if self.plain:
            return values
        low, high, weight = self._on(values.device, values.shape[dim])
        shape = [1] * values.ndim
        shape[dim] = -1
        return torch.lerp(values.index_select(dim, low), values.index_select(dim, high), weight.view(shape))

    def _on(self, device: torch.device, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Lower and upper voxels and weights on ``device``: sent once, because each time makes the device wait."""
        if self._there is None or self._there[0].device != device:
            low = torch.from_numpy(self.low).to(device)
            self._there = low, torch.clamp(low + 1, max=size - 1), torch.from_numpy(self.weight).to(device)
        return self._there


def to_source(oriented: np.ndarray, plan: Plan) -> np.ndarray:
    """A map (R, A, S) in the source's own axes (X, Y, Z)."""
    return np.flip(oriented, plan.flips).transpose(np.argsort(plan.order))
