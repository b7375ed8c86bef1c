"""NIfTI files with numpy alone: their geometry as the trainer understands it, and 3D or 4D voxels.

Only what is unambiguous is read: one file, no colour, sform or qform present. All else is a DataError that says so.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from VoCoCore.errors import DataError
from VoCoSlicerLib.nrrd import readFully

_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}


@dataclass(frozen=True)
class NiftiHeader:
    """``shape`` (i, j, k); ``volumes`` of a 4D file; ``affine`` (4, 4) to RAS mm; value = stored * slope + inter."""

    shape: tuple[int, int, int]
    volumes: int
    affine: np.ndarray
    dtype: np.dtype
    slope: float
    inter: float
    start: int


def readNiftiHeader(path: str | Path) -> NiftiHeader:
    """Header of a .nii or .nii.gz. Raises DataError, naming the file, for what cannot be understood."""
    with _opened(path) as file:
        return _parse(_exactly(file, 348))


def readNifti(path: str | Path, volume: int = 0) -> tuple[np.ndarray, NiftiHeader]:
    """Stored values (k, j, i) of one volume, not yet scaled, and the header. Raises DataError, naming the file."""
    return next(iter(readNiftiVolumes(path, [volume])))


def readNiftiVolumes(path: str | Path, volumes: list[int]):
    """Yield (stored values (k, j, i), header) of the asked volumes of a 4D file, in rising order, in one pass."""
    with _opened(path) as file:
        header = _parse(_exactly(file, 348))
        i, j, k = header.shape
        size = i * j * k * header.dtype.itemsize
        _exactly(file, header.start - 348)
        block = bytearray(size)
        for number in range(max(volumes) + 1):
            if number >= header.volumes or readFully(file, block) < size:
                raise ValueError(f"it has no volume number {number}")
            if number in volumes:
                array = np.frombuffer(block, header.dtype).reshape(k, j, i)
                yield array.astype(header.dtype.newbyteorder("=")), header


@contextmanager
def _opened(path: str | Path):
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            yield gzip.GzipFile(fileobj=raw) if packed else raw
    except (OSError, EOFError, zlib.error, struct.error, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read as NIfTI: {error}", "save or make it again") from error


def _exactly(file, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError("it ends within its header")
    return data


def _parse(head: bytes) -> NiftiHeader:
    order = next((sign for sign in "<>" if struct.unpack(sign + "i", head[:4])[0] == 348), "")
    if not order or head[344:348] != b"n+1\0":
        raise ValueError("it is no NIfTI-1 of one file")
    dims = struct.unpack(order + "8h", head[40:56])
    kind, _ = struct.unpack(order + "2h", head[70:74])
    if not 3 <= dims[0] <= 7 or min(dims[1 : dims[0] + 1]) < 1 or any(n > 1 for n in dims[5 : dims[0] + 1]):
        raise ValueError("it has not three or four dimensions")
    start, slope, inter = struct.unpack(order + "3f", head[108:120])
    scaled = np.isfinite(slope) and slope != 0
    return NiftiHeader(
        (dims[1], dims[2], dims[3]),
        dims[4] if dims[0] > 3 else 1,
        _affine(head, order),
        np.dtype(order + _TYPES[kind]),
        slope if scaled else 1.0,
        inter if scaled and np.isfinite(inter) else 0.0,
        max(int(start), 352),
    )


def _affine(head: bytes, order: str) -> np.ndarray:
    qform, sform = struct.unpack(order + "2h", head[252:256])
    affine = np.eye(4)
    if sform > 0:
        affine[:3] = np.reshape(struct.unpack(order + "12f", head[280:328]), (3, 4))
        return affine
    if qform <= 0:
        raise ValueError("its header has no orientation")
    b, c, d, *origin = struct.unpack(order + "6f", head[256:280])
    factor, *spacing = struct.unpack(order + "4f", head[76:92])
    a = max(0.0, 1.0 - b * b - c * c - d * d) ** 0.5
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine[:3, :3] = turn * spacing * [1.0, 1.0, -1.0 if factor < 0 else 1.0]
    affine[:3, 3] = origin
    return affine
