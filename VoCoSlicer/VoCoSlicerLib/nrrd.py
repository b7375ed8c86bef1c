"""NRRD files with numpy alone: written from Slicer's memory as it is, read back with their geometry.

Arrays are (k, j, i) as Slicer and numpy hold them, which is NRRD's own order of bytes. Affines map (i, j, k) to RAS mm.
"""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from VoCoCore.errors import DataError
from VoCoCore.runs.files import replacing

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
CHUNK = 1 << 24  # bytes handled between two looks at whether to go on
MOST_HEADER = 1 << 20
_NAMES = {
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "uint16": "unsigned short",
    "int32": "int",
    "uint32": "unsigned int",
    "int64": "long long int",
    "uint64": "unsigned long long int",
    "float32": "float",
    "float64": "double",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()} | {
    **dict.fromkeys(("int8", "int8_t"), "int8"),
    **dict.fromkeys(("uchar", "uint8", "uint8_t"), "uint8"),
    **dict.fromkeys(("short int", "signed short", "signed short int", "int16", "int16_t"), "int16"),
    **dict.fromkeys(("ushort", "unsigned short int", "uint16", "uint16_t"), "uint16"),
    **dict.fromkeys(("signed int", "int32", "int32_t"), "int32"),
    **dict.fromkeys(("uint", "uint32", "uint32_t"), "uint32"),
    **dict.fromkeys(("longlong", "long long", "int64", "int64_t"), "int64"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "uint64", "uint64_t"), "uint64"),
}
# From the space of a file's header to RAS.
_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), LPS_TO_RAS),
    **dict.fromkeys(("right-anterior-superior", "ras"), np.eye(4)),
    **dict.fromkeys(("left-anterior-superior", "las"), np.diag([-1.0, 1.0, 1.0, 1.0])),
}

Tick = Callable[[int], None]


@dataclass(frozen=True)
class NrrdHeader:
    """What stands before the voxels: ``fields`` (name: value), ``keys`` (name:=value), and what they mean.

    ``shape`` (i, j, k); ``affine`` (4, 4) to RAS mm; ``start``: position of the first byte of the data.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype
    encoding: str
    start: int
    fields: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)


def writeNrrd(
    path: str | Path,
    array: np.ndarray,
    affine: np.ndarray,
    *,
    compress: bool = False,
    tick: Tick = lambda written: None,
) -> None:
    """Write ``array`` (k, j, i) with ``affine`` (4, 4), IJK to RAS mm, beside ``path`` and then onto it.

    ``compress``: gzip, for label maps. ``tick`` hears how many bytes of the array went since its last call; what it
    raises ends the writing, and leaves nothing behind. Raises EnvironmentFault where the file cannot be written,
    DataError for values that NRRD has no name for.
    """
    path, array = Path(path), np.ascontiguousarray(array)
    head = nrrdHeader(array, affine, compress=compress)
    raw = memoryview(array).cast("B") if array.size else memoryview(b"")
    with replacing(path) as beside, open(beside, "wb", buffering=0) as file:
        _write(file, head)
        # A gzip stream by hand: GzipFile would take a look at every small piece.
        packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS) if compress else None
        for start in range(0, len(raw), CHUNK):
            part = raw[start : start + CHUNK]
            _write(file, packer.compress(part) if packer else part)
            tick(len(part))
        if packer:
            _write(file, packer.flush())


def _write(file, data) -> None:
    """All of ``data``: a raw file may take less than it was given."""
    left = memoryview(data)
    while len(left):
        left = left[file.write(left) :]


def nrrdHeader(array: np.ndarray, affine: np.ndarray, *, compress: bool = False) -> bytes:
    """The header of a file with ``array`` (k, j, i); DataError for values that NRRD has no name for."""
    if array.dtype.name not in _NAMES:
        raise DataError(f"values of the kind {array.dtype} cannot be written", "convert the volume first")
    lps = LPS_TO_RAS @ np.asarray(affine, float)
    fields = {
        "type": _NAMES[array.dtype.name],
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(str(edge) for edge in array.shape[::-1]),
        "space directions": " ".join(_vector(lps[:3, axis]) for axis in range(3)),
        "kinds": "domain domain domain",
        "endian": "little" if array.dtype.byteorder in "<|" or _nativeIsLittle(array) else "big",
        "encoding": "gzip" if compress else "raw",
        "space origin": _vector(lps[:3, 3]),
    }
    lines = [f"{name}: {value}" for name, value in fields.items()]
    return "\n".join(["NRRD0004", *lines, "", ""]).encode("ascii")


def _nativeIsLittle(array: np.ndarray) -> bool:
    return array.dtype.byteorder == "=" and sys.byteorder == "little"


def _vector(values: np.ndarray) -> str:
    return "(" + ",".join(repr(float(value) + 0.0) for value in values) + ")"


def readNrrdHeader(path: str | Path) -> NrrdHeader:
    """Header of a 3D scalar NRRD whose data follow in the same file. Raises DataError, naming the file."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(MOST_HEADER)
        head, found, _ = start.partition(b"\n\n")
        if not found:
            head, found, _ = start.partition(b"\r\n\r\n")
        if not found or not head.startswith(b"NRRD"):
            raise ValueError("no NRRD header")
        return _parse(head.decode("utf-8"), len(head) + len(found))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", "check the path") from error
    except (ValueError, KeyError, IndexError) as error:
        raise DataError(f"{path} is no NRRD of one 3D image: {error}", "save it again as .nrrd") from error


def _parse(head: str, start: int) -> NrrdHeader:
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    for line in head.splitlines()[1:]:
        if line.startswith("#"):
            continue
        if ":=" in line:
            name, _, value = line.partition(":=")
            keys[name] = value.replace("\\n", "\n").replace("\\\\", "\\")
        else:
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip()
    if int(fields["dimension"]) != 3:
        raise ValueError(f"it has {fields['dimension']} dimensions")
    if "data file" in fields or "datafile" in fields:
        raise ValueError("its voxels lie in another file")
    if any(int(fields.get(name, 0)) for name in ("line skip", "lineskip", "byte skip", "byteskip")):
        raise ValueError("it skips lines or bytes before its voxels")
    i, j, k = (int(edge) for edge in fields["sizes"].split())
    dtype = np.dtype(_TYPES[fields["type"]])
    if fields.get("endian", sys.byteorder) == "big":
        dtype = dtype.newbyteorder(">")
    affine = np.eye(4)
    vectors = [_numbers(text) for text in fields["space directions"].split(")")[:3]]
    affine[:3, :3] = np.transpose(vectors)
    affine[:3, 3] = _numbers(fields["space origin"].split(")")[0])
    affine = _SPACES[fields["space"].lower()] @ affine
    return NrrdHeader((i, j, k), affine, dtype, fields["encoding"].lower(), start, fields, keys)


def _numbers(text: str) -> list[float]:
    numbers = [float(part) for part in text.strip().removeprefix("(").split(",")]
    if len(numbers) != 3:
        raise ValueError("its space has not three axes")
    return numbers


def readNrrd(path: str | Path) -> tuple[np.ndarray, NrrdHeader]:
    """Voxels (k, j, i) and header of a NRRD with raw or gzip data. Raises DataError, naming the file."""
    header = readNrrdHeader(path)
    i, j, k = header.shape
    size = i * j * k * header.dtype.itemsize
    try:
        with open(path, "rb") as file:
            file.seek(header.start)
            data = bytearray(size)
            if header.encoding in ("gzip", "gz"):
                with gzip.GzipFile(fileobj=file) as packed:
                    filled = readFully(packed, data)
            elif header.encoding == "raw":
                filled = readFully(file, data)
            else:
                raise DataError(
                    f"{path} is encoded as {header.encoding}",
                    "save it again, compressed with gzip or not at all",
                )
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or cannot be read: {error}", "copy or make it again") from error
    if filled < size:
        raise DataError(
            f"{path} ends early: {100 * filled // size} % of its voxels are there", "make it again"
        )
    array = np.frombuffer(data, header.dtype).reshape(k, j, i)
    return array.astype(header.dtype.newbyteorder("="), copy=False), header


def readFully(file, data: bytearray) -> int:
    """Fill ``data`` from a file in large pieces; returns how many bytes there were."""
    view, filled = memoryview(data), 0
    while filled < len(view):
        got = file.readinto(view[filled : filled + CHUNK])
        if not got:
            break
        filled += got
    return filled
