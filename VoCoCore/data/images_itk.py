"""NRRD and MetaImage files, and single DICOM slices, through SimpleITK; its LPS geometry becomes RAS here.

SimpleITK is imported when the first such file is met.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import islice
from types import ModuleType
from typing import Any

import numpy as np

from VoCoCore.data.dicom_tags import has_all_pixels
from VoCoCore.data.volume import Header, ImageError, Volume, chosen_volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LONGEST, _MOST_LINES = 500, 20_000  # bytes of a field, and lines, in the header of a NRRD
_LONGEST_LINE = 8192  # bytes, to which a line is looked at: more than the path of a file has
_AGAIN = "copy or download it again"
_VOXELS_IN = re.compile(rb"\s*(?:ElementDataFile\s*[=:]|data ?file:(?!=))(.*)", re.IGNORECASE)
_NUMBERED = re.compile(r"([^%]*%0?\d{0,2}d[^%]*?)\s+(\d{1,6})\s+(\d{1,6})(?:\s+([1-9]\d{0,5}))?(?:\s+\d+)?")


def is_segmentation(path: str) -> bool:
    """Whether a file is called like a segmentation of 3D Slicer."""
    return path.lower().endswith(".seg.nrrd")


def voxel_files(path: str) -> list[str]:
    """Files beside the NRRD or MetaImage ``path`` that its voxels lie in; none where they lie in itself.

    Raises OSError.
    """
    with open(path, "rb") as file:
        nrrd, whole = file.read(4) == b"NRRD", True
        file.seek(0)
        for line in islice(iter(lambda: file.readline(_LONGEST_LINE), b""), _MOST_LINES):
            begins, whole = whole, line.endswith(b"\n")
            if not begins:
                continue
            if nrrd and not line.strip(b"\r\n"):  # voxels follow; in a MetaImage it means nothing
                return []
            if found := _VOXELS_IN.match(line):
                names = _named(_text(found[1]), map(_text, islice(file, _MOST_LINES)))
                return [os.path.join(os.path.dirname(path), name) for name in names]
    return []


def _text(line: bytes) -> str:
    return line.strip().decode("utf-8", "surrogateescape")


def _named(said: str, below: Iterable[str]) -> list[str]:
    """The files that a header names: one, a list in the lines ``below``, or a pattern with first, last and step."""
    if said.upper() == "LOCAL":
        return []
    if said.split()[:1] == ["LIST"]:
        return [name for name in below if name]
    if numbered := _NUMBERED.fullmatch(said):
        low, high, step = (int(number or 1) for number in numbered.groups()[1:])
        return [numbered[1] % number for number in range(low, high + 1, step)]
    return [said]


def read_itk_header(path: str) -> Header:
    """Geometry of a file without its voxels. Raises ImageError."""
    return _describe(_opened(path), path)


def read_itk(path: str, volumes: Sequence[int | None]) -> list[Volume]:
    """Read the asked volumes of a file (None: its only one). Raises ImageError."""
    reader = _opened(path)
    header = _describe(reader, path)
    wanted = [chosen_volume(volume, header.channels, path) for volume in volumes]
    array = _voxels(reader, path)
    if header.channels == 1:
        return [Volume(array.reshape(header.shape[::-1]).T, header.affine) for _ in wanted]
    by_channel = array if reader.GetNumberOfComponents() == 1 else np.moveaxis(array, -1, 0)
    return [Volume(by_channel[number].T, header.affine) for number in wanted]


def read_dicom_slice(path: str) -> np.ndarray:
    """Grey values (columns, rows) of a single-frame DICOM file, after its rescaling. Raises ImageError."""
    if not has_all_pixels(path):
        raise _cut_off(path)
    reader = _opened(path, "GDCMImageIO")
    array = _voxels(reader, path)
    return _as_measured(array.reshape(array.shape[-2:]).T, reader)


def _as_measured(array: np.ndarray, reader: Any) -> np.ndarray:
    """Undo that ITK inverts what is to be shown inverted (MONOCHROME1): Hounsfield units do not depend on that."""

    def tag(key: str, otherwise: str) -> str:
        return reader.GetMetaData(key).strip() if reader.HasMetaDataKey(key) else otherwise

    if tag("0028|0004", "") != "MONOCHROME1":
        return array
    slope, first = float(tag("0028|1053", "") or 1), float(tag("0028|1052", "") or 0)
    signed, bits = tag("0028|0103", "0") == "1", int(tag("0028|0101", "16"))
    stored_pair = -1 if signed else 2**bits - 1  # a stored value and its inverse together
    return (stored_pair * slope + 2 * first - array).astype(array.dtype)


def _voxels(reader: Any, path: str) -> np.ndarray:
    try:
        with _quiet():
            array = simple_itk().GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise _cut_off(path) from error
    if array.dtype.kind not in "iuf":
        raise ImageError(f"{path} has values of the kind {array.dtype}", "save it as integers or floats")
    return array


@cache
def simple_itk() -> ModuleType:
    """The SimpleITK module, told not to print warnings of its own."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def _opened(path: str, image_io: str = "") -> Any:
    try:
        path.encode()
    except UnicodeEncodeError as error:  # SimpleITK would end the process
        raise ImageError(f"{path!a} has a name that is not valid text", "rename the file") from error
    if path.lower().endswith(".nrrd"):
        _check_nrrd(path)
    reader = simple_itk().ImageFileReader()
    reader.SetFileName(path)
    reader.SetImageIO(image_io)
    try:
        with _quiet():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path) from error
    return reader


def _check_nrrd(path: str) -> None:
    """Raise ImageError for a header that would end the process: ITK has little room for a line that it cannot read."""
    with open(path, "rb") as file:
        if not file.readline(64).startswith(b"NRRD"):
            return
        for number, line in enumerate(file):
            if not line.strip(b"\r\n"):
                return
            free = line.startswith((b"#", b"content:")) or b":=" in line
            if number > _MOST_LINES or (len(line) > _LONGEST and not free):
                raise _unreadable(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """The libraries below print about broken files, past Python's own streams; our errors say it better."""
    null, kept = os.open(os.devnull, os.O_WRONLY), -1
    try:
        with suppress(OSError):  # there may be no standard error
            kept = os.dup(2)
            os.dup2(null, 2)
        yield
    finally:
        if kept >= 0:
            os.dup2(kept, 2)
            os.close(kept)
        os.close(null)


def _cut_off(path: str) -> ImageError:
    return ImageError(f"the voxels of {path} end early or are damaged", _AGAIN, "truncated")


def _unreadable(path: str) -> ImageError:
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        return ImageError(f"{path} is empty (0 bytes)", _AGAIN, "empty_file")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return ImageError(f"{path} is a web page saved as an image", "download the image itself")
    return ImageError(f"{path} is not an image of the kind its name says, or its header is damaged", _AGAIN)


def _describe(reader: Any, path: str) -> Header:
    size, parts = reader.GetSize(), reader.GetNumberOfComponents()
    # Layers of segments are no colours, and one that is cropped to its segments may be of a single slice.
    segments = is_segmentation(path)
    if parts in (3, 4) and reader.GetPixelID() == simple_itk().sitkVectorUInt8 and not segments:
        raise ImageError(f"{path} is a colour image", "convert it to grey values", "colour")
    if len(size) not in (3, 4) or min(size[:3]) < 2 - segments or (len(size) == 4 and parts > 1):
        what = " x ".join(map(str, size))
        raise ImageError(
            f"{path} is not 3D: it has {what} voxels", "leave it out or use the 3D image", "not_3d"
        )
    channels = parts if len(size) == 3 else size[3]
    return Header((size[0], size[1], size[2]), _affine(reader, len(size)), channels)


def _affine(reader: Any, dimensions: int) -> np.ndarray:
    direction = np.reshape(reader.GetDirection(), (dimensions, dimensions))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(reader.GetSpacing()[:3])
    affine[:3, 3] = reader.GetOrigin()[:3]
    return LPS_TO_RAS @ affine
