"""Where DICOM slices lie: one slice's place, and what a stack of them amounts to.

Geometry comes from the positions of all slices, never from SliceThickness or SpacingBetweenSlices, which
often lie.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from VoCoCore.data import dicom_tags as tag
from VoCoCore.data.images_itk import LPS_TO_RAS
from VoCoCore.data.volume import ImageError
from VoCoCore.errors import counted

# How much gaps may differ from the usual one (a share), and how far slices may lie beside their line, or along it from
# their places (a share of the usual gap): small differences of the gaps add up.
UNEVEN, SIDEWAYS_MM, DRIFT = 0.1, 1.0, 0.5
# Below this many degrees a tilt is rounding in the positions.
TILT_DEGREES = 0.5

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@dataclass(frozen=True, slots=True)
class Slice:
    """What sorting needs of one file. ``refusal`` says why it can be no part of a volume, or is empty.

    ``position`` (3,) and ``orientation`` (6,: along a row, then along a column) are LPS, millimetres and
    cosines; ``spacing`` is (between rows, between columns); ``parts`` are tags that tell apart the volumes
    of one series.
    """

    path: str
    refusal: str
    patient: str
    study: str
    series: str
    uid: str
    modality: str
    body_part: str
    parts: tuple[str, ...]
    size: tuple[int, int]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]

    @property
    def normal(self) -> np.ndarray:
        """Unit vector (3,) across the slice, LPS."""
        return np.cross(self.orientation[:3], self.orientation[3:])


def read_slice(path: str) -> Slice | None:
    """Read one file's tags; None where it is not DICOM. Raises OSError."""
    tags = tag.read_tags(path)
    if tags is None:
        return None
    get = lambda key: sys.intern(tags.get(key, ""))  # noqa: E731  series repeat their values thousands of times
    position, orientation = _numbers(get(tag.POSITION), 3), _numbers(get(tag.ORIENTATION), 6)
    spacing = _numbers(get(tag.PIXEL_SPACING), 2)
    placed = bool(position and _is_orthonormal(orientation) and spacing and min(spacing) > 0)
    return Slice(
        path,
        _refusal(tags, placed),
        get(tag.PATIENT_ID),
        get(tag.STUDY_UID),
        get(tag.SERIES_UID),
        tags.get(tag.SOP_UID, ""),
        get(tag.MODALITY),
        get(tag.BODY_PART),
        tuple(map(get, (tag.ECHO_TIME, tag.B_VALUE, tag.TEMPORAL, tag.ACQUISITION, tag.IMAGE_TYPE))),
        (_whole(get(tag.COLUMNS)), _whole(get(tag.ROWS))),
        position,
        orientation,
        spacing,
    )


def _refusal(tags: tag.Tags, placed: bool) -> str:
    """Why an image can be no slice of a volume."""
    if not _whole(tags.get(tag.ROWS, "")):
        return f"DICOM without an image (modality {tags.get(tag.MODALITY) or 'unknown'})"
    if tags.get(tag.SOP_CLASS, "").startswith(_SECONDARY_CAPTURE):
        return "DICOM secondary capture (a screenshot or a scanned page)"
    if (
        not tags.get(tag.PHOTOMETRIC, "MONOCHROME2").startswith("MONOCHROME")
        or _whole(tags.get(tag.SAMPLES, "1")) > 1
    ):
        return "DICOM colour image"
    if _whole(tags.get(tag.FRAMES, "1")) > 1:
        return "DICOM multi-frame file: convert it to NIfTI first, for example with 3D Slicer or dcm2niix"
    if "LOCALIZER" in tags.get(tag.IMAGE_TYPE, "").upper():
        return "DICOM scout (localizer)"
    return "" if placed else "DICOM image without position, orientation or pixel size"


def _numbers(text: str, count: int) -> tuple[float, ...]:
    """``count`` numbers from a backslash-separated text, or none at all."""
    try:
        values = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return ()
    return values if len(values) == count and all(map(np.isfinite, values)) else ()


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _is_orthonormal(orientation: tuple[float, ...]) -> bool:
    if not orientation:
        return False
    axes = np.reshape(orientation, (2, 3))
    return bool(np.allclose(axes @ axes.T, np.eye(2), atol=1e-2))


@dataclass(frozen=True)
class Stack:
    """Slices in order: ``affine`` (4, 4) index to RAS mm, exact for tilted stacks; ``gaps`` (n - 1,) mm
    along the normal; ``tilt`` degrees between the normal and the line of slices; ``sideways`` and ``drift``
    mm, the farthest a slice lies off that line, and from where even spacing has it along the normal.
    """

    affine: np.ndarray
    gaps: np.ndarray
    tilt: float
    sideways: float
    drift: float

    def fault(self) -> str:
        """Why the slices make no regular volume, with figures; empty where they do."""
        usual = float(np.median(self.gaps))
        if self.gaps.min() <= 0:
            return "its slices are not in order along their normal"
        if np.abs(self.gaps - usual).max() <= UNEVEN * usual:
            if self.sideways > SIDEWAYS_MM:
                return f"its slices lie up to {self.sideways:.1f} mm beside a straight line"
            if self.drift > DRIFT * usual:
                return f"its slices lie up to {self.drift:.1f} mm from where even spacing has them"
            return ""
        lost = int(np.sum(np.maximum(np.rint(self.gaps / usual) - 1, 0)))
        guess = f": {counted(lost, 'slice')} missing" if lost else ""
        low, high = self.gaps.min(), self.gaps.max()
        return f"its slices are {low:.2f} to {high:.2f} mm apart, mostly {usual:.2f} mm{guess}"


def stack_of(slices: Sequence[Slice]) -> Stack:
    """Geometry of at least two slices, in order along their normal."""
    first = slices[0]
    positions = np.array([one.position for one in slices])
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    line = positions[0] + np.arange(len(slices))[:, None] * step
    normal = first.normal
    off = positions - line
    along = off @ normal
    off -= along[:, None] * normal
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.orientation[:3]) * first.spacing[1]
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, positions[0]
    length = float(np.linalg.norm(step))
    tilt = float(np.degrees(np.arccos(np.clip(step @ normal / max(length, 1e-9), -1, 1))))
    return Stack(
        LPS_TO_RAS @ affine,
        np.diff(positions @ normal),
        tilt,
        float(np.linalg.norm(off, axis=1).max()),
        float(np.abs(along).max()),
    )


def read_stack(paths: Sequence[str]) -> tuple[list[Slice], Stack]:
    """Tags and geometry of a series' files in order. Raises ImageError for files that are no slices."""
    slices = []
    for path in paths:
        one = read_slice(path)
        if one is None or one.refusal:
            reason = one.refusal if one else "it is no DICOM file"
            raise ImageError(f"{path} cannot be a slice: {reason}", "make the index again", "slices")
        slices.append(one)
    if len(slices) < 2:
        raise ImageError(f"{paths[0]} is a single DICOM slice", "give the whole series", "not_3d")
    return slices, stack_of(slices)
