"""From sample numbers to batches for fine-tuning: crops of prepared cases with their labels, or whole cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from VoCoCore.data.augment_space import OUTSIDE
from VoCoCore.data.loading import ByNumber
from VoCoCore.data.patches import draw_patches
from VoCoCore.data.places import Places
from VoCoCore.data.sampling import case_of
from VoCoCore.data.store import PreparedVolume, Store
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.geometry import Box, spacing_of

CACHE_BYTES = (
    1 << 30
)  # of decompressed cases and their places that a job keeps, all its loader workers together


class LabelledSamples(ByNumber):
    """Sample number -> k crops of one case: ``images`` (k, C, X, Y, Z) int16, ``labels`` (k, X, Y, Z) int16, and how
    they are augmented (the fields of `Patches`); or, with ``targets``, one view of a whole case and its class.

    Voxels outside the volume are 0 in the images and OUTSIDE in the labels. Cases are visited in a new order each
    epoch. Small cohorts are kept in memory, decompressed, so that a crop costs a copy.
    """

    def __init__(
        self,
        store: Path,
        keys: Sequence[str],
        settings: FinetuneSettings,
        targets: Sequence[int] | None = None,
    ) -> None:
        self.store, self.keys, self.settings, self.targets = Store(store), list(keys), settings, targets
        self._kept: dict[str, np.ndarray] = {}
        self._places: dict[str, Places] = {}
        self._bytes = 0

    def sample(self, number: int) -> dict[str, Tensor]:
        """The arrays of one sample; see `ByNumber`."""
        settings = self.settings
        assert settings.patches.size
        case = case_of(settings.run.seed, number, len(self.keys))
        volume = self.store.open(self.keys[case])
        drawn = draw_patches(
            settings.patches,
            settings.augment,
            settings.run.seed,
            number,
            volume.shape[1:],
            self._places_of(volume) if self.targets is None else None,
            spacing_of(volume.affine).tolist(),
        )
        crops = np.stack([self._cut(volume, start, settings.patches.size) for start in drawn.starts])
        arrays = {name: value for name, value in vars(drawn).items() if name != "starts"}
        arrays["host_seeds"] = arrays.pop("seeds")
        arrays["host_needed"] = drawn.needed()
        arrays["images"] = crops if self.targets is not None else crops[:, :-1]
        if self.targets is None:
            arrays["labels"] = crops[:, -1]
        else:
            arrays["target"] = np.asarray([self.targets[case]])
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}

    def _places_of(self, volume: PreparedVolume) -> Places:
        key = volume.folder.name
        if key in self._places:
            return self._places[key]
        places = volume.places()
        if self._has_room(places.nbytes):
            self._places[key] = places
            self._bytes += places.nbytes
        return places

    def _cut(self, volume: PreparedVolume, start: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """One crop (C + 1, *size); what lies outside the volume is filled."""
        low = np.maximum(start, 0)
        high = np.minimum(start + size, volume.shape[1:])
        inner = self._read(volume, low, high)
        if inner.shape[1:] == tuple(size):
            return inner
        crop = np.zeros((volume.shape[0], *size), np.int16)
        if self.targets is None:
            crop[-1] = OUTSIDE
        at = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
        crop[(slice(None), *at)] = inner
        return crop

    def _read(self, volume: PreparedVolume, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        key = volume.folder.name
        if key not in self._kept and self._has_room(2 * int(np.prod(volume.shape))):
            self._kept[key] = volume.read()
            self._bytes += self._kept[key].nbytes
        if key not in self._kept:
            return volume.read(Box(tuple(low), tuple(high - low)))
        x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        return self._kept[key][:, x, y, z]

    def _has_room(self, more: int) -> bool:
        """Whether so many bytes can be kept too. The first cases stay: all come equally often."""
        worker = get_worker_info()
        return self._bytes + more <= CACHE_BYTES // (1 if worker is None else worker.num_workers)
