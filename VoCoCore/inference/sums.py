"""The weighted sums of windows that are under way: on the device, in memory, or in a file when nothing else fits."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from VoCoCore.devices import is_out_of_memory
from VoCoCore.errors import EnvironmentFault
from VoCoCore.inference.tiling import Group, Size, Tiling
from VoCoCore.runs.files import fault
from VoCoCore.runs.narrate import size as in_words

_SAFE = 0.9  # share of the memory that is free which sums may take
_CGROUP = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
_CHANNELS_LAST = torch.channels_last_3d


class Sums:
    """Sums of window outputs times weights, over the planes that later windows may still touch.

    ``weights`` (X, Y, Z) of a window. What does not fit ``device`` is kept in memory, then in a file below ``scratch``
    (None: the system's folder for such files); ``say`` is told. A context manager: the file goes with its last piece.
    """

    def __init__(
        self,
        tiling: Tiling,
        weights: Tensor,
        device: torch.device,
        say: Callable[[str], None],
        scratch: Path | None = None,
    ) -> None:
        self.tiling, self.weights, self.say, self.scratch = tiling, weights, say, scratch
        self.holds = [*([device] if device.type != "cpu" else []), torch.device("cpu"), None]
        self.group: Group | None = None
        self.first, self.depth = 0, 0
        self.totals: Tensor | None = None

    def __enter__(self) -> Sums:
        return self

    def __exit__(self, *_: object) -> None:
        self.totals = None

    def plan(self, groups: list[Group]) -> None:
        """Know the groups of windows that will come, so that the sums have room for each of them."""
        self.depth = max(group.stop - group.start for group in groups)

    def begin(self, group: Group) -> None:
        """The windows that are added from now on belong to ``group``."""
        self.group = group

    def reserve(self, logits: Tensor) -> None:
        """Make room for sums of outputs like ``logits`` (N, K, X, Y, Z); does nothing from the second call on."""
        if self.totals is None:
            last = logits.is_contiguous(memory_format=_CHANNELS_LAST) and not logits.is_contiguous()
            self._allocate(logits.shape[1], last)

    def add(self, place: Size, logits: Tensor) -> None:
        """Add one window's output (K, X, Y, Z), whose first voxel is ``place``."""
        assert self.totals is not None
        at = [*place]
        at[self.tiling.axis] -= self.first
        x, y, z = (slice(a, a + width) for a, width in zip(at, self.tiling.window, strict=True))
        self.totals[:, x, y, z].addcmul_(logits.to(self.totals.device, torch.float32), self.weights)

    def finished(self, planes: int | None) -> Iterator[tuple[int, Tensor]]:
        """Means over the windows for all planes that no later window touches: (first plane, (K, X, Y, Z)).

        At most ``planes`` at a time; a piece is valid until the next is asked for. Padding is left out.
        """
        assert self.totals is not None and self.group is not None
        axis, group = self.tiling.axis, self.group
        width = self.tiling.window[axis]
        for start in sorted({place[axis] for place in group.places}):
            self.counts.narrow(axis, start - self.first, width).add_(self.layer)
        ready = group.ready - self.first
        for begin in range(0, ready, planes or ready):
            some = min(planes or ready, ready - begin)
            piece = self.totals.narrow(axis + 1, begin, some)
            piece.div_(self.counts.narrow(axis, begin, some))
            yield from self._without_padding(piece, self.first + begin)
        self._move_on(ready)

    def leave(self) -> bool:
        """Free the device, or the memory, by keeping the sums elsewhere; False where there is nothing to free."""
        if self.totals is None or len(self.holds) == 1:
            return False
        old = self.totals, self.counts
        left = self.holds.pop(0)
        where = "memory" if left is None or left.type == "cpu" else left.type.upper()
        self.say(f"out of memory: the sums of the windows leave the {where} (slower)")
        self._allocate(len(old[0]), old[0].is_contiguous(memory_format=_CHANNELS_LAST))
        self.totals.copy_(old[0])
        self.counts.copy_(old[1])
        return True

    def _without_padding(self, piece: Tensor, plane: int) -> Iterator[tuple[int, Tensor]]:
        axis, before, shape = self.tiling.axis, self.tiling.before, self.tiling.shape
        for other in range(3):
            if other != axis:
                piece = piece.narrow(other + 1, before[other], shape[other])
        low = max(before[axis] - plane, 0)
        high = min(before[axis] + shape[axis] - plane, piece.shape[axis + 1])
        if high > low:
            yield plane + low - before[axis], piece.narrow(axis + 1, low, high - low)

    def _move_on(self, planes: int) -> None:
        """Let the sums begin ``planes`` later."""
        assert self.totals is not None
        self.first += planes
        axis = self.tiling.axis
        for sums, along in ((self.totals, axis + 1), (self.counts, axis)):
            rest = self.depth - planes
            for begin in range(0, rest, planes):  # in pieces, because source and target overlap
                some = min(planes, rest - begin)
                sums.narrow(along, begin, some).copy_(sums.narrow(along, begin + planes, some))
            sums.narrow(along, max(rest, 0), min(planes, self.depth)).zero_()

    def _allocate(self, channels: int, last: bool) -> None:
        extent = list(self.tiling.padded)
        extent[self.tiling.axis] = self.depth
        while not self._try(channels, extent, last):
            self.holds.pop(0)

    def _try(self, channels: int, extent: list[int], last: bool) -> bool:
        """Make the sums where they are kept now; False, after saying so, where they do not fit."""
        needed, hold = 4 * (channels + 1) * prod(extent), self.holds[0]
        if hold is None:
            self._in_file(channels, extent, last)
            return True
        try:
            if hold.type == "cpu" and needed > _SAFE * free_memory():
                raise MemoryError
            self.totals = _shaped(torch.zeros(channels * prod(extent), device=hold), channels, extent, last)
            self.counts = torch.zeros(extent, device=hold)
            self._weigh(hold)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.totals = None
            next_one = "in a file (slow)" if hold.type == "cpu" else "in memory (slower)"
            where = "memory" if hold.type == "cpu" else f"{hold.type.upper()}"
            self.say(f"the sums of the windows, {in_words(needed)}, do not fit the {where}: kept {next_one}")
            return False
        return True

    def _in_file(self, channels: int, extent: list[int], last: bool) -> None:
        count = channels * prod(extent)
        folder = Path(self.scratch or tempfile.gettempdir())
        self.totals = _shaped(_mapped(folder, count), channels, extent, last)
        self.counts = torch.zeros(extent)
        self._weigh(torch.device("cpu"))

    def _weigh(self, hold: torch.device) -> None:
        """Have the weights, and what a layer counts, where the sums are."""
        self.weights = self.weights.to(hold)
        self.layer = self._layer()

    def _layer(self) -> Tensor:
        """What the windows of one layer count together; the same for every layer."""
        axis, window = self.tiling.axis, self.tiling.window
        extent = list(self.tiling.padded)
        extent[axis] = window[axis]
        # Where the sums are: the host would be at it for a twentieth of a second, and the device idle.
        layer, weights = torch.zeros(extent, device=self.weights.device), self.weights
        for place in self.tiling.layer():
            x, y, z = (
                slice(0, width) if other == axis else slice(place[other], place[other] + width)
                for other, width in enumerate(window)
            )
            layer[x, y, z] += weights
        return layer


def _shaped(flat: Tensor, channels: int, extent: list[int], last: bool) -> Tensor:
    """(channels, *extent), the channels fastest in memory if ``last``: as the network's outputs are."""
    return flat.view(*extent, channels).permute(3, 0, 1, 2) if last else flat.view(channels, *extent)


def _mapped(folder: Path, count: int) -> Tensor:
    """Zeros in a new file without a name, which goes with the last tensor that lies in it, whoever holds that.

    Raises EnvironmentFault where the disk has no room, now rather than at a write.
    """
    try:
        free = shutil.disk_usage(folder).free
        if 4 * count > free:
            raise EnvironmentFault(
                f"the sums of the windows need {in_words(4 * count)}, more than the memory and the {in_words(free)} "
                f"that are free in {folder}",
                "free some space, use a smaller --overlap, or a machine with more memory",
            )
        with tempfile.TemporaryFile(prefix=".voco-sums-", dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, 4 * count)
            return torch.from_numpy(np.memmap(file, np.float32, "r+", shape=(count,)))
    except OSError as error:
        raise fault(folder, error) from error


def free_memory() -> float:
    """Bytes that this process can still get: what the system has left, or the container that it is in."""
    import psutil

    rooms = [float(psutil.virtual_memory().available)]
    for limit, used in _CGROUP:
        try:
            texts = [Path("/sys/fs/cgroup", name).read_text() for name in (limit, used)]
            rooms.append(float(texts[0]) - float(texts[1]))
        except (OSError, ValueError):
            continue
    return max(0.0, min(rooms))
