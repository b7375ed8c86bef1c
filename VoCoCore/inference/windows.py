"""A network's output over a whole volume: the weighted mean of what it says of overlapping windows.

Windows are visited layer by layer along one axis, so that only the planes in work are held: the sums of 14 classes over
512 x 512 x 600 voxels would take 9 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from VoCoCore.devices import is_out_of_memory
from VoCoCore.errors import EnvironmentFault
from VoCoCore.inference.allocator import kept_memory
from VoCoCore.inference.sums import Sums
from VoCoCore.inference.tiling import Size, Tiling, importance, tile

Network = Callable[[Tensor], Tensor]
Say = Callable[[str], None]
_CPU_VOXELS = 64**3  # of a batch: larger ones leave the cache
_PLANES = 8  # that are handed on at a time


def silent(_: str) -> None:
    """Say nothing."""


def usual_batch(window: Sequence[int], device: torch.device) -> int:
    """Windows that a network takes at a time where nobody says another number."""
    voxels = _CPU_VOXELS if device.type == "cpu" else 16 * _CPU_VOXELS
    # One window alone makes torch choose slow convolutions for the small maps.
    return int(min(16, max(2, voxels // prod(window))))


def slide(
    volume: Tensor | np.ndarray,
    predict: Network,
    window: Sequence[int],
    overlap: float | Sequence[float] = 0.5,
    **how: Any,
) -> Tensor:
    """What ``predict`` gives, averaged over windows: float32 (K, X, Y, Z), on the device if it fits there.

    For volumes whose sums fit the memory; `slabs` has the other arguments (``batch``, ``blend``, ``device``, ``say``,
    ``scratch``) and the errors.
    """
    return next(slabs(volume, predict, window, overlap, **how, whole=True))[1]


def slabs(
    volume: Tensor | np.ndarray,
    predict: Network,
    window: Sequence[int],
    overlap: float | Sequence[float] = 0.5,
    *,
    batch: int | None = None,
    blend: str = "gaussian",
    device: torch.device | str | None = None,
    say: Say = silent,
    scratch: Path | None = None,
    whole: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """The same in pieces along the `axis` of `tile`: (first plane, float32 (K, X, Y, Z) with a few planes there).

    ``volume`` (C, X, Y, Z) on any device; ``predict`` maps crops (N, C, *window) on ``device`` (default: the volume's)
    to (N, K, *window), without gradient; at most ``batch`` at a time. A piece is only valid until the next is asked
    for. ``whole``: one piece. Where memory runs out, batches become smaller, then the volume leaves the device, then
    sums are kept in memory, then in a file in the folder ``scratch`` (default: the system's for such files), each said
    by ``say``; values stay the same. Raises EnvironmentFault where even that is not enough.
    """
    volume = torch.as_tensor(volume)
    tiling = tile(volume.shape[1:], window, overlap)
    target = torch.device(device) if device is not None else volume.device
    batch = batch or usual_batch(window, target)
    padded = _pad(volume, tiling)
    groups = tiling.groups(len(tiling) if whole else batch)
    with kept_memory(), Sums(tiling, importance(window, blend), target, say, scratch) as sums:
        sums.plan(groups)
        runner = _Runner(padded, _sent(padded, target), predict, tiling.window, target, batch, sums, say)
        for group in groups:
            sums.begin(group)
            runner.run(group.places)
            yield from sums.finished(None if whole else _PLANES)


@dataclass
class _Runner:
    """Sends windows through the network, in smaller batches when memory runs out.

    ``volume`` is ``given`` where its windows are cut: on the device, until the room is needed.
    """

    given: Tensor
    volume: Tensor
    predict: Network
    window: Size
    device: torch.device
    batch: int
    sums: Sums
    say: Say

    def run(self, places: Sequence[Size]) -> None:
        """Add what the network makes of the windows at ``places``."""
        done = 0
        while done < len(places):
            some = places[done : done + self.batch]
            if self._fits(some):
                done += len(some)
            else:
                self._make_room(len(some))

    @torch.no_grad()
    def _fits(self, places: Sequence[Size]) -> bool:
        """Add some windows; False, with nothing added, where memory did not suffice."""
        try:
            logits = self.predict(torch.stack([self._crop(place) for place in places]))
            self.sums.reserve(logits)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        for place, window in zip(places, logits, strict=True):
            self.sums.add(place, window)
        return True

    def _crop(self, place: Size) -> Tensor:
        x, y, z = (slice(start, start + width) for start, width in zip(place, self.window, strict=True))
        return self.volume[:, x, y, z].to(self.device, torch.float32)

    def _make_room(self, tried: int) -> None:
        # Only now, with the error gone, is what the failed attempt held free again.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if tried > 1:
            self.batch = tried // 2
            self.say(f"out of memory: windows are now predicted {self.batch} at a time")
        elif self.volume.device != self.given.device:
            self.volume = self.given
            self.say("out of memory: the volume is now sent window by window (slower)")
        elif not self.sums.leave():
            size = " x ".join(map(str, self.window))
            raise EnvironmentFault(
                f"there is not enough memory on the {self.device.type.upper()} for one window of {size} voxels",
                "close other programs, or use --device cpu or a smaller network",
            )


def _sent(volume: Tensor, device: torch.device) -> Tensor:
    """``volume`` on ``device`` if it fits there: each window that is sent by itself makes the device wait."""
    try:
        return volume.to(device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return volume


def _pad(volume: Tensor, tiling: Tiling) -> Tensor:
    if tiling.padded == tiling.shape:
        return volume
    amounts: list[int] = []
    for first, size, padded in zip(tiling.before, tiling.shape, tiling.padded, strict=True):
        amounts = [first, padded - size - first, *amounts]
    return F.pad(volume, amounts)
