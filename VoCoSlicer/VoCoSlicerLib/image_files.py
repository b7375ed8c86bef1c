"""Whether the file that a volume was read from still is that volume, so that it need not be written again."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from VoCoCore.errors import DataError
from VoCoCore.geometry import spacing_of
from VoCoSlicerLib.nifti import readNiftiHeader
from VoCoSlicerLib.nrrd import CHUNK, LPS_TO_RAS, readNrrdHeader

APART = 0.1  # voxels that two grids may lie apart and still be one
SAME = 1e-3  # mm that the same voxel may lie apart: NIfTI keeps its numbers in 32 bits
_PIECE = 1 << 20  # bytes of a packed file that are unpacked in one call
_ANY = 32 + zlib.MAX_WBITS  # gzip or zlib, as it says itself
_META_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def acceptedKind(path: str) -> bool:
    """Whether the trainer reads a file of this name and its geometry can be compared here."""
    name = os.path.basename(path).lower()
    return name.endswith((".nii", ".nii.gz", ".nrrd", ".mha")) and not name.endswith(".seg.nrrd")


@dataclass(frozen=True)
class FileImage:
    """What a header says: ``shape`` (i, j, k), ``affine`` (4, 4) to RAS mm, ``dtype`` of the stored values.

    ``start``: where they begin, in the file or, where it is ``packed`` as a whole (.nii.gz), in what is unpacked from
    byte ``packed`` on (None: not packed). A value is stored * ``slope`` + ``inter``.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype
    start: int
    packed: int | None = None
    slope: float = 1.0
    inter: float = 0.0


def fileImage(path: str | Path) -> FileImage:
    """What the header of a file of an accepted kind says. Raises DataError."""
    name = str(path).lower()
    if name.endswith(".nrrd"):
        header = readNrrdHeader(path)
        if header.encoding not in ("raw", "gzip", "gz"):
            raise DataError(f"{path} is encoded as {header.encoding}", "export it")
        place = (header.start, None) if header.encoding == "raw" else (0, header.start)
        return FileImage(header.shape, header.affine, header.dtype, *place)
    if name.endswith(".mha"):
        return _metaImage(path)
    found = readNiftiHeader(path)
    if found.volumes != 1:
        raise DataError(f"{path} holds {found.volumes} volumes", "export it")
    with open(path, "rb") as file:
        packed = 0 if file.read(2) == b"\x1f\x8b" else None
    return FileImage(
        found.shape, found.affine, found.dtype, found.start, packed, float(found.slope), float(found.inter)
    )


def holdsVolume(
    path: str | Path, array: np.ndarray, affine: np.ndarray, tick: Callable[[int], None] = lambda done: None
) -> bool:
    """Whether the file is there and has this ``affine`` (4, 4) and all values of ``array`` (k, j, i).

    Of files that were written over since they were loaded Slicer knows nothing, so every voxel is compared: a thread's
    work, about a second for a packed CT. ``tick`` hears how many bytes of ``array`` were; what it raises ends this.
    """
    try:
        found = fileImage(path)
        shape = array.shape[::-1]
        if found.shape != shape or not cornersApart(shape, found.affine, affine) <= SAME:
            return False
        return _sameValues(path, found, array.reshape(-1), tick)
    except (DataError, OSError, ValueError, zlib.error, struct.error):
        return False


def _sameValues(path: str | Path, found: FileImage, values: np.ndarray, tick: Callable[[int], None]) -> bool:
    skip, at, rest = found.start, 0, b""
    with open(path, "rb") as file:
        for block in _unpacked(file, found):
            rest, skip = rest + block[skip:], max(0, skip - len(block))
            count = min(len(rest) // found.dtype.itemsize, len(values) - at)
            stored, here = np.frombuffer(rest, found.dtype, count), values[at : at + count]
            if not _equal(stored, here, found.slope, found.inter):
                return False
            rest, at = rest[count * found.dtype.itemsize :], at + count
            tick(here.nbytes)
            if at == len(values):
                return True
    return False


def _unpacked(file, found: FileImage) -> Iterator[bytes]:
    """A file's bytes in large pieces: each call waits for Python's lock, GzipFile's are small ones."""
    file.seek(found.packed or 0)
    if found.packed is None:
        while block := file.read(CHUNK):
            yield block
        return
    unpacker, data = zlib.decompressobj(_ANY), b""
    while data := data or file.read(_PIECE):
        if unpacker.eof:  # parts that were packed one by one, as pigz and bgzip do
            unpacker = zlib.decompressobj(_ANY)
        yield unpacker.decompress(data, CHUNK)
        data = unpacker.unconsumed_tail or unpacker.unused_data
    yield unpacker.flush()


def _equal(stored: np.ndarray, here: np.ndarray, slope: float, inter: float) -> bool:
    if (slope, inter) == (1.0, 0.0):
        return bool(np.array_equal(stored, here, equal_nan="f" in (stored.dtype.kind, here.dtype.kind)))
    # Readers scale in 32 or 64 bits.
    return bool(np.allclose(here, stored * slope + inter, 1e-6, 2e-6 * abs(inter), equal_nan=True))


def cornersApart(shape: Sequence[int], one: np.ndarray, other: np.ndarray) -> float:
    """Farthest distance, mm, between the same corner voxel of a grid under two affines."""
    ends = np.array(np.meshgrid(*[(0, edge - 1) for edge in shape])).reshape(3, -1)
    moved = (np.asarray(one) - np.asarray(other)) @ np.vstack([ends, np.ones(ends.shape[1])])
    return float(np.linalg.norm(moved[:3], axis=0).max())


def sameGrid(shape: Sequence[int], affine: np.ndarray, otherShape: Sequence[int], other: np.ndarray) -> bool:
    """Whether two grids (shape (i, j, k), affine (4, 4)) have the same voxels, as far as that matters."""
    if tuple(shape) != tuple(otherShape):
        return False
    return cornersApart(shape, affine, other) <= APART * spacing_of(other).min()


def _metaImage(path: str | Path) -> FileImage:
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    fields, start = {}, 0
    for line in head.split(b"\n"):
        start += len(line) + 1
        name, _, value = line.decode("ascii", "replace").partition("=")
        fields[name.strip().lower()] = value.strip()
        if name.strip().lower() == "elementdatafile":
            break
    try:
        return _fromFields(fields, start)
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} is no MetaImage of one 3D image: {error}", "export it") from error


def _fromFields(fields: dict[str, str], start: int) -> FileImage:
    if fields["elementdatafile"] != "LOCAL" or fields["ndims"] != "3":
        raise ValueError("not one 3D image in one file")
    if fields.get("elementnumberofchannels", "1") != "1":
        raise ValueError("several values a voxel")
    if fields["binarydata"].lower() != "true" or fields.get("headersize", "0") != "0":
        raise ValueError("its voxels are no plain bytes")
    i, j, k = (int(edge) for edge in fields["dimsize"].split())
    lps = np.eye(4)
    # Rows of TransformMatrix are the axes of the image.
    axes = np.reshape([float(v) for v in fields["transformmatrix"].split()], (3, 3)).T
    lps[:3, :3] = axes * [float(v) for v in fields["elementspacing"].split()]
    lps[:3, 3] = [float(v) for v in fields["offset"].split()]
    swapped = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "")).lower() == "true"
    dtype = np.dtype((">" if swapped else "<") + _META_TYPES[fields["elementtype"]])
    place = (0, start) if fields.get("compresseddata", "").lower() == "true" else (start, None)
    return FileImage((i, j, k), LPS_TO_RAS @ lps, dtype, *place)
