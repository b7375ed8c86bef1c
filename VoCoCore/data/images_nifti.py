"""NIfTI-1 and NIfTI-2 files (.nii, .nii.gz) in one decompression pass.

nibabel interprets the header; the voxels go from the stream straight into the array that is returned, so that
a compressed file is neither unpacked twice nor held twice. Integers without scaling keep their type.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from VoCoCore.data.volume import Header, ImageError, Volume, chosen_volume

try:
    from isal import igzip, isal_zlib

    _open_gzip: Any = igzip.open
    _broken_gzip: Any = (EOFError, zlib.error, gzip.BadGzipFile, isal_zlib.error)
except ImportError:
    _open_gzip, _broken_gzip = gzip.open, (EOFError, zlib.error, gzip.BadGzipFile)

_CHUNK = 1 << 20
# Deflate cannot pack more than about 1032 bytes into one.
_MOST_COMPRESSED = 1040
_AGAIN = "copy or download it again"
# Of a metre and a micrometre, by the code of the header; all others are taken as mm.
_MM = {1: 1000.0, 3: 0.001}


def read_nifti_header(path: str) -> Header:
    """Geometry of a file, from its first bytes. Raises ImageError."""
    # isal reads half a megabyte ahead, the standard library a few kilobytes.
    with _stream(path, gzip.open) as file:
        return _describe(_header(file, path), path)


def read_nifti(path: str, volumes: Sequence[int | None]) -> list[Volume]:
    """Read the asked volumes of a file (None: its only one) in one pass. Raises ImageError."""
    with _stream(path, _open_gzip) as file:
        header = _header(file, path)
        described = _describe(header, path)
        wanted = [chosen_volume(volume, described.channels, path) for volume in volumes]
        dtype = header.get_data_dtype()
        size = math.prod(described.shape) * dtype.itemsize
        _refuse_impossible(path, size * described.channels)
        blocks: dict[int, np.ndarray] = {}
        at, start = file.tell(), _first_voxel(header)
        for number in sorted(set(wanted)):
            _skip(file, start + number * size - at, path)
            blocks[number] = _read_block(file, size, path)
            at = start + (number + 1) * size
        if max(wanted) == described.channels - 1:
            while file.read(_CHUNK):  # reaching the end makes gzip compare its checksum
                pass
    arrays = {number: _scaled(block.view(dtype), header, described.shape) for number, block in blocks.items()}
    return [Volume(arrays[number], described.affine) for number in wanted]


@contextmanager
def _stream(path: str, open_gzip: Any) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed if it begins as gzip does, whatever its name says."""
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            yield open_gzip(raw, "rb") if packed else raw
    except _broken_gzip as error:
        raise ImageError(f"{path} ends early or is damaged (gzip: {error})", _AGAIN, "truncated") from error


def _header(file: BinaryIO, path: str) -> nib.Nifti1Header:
    start = file.read(348)
    little, big = int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")
    if 540 in (little, big):
        start += file.read(540 - len(start))
        length, magic = 540, start[4:8]
    else:
        length, magic = 348, start[344:348]
    if len(start) < length or not {348, 540} & {little, big}:
        raise _not_nifti(start, path)
    if magic not in (b"n+1\0", b"n+2\0"):
        raise ImageError(
            f"{path} is half of an .hdr/.img pair or no NIfTI file", "save it as .nii.gz", "unreadable"
        )
    try:
        header = (nib.Nifti2Header if length == 540 else nib.Nifti1Header)(start, check=False)
        header.get_data_dtype()
        return header
    except (HeaderDataError, ValueError, KeyError) as error:
        raise ImageError(f"{path} has a damaged NIfTI header: {error}", _AGAIN) from error


def _not_nifti(start: bytes, path: str) -> ImageError:
    """Say what a file that begins with ``start`` is instead."""
    if not start:
        return ImageError(f"{path} is empty (0 bytes)", _AGAIN, "empty_file")
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return ImageError(f"{path} is a web page saved as an image", "download the image itself")
    if text.startswith(b"version https://git-lfs"):
        return ImageError(
            f"{path} is a Git LFS pointer, not the image", "run 'git lfs pull' where it came from"
        )
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return ImageError(f"{path} is a text file, not NIfTI", "replace it by the image")
    if len(start) < 348:
        return ImageError(f"{path} ends within its header", _AGAIN, "truncated")
    return ImageError(f"{path} is not a NIfTI file", "give it the extension of its format, or convert it")


def _describe(header: nib.Nifti1Header, path: str) -> Header:
    dims = [int(n) for n in header["dim"]]
    if not 1 <= dims[0] <= 7 or min(dims[1 : dims[0] + 1], default=0) < 1:
        raise ImageError(f"{path} has a damaged NIfTI header: dimensions {dims}", _AGAIN)
    shape = dims[1 : dims[0] + 1]
    if header.get_data_dtype().names or int(header["datatype"]) in (128, 2304):
        raise ImageError(f"{path} is a colour image", "convert it to grey values", "colour")
    if header.get_data_dtype().kind not in "iuf":
        raise ImageError(
            f"{path} has values of the kind {header.get_data_dtype()}", "save it as integers or floats"
        )
    if len([n for n in shape if n > 1]) < 3 or min(shape[:3]) < 2:
        what = " x ".join(map(str, shape))
        raise ImageError(
            f"{path} is not 3D: it has {what} voxels", "leave it out or use the 3D image", "not_3d"
        )
    if math.prod(shape[4:]) > 1:
        raise ImageError(f"{path} has {len(shape)} dimensions", "save one 3D volume per file", "not_3d")
    affine, notes = _affine(header, path)
    channels = shape[3] if len(shape) > 3 else 1
    return Header((shape[0], shape[1], shape[2]), affine, channels, notes)


def _affine(header: nib.Nifti1Header, path: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Index to RAS mm, and where it had to be guessed."""
    affine, notes = _affine_as_written(header, path)
    affine[:3] *= _MM.get(int(header["xyzt_units"]) & 7, 1.0)
    return affine, notes


def _affine_as_written(header: nib.Nifti1Header, path: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """In the header's unit: sform if it is coded, then qform, else the voxel sizes alone."""
    if header["sform_code"] > 0:
        affine = np.asarray(header.get_sform(), dtype=np.float64)
        return affine, _other_place(header, affine)
    if header["qform_code"] > 0:
        try:
            return np.asarray(header.get_qform(), dtype=np.float64), ()
        except (HeaderDataError, ValueError) as error:
            raise ImageError(f"{path} has a damaged orientation (qform): {error}", _AGAIN) from error
    sizes = np.abs(header["pixdim"][1:4].astype(np.float64))
    return np.diag([*sizes, 1.0]), (
        "its header has no orientation: array axes are taken as right, anterior, superior",
    )


def _other_place(header: nib.Nifti1Header, sform: np.ndarray) -> tuple[str, ...]:
    """A note where ITK, and so 3D Slicer, sees the image elsewhere: it takes the qform unless the sform's code is 1."""
    if header["sform_code"] == 1 or header["qform_code"] <= 0:
        return ()
    try:
        apart = np.abs(sform - header.get_qform()) @ [*header["dim"][1:4], 1]
    except (HeaderDataError, ValueError):
        return ()
    if apart.max() <= 0.1 * np.linalg.norm(sform[:3, :3], axis=0).min():
        return ()
    return ("its header gives two places: the sform is taken here, the qform in 3D Slicer",)


def _scaling(header: nib.Nifti1Header) -> tuple[float, float] | None:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0:
        return None
    inter = inter if np.isfinite(inter) else 0.0
    return None if (slope, inter) == (1.0, 0.0) else (slope, inter)


def _read_dtype(header: nib.Nifti1Header) -> np.dtype:
    stored = header.get_data_dtype().newbyteorder("=")
    if stored.itemsize > 8:
        return np.dtype(np.float64)
    return stored if _scaling(header) is None else np.dtype(np.float32)


def _scaled(block: np.ndarray, header: nib.Nifti1Header, shape: tuple[int, int, int]) -> np.ndarray:
    array = block.reshape(shape, order="F").astype(_read_dtype(header), copy=False)
    scaling = _scaling(header)
    if scaling is not None:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is refused later
            array *= np.float32(scaling[0])
            array += np.float32(scaling[1])
    return array


def _first_voxel(header: nib.Nifti1Header) -> int:
    start = float(header["vox_offset"])
    return max(int(start) if math.isfinite(start) else 0, int(header["sizeof_hdr"]) + 4)


def _refuse_impossible(path: str, size: int) -> None:
    """A damaged header may ask for more memory than there is."""
    if size > _MOST_COMPRESSED * max(os.path.getsize(path), 1):
        raise ImageError(f"{path} is far too small for the size in its header", _AGAIN, "truncated")


def _skip(file: BinaryIO, count: int, path: str) -> None:
    while count > 0:
        got = len(file.read(min(count, _CHUNK)))
        if not got:
            raise ImageError(f"{path} ends early", _AGAIN, "truncated")
        count -= got


def _read_block(file: Any, size: int, path: str) -> np.ndarray:
    block = np.empty(size, np.uint8)
    filled = 0
    while filled < size:
        got = file.readinto(block[filled : filled + _CHUNK].data)
        if not got:
            share = 100 * filled // size
            raise ImageError(f"{path} ends early: {share} % of its voxels are there", _AGAIN, "truncated")
        filled += got
    return block
