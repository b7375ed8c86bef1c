"""What reading an image gives: voxels with their geometry, a header alone, or an error of a known kind."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from VoCoCore.errors import DataError
from VoCoCore.geometry import is_invertible, spacing_of, turning


class ImageError(DataError):
    """An image that cannot be used as one 3D volume.

    ``kind`` is one of missing_file, empty_file, unreadable, truncated, not_3d, colour, channels, slices.
    """

    def __init__(self, message: str, hint: str = "", kind: str = "unreadable") -> None:
        super().__init__(message, hint)
        self.kind = kind

    def __reduce__(self):
        return type(self), (self.message, self.hint, self.kind)


@dataclass(frozen=True)
class Header:
    """What is known without reading voxels.

    ``shape`` is (X, Y, Z); ``affine`` (4, 4) float64 maps indices to RAS millimetres; ``channels`` counts the
    volumes of a 4D file; ``notes`` say where the geometry had to be guessed.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    channels: int = 1
    notes: tuple[str, ...] = ()

    def along(self, affine: np.ndarray) -> Header:
        """The header of `Volume.along`."""
        if not is_invertible(affine):
            return self
        order, flips, turned = turning(self.shape, self.affine, affine)
        if not _turns(order, flips):
            return self
        x, y, z = (self.shape[axis] for axis in order)
        return replace(self, shape=(x, y, z), affine=turned)


@dataclass(frozen=True)
class Volume:
    """One 3D image: ``array`` (X, Y, Z) in the file's unit, ``affine`` (4, 4) float64, index to RAS mm."""

    array: np.ndarray
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size (3,) in millimetres along the array axes."""
        return spacing_of(self.affine)

    def along(self, affine: np.ndarray) -> Volume:
        """The same voxels at the same places, stored along the axes of ``affine`` (4, 4).

        Files of one grid may differ in the order and direction of axes. An affine that cannot be inverted has none: the
        volume stays as it is.
        """
        if not is_invertible(affine):
            return self
        order, flips, turned = turning(self.array.shape, self.affine, affine)
        return Volume(np.flip(self.array.transpose(order), flips), turned) if _turns(order, flips) else self


def _turns(order: tuple[int, ...], flips: tuple[int, ...]) -> bool:
    return bool(flips) or order != (0, 1, 2)


def chosen_volume(volume: int | None, channels: int, path: str) -> int:
    """Which of a file's volumes to read; a file of several needs a choice. Raises ImageError."""
    if volume is None and channels > 1:
        raise ImageError(
            f"{path} is 4D with {channels} volumes",
            "index it with '--volumes channels' if they are channels of a case, '--volumes 0' for the first",
            "not_3d",
        )
    if volume is not None and not 0 <= volume < channels:
        raise ImageError(
            f"{path} has {channels} volume(s), number {volume} was asked",
            "correct the list of cases",
            "channels",
        )
    return volume or 0
