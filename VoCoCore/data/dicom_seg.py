"""Segmentations as DICOM SEG, beside the series that they were made from; needs the package highdicom."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from VoCoCore import __version__
from VoCoCore.data.cases import Source
from VoCoCore.data.dicom import read_series_header
from VoCoCore.data.segmentations import Segments
from VoCoCore.errors import DataError, EnvironmentFault
from VoCoCore.geometry import spacing_of
from VoCoCore.runs.files import replacing
from VoCoCore.runs.narrate import one_line

_LONGEST = 64  # characters of a label
_DESCRIPTION = "VoCo segmentation"
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
# May be empty in any DICOM file; removing names often takes them out altogether, and highdicom asks for them.
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)


def check_available() -> None:
    """Raise EnvironmentFault where the package that writes DICOM SEG is not installed."""
    missing = [name for name in ("pydicom", "highdicom") if find_spec(name) is None]
    if missing:
        raise EnvironmentFault(
            f"DICOM SEG needs the package {missing[-1]}, which is not installed",
            "pip install highdicom, or choose another --format",
        )


def write_dicom_seg(path: str | Path, labels: np.ndarray, source: Source, segments: Segments) -> None:
    """Write ``labels`` (X, Y, Z), on the grid of the series ``source``, with patient and study of that series.

    ``segments``: name -> (voxel value, RGB from 0 to 255); segment numbers are their order, from 1. Raises DataError
    where ``source`` is no DICOM series, EnvironmentFault without highdicom or where the file cannot be written.
    """
    path = Path(path)
    if not source.files:
        raise DataError(
            f"{source.path} is no DICOM series, which DICOM SEG has to refer to", "choose another --format"
        )
    check_available()
    made = _dataset(_numbered(labels, segments), source, segments)
    with replacing(path) as beside:
        made.save_as(beside)


def _numbered(labels: np.ndarray, segments: Segments) -> np.ndarray:
    """Segment numbers as frames (slices, rows, columns) in the order of the series' files."""
    most = max(int(labels.max()), *(value for value, _ in segments.values()))
    numbers = np.zeros(most + 1, np.uint8 if len(segments) < 256 else np.uint16)
    for number, (value, _) in enumerate(segments.values(), start=1):
        numbers[value] = number
    return np.ascontiguousarray(numbers[labels].T)


def _dataset(frames: np.ndarray, source: Source, segments: Segments) -> Any:
    import highdicom
    import pydicom

    apart = float(spacing_of(read_series_header(source).affine)[2])
    slices = [_whole(pydicom.dcmread(name, stop_before_pixels=True), name, apart) for name in source.paths]
    numbered = enumerate(segments.items(), start=1)
    return highdicom.seg.Segmentation(
        source_images=slices,
        pixel_array=frames,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_described(number, name, colour) for number, (name, (_, colour)) in numbered],
        series_instance_uid=highdicom.UID(),
        series_number=300,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="VoCoCore",
        manufacturer_model_name="VoCoCore",
        software_versions=__version__,
        device_serial_number="0",
        content_description=_DESCRIPTION,
        series_description=_DESCRIPTION,
    )


def _whole(one: Any, path: str, apart: float) -> Any:
    """A slice with all by which a SEG refers to it; removing names often empties these too.

    ``apart``: mm between slices, for those that do not say how thick they are.
    """
    for name in _MAY_BE_EMPTY:
        setattr(one, name, one.get(name) or "")
    one.SliceThickness = one.get("SliceThickness") or f"{apart:.6g}"
    one.SOPClassUID = one.get("SOPClassUID") or one.file_meta.MediaStorageSOPClassUID
    one.SOPInstanceUID = one.get("SOPInstanceUID") or one.file_meta.MediaStorageSOPInstanceUID
    lacking = [name for name in _NEEDED if not one.get(name)]
    if lacking:
        raise DataError(
            f"{path} has no {lacking[0]}, so that no DICOM SEG can refer to it",
            "send the series again with its UIDs, or choose another --format",
        )
    return one


def _described(number: int, name: str, colour: tuple[int, int, int]) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    # What a label stands for is not known in DICOM's codes: tissue is true of all of them.
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=one_line(name)[:_LONGEST],
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="VoCoCore",
            version=__version__,
            family=codes.DCM.ArtificialIntelligence,
        ),
        display_color=highdicom.color.CIELabColor.from_rgb(*colour),
    )
