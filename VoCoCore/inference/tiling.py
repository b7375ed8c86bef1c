"""Where sliding windows lie and what each voxel of them counts: those of MONAI's ``sliding_window_inference``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod

import torch
from torch import Tensor

from VoCoCore.errors import SettingsError

Size = tuple[int, int, int]
BLENDS = ("gaussian", "constant")
_SIGMA = 0.125  # of a window's edge
_LOWEST = 1e-3  # no voxel of a window counts less than this


@dataclass(frozen=True)
class Group:
    """Windows of one or several neighbouring layers: their first voxels.

    ``start`` to ``stop``: the planes that they touch; those before ``ready`` are touched by no later group.
    """

    places: list[Size]
    start: int
    stop: int
    ready: int


@dataclass(frozen=True)
class Tiling:
    """Windows over a volume of ``shape`` voxels, which is padded evenly to ``padded`` where a window is larger.

    ``starts``: first voxels of the windows along each axis of the padded volume; windows are all combinations.
    """

    shape: Size
    window: Size
    padded: Size
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @property
    def before(self) -> Size:
        """Voxels of padding before the volume."""
        x, y, z = ((after - size) // 2 for after, size in zip(self.padded, self.shape, strict=True))
        return x, y, z

    @property
    def axis(self) -> int:
        """The axis along which going layer by layer holds the fewest voxels; the last of equals."""
        shares = [width / size for width, size in zip(self.window, self.padded, strict=True)]
        return min(range(3), key=lambda axis: (shares[axis], -axis))

    def __len__(self) -> int:
        return prod(len(along) for along in self.starts)

    def layer(self) -> list[Size]:
        """First voxels of the windows of the first layer."""
        return self._places(self.axis, self.starts[self.axis][:1])

    def groups(self, least: int) -> list[Group]:
        """All windows in groups of whole layers along `axis`, as few layers as make ``least`` windows."""
        axis, along = self.axis, self.starts[self.axis]
        step = ceil(least * len(along) / len(self))
        made = []
        for first in range(0, len(along), step):
            some, rest = along[first : first + step], along[first + step :]
            stop = some[-1] + self.window[axis]
            made.append(Group(self._places(axis, some), some[0], stop, rest[0] if rest else stop))
        return made

    def _places(self, axis: int, starts: Sequence[int]) -> list[Size]:
        along = [starts if other == axis else self.starts[other] for other in range(3)]
        return [(x, y, z) for x, y, z in product(*along)]


def tile(shape: Sequence[int], window: Sequence[int], overlap: float | Sequence[float] = 0.5) -> Tiling:
    """The windows for a volume of ``shape`` (X, Y, Z).

    ``overlap``: share of a window's edge that the next one covers again, for all axes or each, 0 to below 1. Raises
    SettingsError for another.
    """
    shares = [float(overlap)] * 3 if isinstance(overlap, int | float) else [float(part) for part in overlap]
    if len(shares) != 3 or not all(0 <= share < 1 for share in shares):
        raise SettingsError(f"overlap must be from 0 to below 1, not {overlap}", "0.5 is usual")
    padded = _size([max(size, width) for size, width in zip(shape, window, strict=True)])
    x, y, z = (tuple(_starts(*each)) for each in zip(padded, window, shares, strict=True))
    return Tiling(_size(shape), _size(window), padded, (x, y, z))


def _starts(size: int, width: int, overlap: float) -> Iterator[int]:
    """First voxels along one axis; the last window ends with the volume."""
    step = max(1, int(width * (1 - overlap)))
    start = 0
    while start + width < size:
        yield start
        start += step
    yield size - width


def importance(window: Sequence[int], blend: str = "gaussian") -> Tensor:
    """What each voxel of a window counts, float32 (X, Y, Z), in (0, 1]; raises SettingsError for an unknown blend."""
    if blend not in BLENDS:
        raise SettingsError(f"windows cannot be blended by '{blend}'", "one of " + ", ".join(BLENDS))
    if blend == "constant":
        return torch.ones(*window)
    x, y, z = (_bell(width) for width in window)
    weights = x[:, None, None] * y[None, :, None] * z[None, None, :]
    return weights.clamp_(min=max(float(weights.min()), _LOWEST))


def _bell(width: int) -> Tensor:
    places = torch.arange(width, dtype=torch.float32) - (width - 1) / 2
    return torch.exp(places**2 / (-2 * (_SIGMA * width) ** 2))


def _size(values: Sequence[int]) -> Size:
    return int(values[0]), int(values[1]), int(values[2])
