"""A light reader of DICOM headers: the few tags that sort files into series, and whether the pixel data are whole.

Recognises DICOM by content, whatever a file is called: by the letters DICM after the preamble, or by a
first element that can only be DICOM's. Explicit and implicit VR, both byte orders and deflated files;
sequences are stepped over.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from math import prod
from typing import BinaryIO

SOP_CLASS, SOP_UID, IMAGE_TYPE, MODALITY = 0x00080016, 0x00080018, 0x00080008, 0x00080060
PATIENT_ID, BODY_PART, ECHO_TIME, B_VALUE = 0x00100020, 0x00180015, 0x00180081, 0x00189087
STUDY_UID, SERIES_UID, ACQUISITION, TEMPORAL = 0x0020000D, 0x0020000E, 0x00200012, 0x00200100
POSITION, ORIENTATION, SAMPLES, PHOTOMETRIC = 0x00200032, 0x00200037, 0x00280002, 0x00280004
FRAMES, ROWS, COLUMNS, PIXEL_SPACING = 0x00280008, 0x00280010, 0x00280011, 0x00280030
BITS, PIXELS, _ANY = 0x00280100, 0x7FE00010, 0xFFFFFFFF
_WANTED = {SOP_CLASS, SOP_UID, IMAGE_TYPE, MODALITY, PATIENT_ID, BODY_PART, ECHO_TIME, B_VALUE, STUDY_UID}
_WANTED |= {SERIES_UID, ACQUISITION, TEMPORAL, POSITION, ORIENTATION, SAMPLES, PHOTOMETRIC, FRAMES, ROWS}
_WANTED |= {COLUMNS, PIXEL_SPACING}
_LAST = PIXEL_SPACING
_SIZES = (SAMPLES, FRAMES, ROWS, COLUMNS, BITS)
_NUMBERS = {SAMPLES: "H", ROWS: "H", COLUMNS: "H", BITS: "H", B_VALUE: "d"}

_MEDIA_SOP_CLASS, _TRANSFER_SYNTAX = 0x00020002, 0x00020010
_IMPLICIT, _DEFLATED, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_VRS = {*b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split(), *_LONG_VRS}
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

Tags = dict[int, str]


def read_tags(path: str) -> Tags | None:
    """The wanted tags of a file as text (numbers too), or None where it is not DICOM. Raises OSError."""
    with open(path, "rb") as file:
        if (opened := _opened(file)) is None:
            return None
        elements, media_class = opened
        found = _collected(elements, _LAST, _WANTED)
        # Anonymised files may have an empty SOP class in the data set only.
        if media_class and not found.get(SOP_CLASS):
            found[SOP_CLASS] = media_class
        return found


def has_all_pixels(path: str) -> bool:
    """Whether the pixel data that a file's header announces are there to their end. Raises OSError.

    Libraries differ on files cut off: some versions give whatever lay in memory, or end the process.
    """
    with open(path, "rb") as file:
        if (opened := _opened(file)) is None:
            return False
        elements, _ = opened
        sizes: Tags = {}
        with suppress(struct.error, EOFError, RecursionError):
            for tag, length in elements.until(_ANY):
                if tag == PIXELS:
                    return elements.pixels_fit(length, _bits(sizes))
                elements.keep(tag, length, _SIZES, sizes)
        # The header breaks off, or has something odd that a library may understand: that there are pixels must do.
        elements.file.seek(0)
        content = elements.file.read()
        at = content.find(struct.pack(elements.order + "HH", *divmod(PIXELS, 1 << 16)))
        return 0 <= at <= len(content) - 12  # bytes of the longest head


def _bits(sizes: Tags) -> int:
    """Bits of an uncompressed picture of these sizes; 0 where one of them makes no sense."""
    numbers = [sizes.get(tag) or ("1" if tag in (SAMPLES, FRAMES) else "") for tag in _SIZES]
    return prod(int(number) for number in numbers) if all(map(str.isdecimal, numbers)) else 0


def _opened(file: BinaryIO) -> tuple[_Elements, str] | None:
    """The data set of a file, and the SOP class that stands before it ("": none); None: not DICOM."""
    start = file.read(132)
    if start[128:] == b"DICM":
        return _read_part_10(file)
    if not _looks_bare(start):
        return None
    file.seek(0)
    return _Elements(file, "<", _has_explicit_vr(start)), ""


def _looks_bare(start: bytes) -> bool:
    """Whether a file without preamble begins with an early element of group 2 or 8 of a plausible length."""
    if len(start) < 12:
        return False
    group, element, length = struct.unpack("<HHI", start[:8])
    if _has_explicit_vr(start):
        length = struct.unpack("<H", start[6:8])[0]
    return group in (2, 8) and element <= 0x18 and length <= 128


def _has_explicit_vr(start: bytes) -> bool:
    return start[4:6].isalpha() and start[4:6].isupper()


def _read_part_10(file: BinaryIO) -> tuple[_Elements, str]:
    """Read group 2, which follows the preamble; the data set after it is in the encoding that it names."""
    tags = _collected(_Elements(file, "<", True), 0x0002FFFF, (_MEDIA_SOP_CLASS, _TRANSFER_SYNTAX))
    syntax = tags.get(_TRANSFER_SYNTAX, "")
    if syntax == _DEFLATED:
        file = io.BytesIO(_inflated(file.read()))
    order = ">" if syntax == _BIG_ENDIAN else "<"
    return _Elements(file, order, syntax != _IMPLICIT), tags.get(_MEDIA_SOP_CLASS, "")


def _inflated(packed: bytes) -> bytes:
    try:
        return zlib.decompressobj(-15).decompress(packed)
    except zlib.error:
        return b""


def _collected(elements: _Elements, last: int, wanted: Collection[int]) -> Tags:
    """The wanted tags up to tag ``last``; a header that breaks off gives those before the break."""
    tags: Tags = {}
    with suppress(struct.error, EOFError, RecursionError):
        for tag, length in elements.until(last):
            elements.keep(tag, length, wanted, tags)
    return tags


class _Elements:
    """The data elements of an open file, one after the other."""

    def __init__(self, file: BinaryIO, order: str, explicit: bool) -> None:
        self.file, self.order, self.explicit = file, order, explicit
        self.vr = b""

    def until(self, last: int) -> Iterator[tuple[int, int]]:
        """Yield (tag, length) up to tag ``last``; `keep` consumes each value, what comes after is left."""
        while True:
            here = self.file.tell()
            if (head := self._head()) is None:
                return
            if head[0] > last:
                self.file.seek(here)
                return
            yield head

    def keep(self, tag: int, length: int, wanted: Collection[int], tags: Tags) -> None:
        """Consume a value: into ``tags`` as text where it is wanted, else over it."""
        if length == _UNDEFINED:
            self._skip_sequence()
        elif tag in wanted:
            tags[tag] = self._text(tag, self._bytes(length))
        else:
            self.file.seek(length, 1)

    def pixels_fit(self, length: int, bits: int) -> bool:
        """Whether pixel data of ``length``, at least so many bits, end within the file."""
        if length != _UNDEFINED:
            return length * 8 >= bits and self._left() >= length
        fragments = -1  # the first item tells where the frames begin
        with suppress(EOFError):
            # Some files lack the mark that ends the fragments.
            while (item := self._head()) and item[0] == _ITEM:
                if self._left() < item[1]:
                    return False
                self.file.seek(item[1], 1)
                fragments += 1
        return fragments > 0

    def _is_explicit(self) -> bool:
        """Whether the next element names its VR."""
        here = self.file.tell()
        start = self.file.read(6)
        self.file.seek(here)
        return start[4:] in _VRS

    def _left(self) -> int:
        """Bytes of the file from here to its end."""
        here = self.file.tell()
        end = self.file.seek(0, 2)
        self.file.seek(here)
        return end - here

    def _head(self) -> tuple[int, int] | None:
        raw = self.file.read(8)
        if len(raw) < 8:
            return None
        group, element = struct.unpack(self.order + "HH", raw[:4])
        tag = (group << 16) | element
        self.vr = raw[4:6] if self.explicit and group != 0xFFFE else b""
        if not self.vr:
            return tag, struct.unpack(self.order + "I", raw[4:])[0]
        if self.vr in _LONG_VRS:
            return tag, struct.unpack(self.order + "I", self._bytes(4))[0]
        return tag, struct.unpack(self.order + "H", raw[6:])[0]

    def _bytes(self, length: int) -> bytes:
        raw = self.file.read(length)
        if len(raw) < length:
            raise EOFError
        return raw

    def _text(self, tag: int, raw: bytes) -> str:
        if tag in _NUMBERS and len(raw) == struct.calcsize(_NUMBERS[tag]):
            return str(struct.unpack(self.order + _NUMBERS[tag], raw)[0])
        return raw.decode("latin-1").strip(" \0")

    def _skip_sequence(self) -> None:
        """Step over a sequence of undefined length, its items and what is nested in them."""
        explicit, unknown = self.explicit, self.vr == b"UN"
        if unknown:  # such sequences are implicit inside, whatever is around them
            self.explicit = False
        while (head := self._head()) and head[0] != _SEQUENCE_END:
            if head[0] != _ITEM or head[1] != _UNDEFINED:
                self.file.seek(head[1], 1)
                continue
            if unknown:
                self.explicit = self._is_explicit()  # or should be
            while (inner := self._head()) and inner[0] != _ITEM_END:
                self.keep(inner[0], inner[1], (), {})
            self.explicit = explicit and not unknown
        self.explicit = explicit
