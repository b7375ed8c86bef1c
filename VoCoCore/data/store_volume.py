"""One prepared case on disk: its voxels in blocks, its header, and where its label values lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from VoCoCore.data.places import STORED_PLACES, Places
from VoCoCore.data.store_blocks import read_blocks
from VoCoCore.errors import DataError
from VoCoCore.geometry import Box

BLOCK = (48, 48, 96)
# zstd without entropy coding, which gains little on noise: a fifteenth (a CT of 1.5 mm) to a quarter (much noise)
# larger than level 1, and read in 0.55 to 0.3 of the time.
LEVEL = -1
PLACES_FILE = "places.npy"
VOLUME = "volume.zarr"


@dataclass(frozen=True)
class PreparedVolume:
    """One case: ``shape`` (C, X, Y, Z), ``affine`` (4, 4) index to RAS mm, ``header``: what was done."""

    shape: tuple[int, int, int, int]
    affine: np.ndarray
    header: dict[str, Any]
    folder: Path
    array: Any

    def read(self, box: Box | None = None) -> np.ndarray:
        """Stored values (C, x, y, z) of ``box``, whole voxels inside the volume; everything without one.

        Only the blocks that the box touches are read. Raises DataError for a damaged file.
        """
        within = Box((0, 0, 0), self.shape[1:]) if box is None else box
        region = (slice(0, self.shape[0]), *self._slices(within))
        if not self.header["stored_bytes"]:  # zeros are not stored
            return np.zeros([part.stop - part.start for part in region], self.array.dtype)
        try:
            return read_blocks(self.folder / VOLUME, region, self.shape, self.array.chunks, self.array.dtype)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise damaged(self.folder, str(error)) from error

    def places(self) -> Places:
        """Where label values lie. Raises DataError where the volume has no label or the file is damaged."""
        try:
            values, counts = (np.asarray(self.header["labels"][name], int) for name in ("values", "counts"))
            voxels = np.load(self.folder / PLACES_FILE, allow_pickle=False)
            ends = np.cumsum(np.minimum(counts, STORED_PLACES))
            if voxels.shape != (ends[-1], 3):
                raise ValueError("its places do not match its header")
        except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
            raise damaged(self.folder, str(error)) from error
        return Places(values, counts, tuple(np.split(voxels, ends[:-1])))

    def _slices(self, box: Box) -> tuple[slice, ...]:
        start, stop = np.rint(box.start).astype(int), np.rint(box.stop).astype(int)
        if not np.array_equal(start, box.start) or (start < 0).any() or (stop > self.shape[1:]).any():
            raise ValueError(f"{box} is not a box of whole voxels inside a volume of {self.shape[1:]}")
        return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))


def is_usable(header: dict[str, Any]) -> bool:
    """Whether a header holds what reading and showing a volume relies on."""
    try:
        sizes = [int(n) for n in header["shape"]]
        affine = np.asarray(header["affine"], dtype=float)
    except (KeyError, TypeError, ValueError, OverflowError):
        return False
    plan = isinstance(header.get("plan", {}), dict)
    return plan and len(sizes) == 4 and affine.shape == (4, 4) and isinstance(header.get("stored_bytes"), int)


def open_volume(folder: Path, header: dict[str, Any]) -> PreparedVolume:
    import zarr

    try:
        array = zarr.open_array(folder / VOLUME, mode="r", zarr_format=3)
        channels, x, y, z = (int(n) for n in header["shape"])
        affine = np.asarray(header["affine"], dtype=float).reshape(4, 4)
    except Exception as error:  # zarr's own errors share no base class
        raise damaged(folder, str(error)) from error
    if array.shape != (channels, x, y, z) or array.dtype not in (np.uint8, np.int16):
        raise damaged(folder, "header and voxels do not match")
    return PreparedVolume((channels, x, y, z), affine, header, folder, array)


def write_volume(path: Path, array: np.ndarray) -> None:
    import zarr
    from zarr.codecs import ZstdCodec

    block = tuple(min(n, b) for n, b in zip(array.shape[1:], BLOCK, strict=True))
    shard = tuple(-(-n // b) * b for n, b in zip(array.shape[1:], block, strict=True))
    stored = zarr.create_array(
        store=path,
        shape=array.shape,
        dtype=array.dtype,
        chunks=(1, *block),
        shards=(len(array), *shard),
        compressors=ZstdCodec(level=LEVEL),
        filters=None,
        dimension_names=("channel", "R", "A", "S"),
    )
    stored[...] = array


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def damaged(folder: Path, why: str) -> DataError:
    return DataError(
        f"the prepared volume {folder} is damaged: {why}", "delete that folder and prepare the cases again"
    )
