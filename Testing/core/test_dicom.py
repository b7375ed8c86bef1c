"""DICOM folders: sorting files into volumes, what is skipped and why, and the geometry of what is read."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from VoCoCore.data.cases import Index, save_index
from VoCoCore.data.check import check_index
from VoCoCore.data.dicom_tags import PATIENT_ID, POSITION, ROWS, has_all_pixels, read_tags
from VoCoCore.data.images import read_header, read_image
from VoCoCore.data.images_itk import read_dicom_slice
from VoCoCore.data.sources import index_source
from VoCoCore.data.volume import ImageError
from VoCoCore.errors import DataError

pydicom = pytest.importorskip("pydicom")
uid = pydicom.uid

AXIAL = (1.0, 0, 0, 0, 1, 0)
CT = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def write_slice(
    path: Path, pixels: np.ndarray, syntax: str = uid.ExplicitVRLittleEndian, **tags: Any
) -> None:
    """One DICOM file; ``tags`` override or, as None, delete what a plain CT slice has."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    defaults: dict[str, Any] = {
        "SOPClassUID": CT,
        "SOPInstanceUID": uid.generate_uid(),
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientName": "Doe^Jane",
        "PatientID": "MRN-4711",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4",
        "ImageOrientationPatient": list(AXIAL),
        "ImagePositionPatient": [0, 0, 0],
        "PixelSpacing": [0.8, 0.7],
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
    for name, value in {**defaults, **tags}.items():
        if value is not None:
            setattr(data, name, value)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    # A private sequence of undefined length, as scanners write them before the tags that matter.
    data.add_new((0x0009, 0x0010), "LO", "MAKER")
    data.add_new((0x0009, 0x1001), "SQ", [pydicom.Dataset()])
    data[0x00091001].is_undefined_length = True
    data.PixelData = (pixels.byteswap() if syntax == uid.ExplicitVRBigEndian else pixels).tobytes()
    data["PixelData"].VR = "OB" if data.BitsAllocated == 8 else "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    if syntax == uid.RLELossless:
        data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        data.compress(syntax)
    data.save_as(path, enforce_file_format=True)


def pixels_of(number: int) -> np.ndarray:
    return (np.arange(12 * 10).reshape(12, 10) + 200 * number).astype(np.int16)


def write_series(
    folder: Path, count: int = 6, step: tuple[float, ...] = (0, 0, 2.5), name: str = "IM{}", **tags: Any
) -> None:
    """A CT of 10 x 12 pixels a slice, written in shuffled order under names without extension."""
    for order, number in enumerate(np.random.default_rng(0).permutation(count)):
        place = [float(-30 + number * s) for s in step]
        write_slice(folder / name.format(order), pixels_of(number), **{"ImagePositionPatient": place, **tags})


def reasons(index: Index) -> dict[str, int]:
    return {item.reason: item.count for item in index.skipped}


def test_a_series_is_read_where_it_lies(tmp_path: Path) -> None:
    write_series(tmp_path)
    (case,) = index_source(tmp_path).cases
    volume, header = read_image(case.images[0]), read_header(case.images[0])
    assert volume.array.shape == header.shape == (10, 12, 6)
    assert np.array_equal(volume.array[:, :, 4], pixels_of(4).T - 1024)
    assert volume.array.dtype.kind == "i"
    image = sitk.ReadImage(case.images[0].paths)
    for voxel in ((0, 0, 0), (9, 0, 5), (3, 11, 2)):
        place = np.array(image.TransformIndexToPhysicalPoint(voxel)) * (-1, -1, 1)
        assert np.allclose((volume.affine @ [*voxel, 1])[:3], place)
    assert np.allclose(header.affine, volume.affine) and np.allclose(volume.spacing, (0.7, 0.8, 2.5))


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
    ],
)
def test_encodings_of_header_and_pixels(tmp_path: Path, syntax: str) -> None:
    write_series(tmp_path, syntax=syntax)
    (case,) = index_source(tmp_path).cases
    assert np.array_equal(read_image(case.images[0]).array[:, :, 1], pixels_of(1).T - 1024)


def test_files_without_preamble_and_files_that_are_no_dicom(tmp_path: Path) -> None:
    write_slice(tmp_path / "a.dcm", pixels_of(0), syntax=uid.ImplicitVRLittleEndian)
    data = pydicom.dcmread(tmp_path / "a.dcm")
    del data.file_meta, data.preamble
    pydicom.dcmwrite(tmp_path / "bare", data, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert (tmp_path / "bare").read_bytes()[128:132] != b"DICM"
    tags = read_tags(str(tmp_path / "bare"))
    assert tags is not None
    assert (tags[PATIENT_ID], tags[POSITION], tags[ROWS]) == ("MRN-4711", "0.0\\0.0\\0.0", "12")
    whole = (tmp_path / "a.dcm").read_bytes()
    for length in range(0, len(whole), 37):
        (tmp_path / "cut").write_bytes(whole[:length])
        assert read_tags(str(tmp_path / "cut")) is None or length >= 132
    for content in (b"", b"hello", bytes(4000), bytes(range(256)) * 9):
        (tmp_path / "other").write_bytes(content)
        assert read_tags(str(tmp_path / "other")) is None


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
    ],
)
def test_a_slice_cut_off_anywhere_is_refused_whatever_reads_the_pixels(tmp_path: Path, syntax: str) -> None:
    """Some versions of SimpleITK give what lay in memory for such a file, or end the process."""
    path = tmp_path / "a.dcm"
    write_slice(path, pixels_of(1), syntax)
    whole = path.read_bytes()
    assert has_all_pixels(str(path))
    # What can be lost without a voxel: the mark after fragments, and the end of a deflated stream with its filling,
    # which is longer or shorter with the numbers that the file was given.
    spare = {uid.RLELossless: 8, uid.DeflatedExplicitVRLittleEndian: 4}.get(syntax, 0)
    for lost in range(1, len(whole)):
        path.write_bytes(whole[:-lost])
        assert not has_all_pixels(str(path)) or lost <= spare, lost
    for lost in (1, 100, 239, 245, 300):
        path.write_bytes(whole[:-lost])
        try:
            assert np.array_equal(read_dicom_slice(str(path)).T, pixels_of(1) - 1024) and lost <= spare
        except ImageError as error:
            assert "a.dcm end early" in str(error) or lost <= spare


def element(group: int, number: int, vr: bytes, value: bytes, undefined: bool = False) -> bytes:
    """A data element, explicit and little endian, as it lies in a file."""
    length = 0xFFFFFFFF if undefined else len(value)
    size = struct.pack("<HI", 0, length) if vr == b"UN" else struct.pack("<H", length)
    return struct.pack("<HH", group, number) + vr + size + value


def odd_ones() -> dict[str, bytes]:
    """Elements before the pixels that are not as the standard has them, which libraries read all the same."""
    inside = element(0x2005, 0x1403, b"LO", b"ABCD")
    begin, end = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF), struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    items = begin + inside + end + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return {
        "an unknown sequence, explicit inside": element(0x2005, 0x1402, b"UN", items, undefined=True),
        "one that belongs behind the pixels": element(0x7FE1, 0x0010, b"LO", b"MAKER "),
        "the end of an item that never began": struct.pack("<HHI", 0xFFFE, 0xE00D, 0),
        "a length that leads beyond the file": struct.pack("<HH2sHI", 0x2005, 0x1402, b"UN", 0, 10**6),
    }


@pytest.mark.parametrize("what", odd_ones())
def test_oddities_before_the_pixels_are_no_reason_to_refuse_them(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.dcm"
    write_slice(path, pixels_of(1))
    content = path.read_bytes()
    at = content.rindex(struct.pack("<HH", 0x7FE0, 0x0010))
    path.write_bytes(content[:at] + odd_ones()[what] + content[at:])
    assert has_all_pixels(str(path))
    if "length" not in what:
        assert np.array_equal(read_dicom_slice(str(path)).T, pixels_of(1) - 1024)
        path.write_bytes(path.read_bytes()[:-10])
        assert not has_all_pixels(str(path))


def test_pixel_data_shorter_than_the_picture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_slice(path, pixels_of(1))
    data = pydicom.dcmread(path)
    data.PixelData = data.PixelData[:-2]
    data.save_as(path)
    with pytest.raises(ImageError, match=r"a\.dcm end early"):
        read_dicom_slice(str(path))


def test_many_patients_and_series_in_one_folder(tmp_path: Path) -> None:
    for patient in ("A", "B"):
        for series in ("1", "2"):
            # Instance numbers and file names say nothing; the third patient's folder is elsewhere.
            write_series(
                tmp_path,
                name=f"{patient}{series}-{{}}.bak",
                PatientID=patient,
                StudyInstanceUID=f"1.{ord(patient)}",
                SeriesInstanceUID=f"1.{ord(patient)}.{series}",
            )
    write_series(tmp_path / "deep" / "er", PatientID="C", BodyPartExamined="CHEST", SeriesInstanceUID="9")
    index = index_source(tmp_path)
    assert len(index.cases) == 5 and not index.skipped
    by_patient: dict[str, int] = {}
    for case in index.cases:
        by_patient[case.patient] = by_patient.get(case.patient, 0) + 1
        assert read_image(case.images[0]).array.shape == (10, 12, 6)
    assert sorted(by_patient.values()) == [1, 2, 2]
    assert [case.body_part for case in index.cases].count("chest") == 1
    assert check_index(index, workers=0, counts=(2, 2, 1)).bad_cases == ()


def test_no_name_or_number_of_a_patient_gets_into_the_index(tmp_path: Path) -> None:
    write_series(tmp_path / "data")
    save_index(index_source(tmp_path / "data"), tmp_path / "index.json")
    text = (tmp_path / "index.json").read_text()
    assert "4711" not in text and "Doe" not in text and "1.2.3.4" not in text
    assert json.loads(text)["cases"][0]["patient"].startswith("dicom-")


def test_what_is_no_volume_is_skipped_with_its_reason(tmp_path: Path) -> None:
    write_series(tmp_path)
    scout: dict[str, Any] = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_slice(tmp_path / "scout1", pixels_of(0), **scout, SeriesInstanceUID="2")
    write_slice(tmp_path / "scout2", pixels_of(1), **scout, SeriesInstanceUID="2")
    write_slice(tmp_path / "capture", pixels_of(0), SOPClassUID=SECONDARY_CAPTURE, SeriesInstanceUID="3")
    colour: dict[str, Any] = {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "BitsAllocated": 8,
        "BitsStored": 8,
    }
    pixels = np.zeros((12, 10, 3), np.uint8)
    write_slice(tmp_path / "rgb", pixels, **colour, HighBit=7, PixelRepresentation=0, PlanarConfiguration=0)
    write_slice(tmp_path / "single", pixels_of(0), SeriesInstanceUID="5")
    write_slice(tmp_path / "placeless", pixels_of(0), ImagePositionPatient=None, SeriesInstanceUID="6")
    frames = np.stack([pixels_of(0)] * 3)
    write_slice(tmp_path / "multi", frames, Rows=12, Columns=10, NumberOfFrames=3, SeriesInstanceUID="7")
    write_slice(tmp_path / "report", pixels_of(0), Rows=None, Columns=None, Modality="SR")
    index = index_source(tmp_path)
    assert len(index.cases) == 1
    found = reasons(index)
    for words, count in {
        "scout": 2,
        "secondary capture": 1,
        "colour": 1,
        "single slice": 1,
        "without position": 1,
        "multi-frame file: convert": 1,
        "modality SR": 1,
    }.items():
        assert [n for reason, n in found.items() if words in reason] == [count], words
    (tmp_path / "only").mkdir()
    shutil.move(tmp_path / "scout1", tmp_path / "only")
    with pytest.raises(DataError, match=r"1 skipped.*scout"):
        index_source(tmp_path / "only")


def test_missing_slices_are_found_with_figures(tmp_path: Path) -> None:
    write_series(tmp_path, count=8)
    victims = [p for p in tmp_path.iterdir() if pydicom.dcmread(p).ImagePositionPatient[2] in (-20.0, -17.5)]
    for path in victims:
        path.unlink()
    index = index_source(tmp_path)
    report = check_index(index, workers=0, counts=(1, 1, 1))
    assert [row.kind for row in report.rows] == ["uneven_slices"]
    assert "2.50 to 7.50 mm" in report.rows[0].message and "2 slices missing" in report.rows[0].message
    assert report.bad_cases == (index.cases[0].id,)
    with pytest.raises(ImageError, match="2 slices missing") as error:
        read_image(index.cases[0].images[0])
    assert error.value.kind == "slices"


def test_gantry_tilt_is_told_in_degrees_and_kept_in_the_affine(tmp_path: Path) -> None:
    write_series(tmp_path, count=20, step=(0, 2.5 * np.tan(np.radians(12)), 2.5))
    index = index_source(tmp_path)
    report = check_index(index, workers=0, counts=(2, 2, 1))
    assert [(row.severity, row.kind) for row in report.rows] == [("warning", "gantry_tilt")]
    assert "12.0 degrees" in report.rows[0].message
    volume = read_image(index.cases[0].images[0])
    # Where the last slice's first pixel lies in the patient, from its tags alone (LPS to RAS).
    expected = (30.0, 30 - 19 * 2.5 * np.tan(np.radians(12)), -30 + 19 * 2.5)
    assert np.allclose(volume.affine @ [0, 0, 19, 1], [*expected, 1], atol=1e-6)


def test_oblique_series_are_neither_tilted_nor_uneven(tmp_path: Path) -> None:
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    orientation = [float(v) for v in (*rotation[:, 0], *rotation[:, 1])]
    write_series(tmp_path, count=20, step=tuple(3 * rotation[:, 2]), ImageOrientationPatient=orientation)
    report = check_index(index_source(tmp_path), workers=0, counts=(2, 2, 1))
    assert report.checked == 1 and report.rows == ()


def test_several_volumes_in_one_series_are_told_apart_or_refused(tmp_path: Path) -> None:
    for echo in (1, 2):
        write_series(tmp_path / "echoes", name=f"e{echo}-{{}}", EchoTime=echo, Modality="MR")
    index = index_source(tmp_path / "echoes")
    assert len(index.cases) == 2 and len({case.id for case in index.cases}) == 2
    assert len({case.patient for case in index.cases}) == 1
    for phase in (1, 2):
        write_series(tmp_path / "phases", name=f"p{phase}-{{}}")
    with pytest.raises(DataError, match="6 slices where others lie"):
        index_source(tmp_path / "phases")


@pytest.mark.parametrize(
    ("modality", "tag", "told", "volumes"),
    [
        ("CT", "AcquisitionNumber", "12" * 6, 2),
        ("CT", "AcquisitionNumber", "111122223333", 1),  # behind each other
        ("MR", "TemporalPositionIdentifier", "12" * 6, 2),
        ("MR", "EchoTime", "12" * 6, 2),
        ("MR", "EchoTime", ["90", "90.0"] * 6, 1),
        ("MR", "AcquisitionNumber", "12" * 6, 1),  # every other slice of one volume
    ],
)
def test_volumes_between_each_others_slices_are_told_apart(
    modality, tag, told, volumes, tmp_path: Path
) -> None:
    for number in range(12):
        tags = {
            "ImagePositionPatient": [-30.0, -30.0, 1.25 * number],
            "Modality": modality,
            tag: told[number],
        }
        write_slice(tmp_path / f"IM{number}", pixels_of(number), **tags)
    cases = index_source(tmp_path).cases
    assert [len(case.images[0].files) for case in cases] == [12 // volumes] * volumes
    thick = {round(float(read_image(case.images[0]).spacing[2]), 3) for case in cases}
    assert thick == {1.25 * volumes}


def test_copies_of_slices_are_used_once(tmp_path: Path) -> None:
    write_series(tmp_path)
    shutil.copy(tmp_path / "IM0", tmp_path / "IM0 (copy)")
    index = index_source(tmp_path)
    assert reasons(index) == {"copy of a DICOM slice that is used already": 1}
    assert len(index.cases[0].images[0].files) == 6


def test_anonymised_files_without_identifiers(tmp_path: Path) -> None:
    blank: dict[str, Any] = {"PatientID": "", "StudyInstanceUID": "", "SeriesInstanceUID": ""}
    write_series(tmp_path / "one", **blank)
    write_series(tmp_path / "two", **blank)
    index = index_source(tmp_path)
    assert len(index.cases) == 2 and len({case.patient for case in index.cases}) == 2


def test_dicom_and_nifti_side_by_side(tmp_path: Path) -> None:
    write_series(tmp_path / "ct")
    image = sitk.GetImageFromArray(np.zeros((8, 8, 8), np.int16))
    sitk.WriteImage(image, tmp_path / "b.nii.gz")
    index = index_source(tmp_path)
    assert sorted(bool(case.images[0].files) for case in index.cases) == [False, True]
    assert index.channels == ("image",)


def test_slices_scaled_one_by_one_keep_their_fractions(tmp_path: Path) -> None:
    for number in range(4):
        place = [0, 0, 2.0 * number]
        slope = 1 if number == 0 else 0.25 * number
        write_slice(tmp_path / f"{number}", pixels_of(0), ImagePositionPatient=place, RescaleSlope=slope)
    volume = read_image(index_source(tmp_path).cases[0].images[0])
    assert volume.array.dtype == np.float32
    assert np.allclose(volume.array[:, :, 3], pixels_of(0).T * 0.75 - 1024)


def test_slices_that_drift_from_even_spacing_are_refused(tmp_path: Path) -> None:
    # Each gap is within a tenth of the usual one, yet the middle lies slices away from where a grid has it.
    for number in range(40):
        z = 5.0 * number + 0.45 * max(0, number - 20)
        write_slice(tmp_path / f"{number}.dcm", pixels_of(number), ImagePositionPatient=[0, 0, z])
    (case,) = index_source(tmp_path).cases
    with pytest.raises(ImageError, match=r"up to 4\.[0-9] mm from where even spacing"):
        read_image(case.images[0])


def test_slices_that_share_one_uid_are_no_copies(tmp_path: Path) -> None:
    write_series(tmp_path, SOPInstanceUID="1.2.3.4.5")
    (case,) = index_source(tmp_path).cases
    assert len(case.images[0].files) == 6


@pytest.mark.parametrize(
    "tags",
    [
        {"PixelRepresentation": 0, "BitsStored": 12, "HighBit": 11},
        {"PixelRepresentation": 1},
        {"PixelRepresentation": 0, "RescaleSlope": 2.5, "RescaleIntercept": -100},
    ],
)
def test_images_to_be_shown_inverted_keep_their_values(tmp_path: Path, tags: dict[str, Any]) -> None:
    for name in ("MONOCHROME1", "MONOCHROME2"):
        write_series(tmp_path / name, 3, PhotometricInterpretation=name, **tags)
    (first,), (second,) = (index_source(tmp_path / f"MONOCHROME{n}").cases for n in (1, 2))
    one, other = (read_image(case.images[0]).array for case in (first, second))
    np.testing.assert_array_equal(one, other)
    expected = pixels_of(1).T * tags.get("RescaleSlope", 1.0) + tags.get("RescaleIntercept", -1024)
    np.testing.assert_array_equal(one[:, :, 1], expected)


def test_real_series(shared_data: Path) -> None:
    index = index_source(shared_data / "ct_dicom")
    volume = read_image(index.cases[0].images[0])
    assert volume.array.shape == (512, 512, 20) and np.allclose(volume.spacing, (0.9765625, 0.9765625, 2))
    assert volume.array.min() == -1024 and check_index(index, workers=0).rows == ()


def test_a_list_of_series_knows_their_patients(tmp_path: Path) -> None:
    for name, patient in (("a", "P1"), ("b", "P1"), ("c", "P2"), ("d", "P2")):
        series = f"1.2.{ord(name)}"
        write_series(tmp_path / name, SeriesInstanceUID=series, PatientID=patient, BodyPartExamined="CHEST")
    (tmp_path / "list.csv").write_text("image,patient,body_part\na,,\nb,,\nc,,\nd,X,abdomen\n")
    walked = {case.images[0].path: case for case in index_source(tmp_path).cases}
    listed = index_source(tmp_path / "list.csv").cases
    assert [c.patient for c in listed[:3]] == [walked[c.images[0].path].patient for c in listed[:3]]
    assert listed[0].patient == listed[1].patient != listed[2].patient
    assert [c.body_part for c in listed] == ["chest"] * 3 + ["abdomen"] and listed[3].patient == "X"
