"""The blocks of a prepared volume, read straight from the one file that zarr has written them to.

zarr's own reading takes longer for each block than decompressing it does, and starts threads that a forked loader
worker must not wait for. The file is Zarr v3's shard: blocks, each compressed by zstd on its own, and at the end where
each of them lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import BinaryIO

import numpy as np

SHARD = Path("c/0/0/0/0")  # where the only shard of an array of four axes lies
_MISSING = np.uint64(2**64 - 1)  # blocks of zeros are not written
_CHECKSUM = 4  # bytes behind the list of places
_PLACE = np.dtype("<u8")


def read_blocks(
    folder: Path,
    region: Sequence[slice],
    shape: Sequence[int],
    block: Sequence[int],
    dtype: np.dtype,
) -> np.ndarray:
    """The values of ``region`` (four slices with both ends) of the array of ``shape`` (C, X, Y, Z) in ``folder``.

    Only blocks that the region touches are read. Raises OSError, ValueError or RuntimeError for a damaged file.
    """
    grid = [-(-n // b) for n, b in zip(shape, block, strict=True)]
    out = np.empty([part.stop - part.start for part in region], dtype)
    with (folder / SHARD).open("rb", buffering=0) as file:
        places = _places(file, grid)
        end = file.tell()
        for number in product(
            *(range(p.start // b, -(-p.stop // b)) for p, b in zip(region, block, strict=True))
        ):
            inner, outer = zip(*_overlaps(number, block, region), strict=True)
            offset, length = map(int, places[number])
            if offset != _MISSING and offset + length > end:
                raise ValueError("its table of blocks is damaged")
            out[outer] = 0 if offset == _MISSING else _block(file, offset, length, block, dtype)[inner]
    return out


def _places(file: BinaryIO, grid: Sequence[int]) -> np.ndarray:
    """First byte and length of each block: (*grid, 2)."""
    size = 2 * _PLACE.itemsize * int(np.prod(grid))
    file.seek(-size - _CHECKSUM, 2)
    return np.frombuffer(file.read(size), _PLACE).reshape(*grid, 2)


def _overlaps(
    number: Sequence[int], block: Sequence[int], region: Sequence[slice]
) -> Iterator[tuple[slice, slice]]:
    """Along each axis the part of block ``number`` that lies in the region: counted from the block, and from it."""
    for place, edge, part in zip(number, block, region, strict=True):
        start, stop = max(place * edge, part.start), min((place + 1) * edge, part.stop)
        yield slice(start - place * edge, stop - place * edge), slice(start - part.start, stop - part.start)


def _block(file: BinaryIO, offset: int, length: int, block: Sequence[int], dtype: np.dtype) -> np.ndarray:
    from numcodecs import zstd

    file.seek(offset)
    content = zstd.decompress(file.read(length))
    return np.frombuffer(content, dtype.newbyteorder("<")).reshape(block)
