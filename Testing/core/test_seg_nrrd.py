"""Segmentations with names and colours: .seg.nrrd as 3D Slicer reads it, and DICOM SEG beside its series."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from VoCoCore.data import dicom_seg
from VoCoCore.data.cases import Source
from VoCoCore.data.dicom_seg import write_dicom_seg
from VoCoCore.data.images import read_case, read_image
from VoCoCore.data.segmentations import write_segmentation
from VoCoCore.data.sources import index_source
from VoCoCore.errors import DataError, EnvironmentFault

SEGMENTS = {"liver": (3, (255, 0, 51)), "Milz, größer als üblich": (7, (0, 128, 255)), "none": (9, (1, 2, 3))}
AFFINE = np.array([[0.0, -1.5, 0, 5], [-1.0, 0, 0, 3], [0, 0, 2.5, 1], [0, 0, 0, 1]])


def labels_of(shape: tuple[int, ...] = (9, 7, 5)) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[1:4, 2:5, 1:3] = 3
    labels[6:8, 0:2, 4] = 7
    return labels


def parts_of(path: Path) -> tuple[dict[str, str], dict[str, str], bytes]:
    """The fields, the free keys and the unpacked voxels of an NRRD file, read by hand."""
    head, _, body = path.read_bytes().partition(b"\n\n")
    lines = [line for line in head.decode().splitlines()[1:] if not line.startswith("#")]
    keys = dict(line.split(":=", 1) for line in lines if ":=" in line)
    fields = dict(line.split(": ", 1) for line in lines if ":=" not in line)
    return fields, keys, gzip.decompress(body)


def test_the_header_says_what_slicer_looks_for(tmp_path):
    write_segmentation(tmp_path / "a.seg.nrrd", labels_of(), AFFINE, SEGMENTS)
    fields, keys, voxels = parts_of(tmp_path / "a.seg.nrrd")
    assert fields["space"] == "left-posterior-superior" and fields["sizes"] == "9 7 5"
    assert fields["type"] == "unsigned char" and fields["encoding"] == "gzip"
    vectors = [np.fromstring(part.strip("()"), sep=",") for part in fields["space directions"].split(" ")]
    flip = np.diag([-1.0, -1.0, 1.0])  # LPS of RAS
    np.testing.assert_allclose(np.array(vectors).T, flip @ AFFINE[:3, :3])
    origin = np.fromstring(fields["space origin"].strip("()"), sep=",")
    np.testing.assert_allclose(origin, flip @ AFFINE[:3, 3])
    np.testing.assert_array_equal(np.frombuffer(voxels, np.uint8).reshape((9, 7, 5), order="F"), labels_of())
    for name in ("Segmentation_MasterRepresentation", "Segmentation_SourceRepresentation"):
        assert keys[name] == "Binary labelmap"
    assert keys["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    for number, (name, (value, colour)) in enumerate(SEGMENTS.items()):
        assert keys[f"Segment{number}_Name"] == name and keys[f"Segment{number}_LabelValue"] == str(value)
        found = [float(part) for part in keys[f"Segment{number}_Color"].split()]
        np.testing.assert_allclose(found, np.array(colour) / 255, atol=1e-5)
        assert keys[f"Segment{number}_Layer"] == "0" and keys[f"Segment{number}_Extent"] == "0 8 0 6 0 4"
    assert len({keys[f"Segment{number}_ID"] for number in range(3)}) == 3 and "Segment3_ID" not in keys


@settings(deadline=None, max_examples=25)
@given(
    order=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    angle=st.floats(0, 3),
)
def test_it_lies_where_the_image_lies(tmp_path_factory, order, signs, angle):
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turned @ (np.eye(3)[:, order] * signs * [1.0, 2.0, 3.5])
    affine[:3, 3] = [7, -11, 13]
    path = tmp_path_factory.mktemp("seg") / "a.seg.nrrd"
    write_segmentation(path, labels_of(), affine, SEGMENTS)
    found = read_image(path)
    np.testing.assert_array_equal(found.array, labels_of())
    np.testing.assert_allclose(found.affine, affine, atol=1e-6)


def test_names_cannot_break_the_header_and_many_labels_fit(tmp_path):
    labels = labels_of().astype(np.uint16) * 100
    segments = {"two\nlines:=x": (300, (9, 9, 9)), "other": (700, (8, 8, 8))}
    write_segmentation(tmp_path / "a.seg.nrrd", labels, np.eye(4), segments)
    fields, keys, _ = parts_of(tmp_path / "a.seg.nrrd")
    assert keys["Segment0_Name"] == "two lines:=x" and keys["Segment1_LabelValue"] == "700"
    assert fields["type"] == "unsigned short"
    np.testing.assert_array_equal(read_image(tmp_path / "a.seg.nrrd").array, labels)


def test_a_failed_write_leaves_nothing(tmp_path):
    sheared = np.eye(4)
    sheared[0, 1] = 0.5
    with pytest.raises(DataError, match="sheared"):
        write_segmentation(tmp_path / "a.seg.nrrd", labels_of(), sheared, SEGMENTS)
    with pytest.raises(EnvironmentFault):
        write_segmentation(tmp_path / "gone" / "a.seg.nrrd", labels_of(), np.eye(4), SEGMENTS)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def series(shared_data, tmp_path) -> Source:
    """The real series, with the UIDs that were emptied with the patient's name."""
    folder = tmp_path / "series"
    folder.mkdir()
    for path in sorted(p for p in (shared_data / "ct_dicom").rglob("*") if p.is_file()):
        if not pydicom.misc.is_dicom(path):
            continue
        one = pydicom.dcmread(path)
        one.StudyInstanceUID, one.SeriesInstanceUID, one.PatientID = "1.2.3", "1.2.3.4", "P1"
        one.save_as(folder / path.name)
    return index_source(folder).cases[0].images[0]


@pytest.mark.skipif(find_spec("highdicom") is None, reason="the package highdicom is not installed")
def test_dicom_seg_lies_on_its_series(series, tmp_path):
    import highdicom

    array, affine = read_case(index_source(series.path).cases[0])
    labels = np.zeros(array.shape[1:], np.uint8)
    labels[100:200, 50:90, 3:9], labels[10:20, 300:310, 15] = 3, 7
    write_dicom_seg(tmp_path / "a.dcm", labels, series, SEGMENTS)
    seg = highdicom.seg.segread(tmp_path / "a.dcm")
    assert [one.SegmentLabel for one in seg.SegmentSequence] == list(SEGMENTS)
    assert seg.PatientID == "P1" and seg.StudyInstanceUID == "1.2.3" and seg.Modality == "SEG"
    volume = seg.get_volume(combine_segments=True)
    to_index = np.linalg.inv(affine) @ np.diag([-1, -1, 1, 1]) @ volume.affine
    for number, value in ((1, 3), (2, 7)):
        places = np.argwhere(volume.array == number)
        indices = np.rint(places @ to_index[:3, :3].T + to_index[:3, 3]).astype(int)
        expected = np.argwhere(labels == value)
        assert {tuple(each) for each in indices} == {tuple(each) for each in expected}


@pytest.mark.skipif(find_spec("highdicom") is None, reason="the package highdicom is not installed")
def test_a_series_without_uids_cannot_be_referred_to(shared_data, tmp_path):
    source = index_source(shared_data / "ct_dicom").cases[0].images[0]
    with pytest.raises(DataError, match="StudyInstanceUID"):
        write_dicom_seg(tmp_path / "a.dcm", np.ones((512, 512, 20), np.uint8), source, SEGMENTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(find_spec("highdicom") is None, reason="the package highdicom is not installed")
def test_dicom_seg_of_a_series_from_which_tags_were_taken_out(series, tmp_path):
    import highdicom

    taken = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID")
    for path in series.paths:
        one = pydicom.dcmread(path)
        for name in (*taken, "StudyDate", "StudyTime", "ReferringPhysicianName", "SliceThickness"):
            one.pop(name, None)
        one.save_as(path)
    labels = np.zeros((512, 512, 20), np.uint8)
    labels[100:200, 50:90, 3:9] = 3
    write_dicom_seg(tmp_path / "a.dcm", labels, series, SEGMENTS)
    seg = highdicom.seg.segread(tmp_path / "a.dcm")
    assert seg.PatientID == "" and seg.get_volume(combine_segments=True).array.sum() == (labels == 3).sum()
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SliceThickness) == pytest.approx(2.0)


def test_dicom_seg_needs_a_series_and_its_package(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no DICOM series"):
        write_dicom_seg(tmp_path / "a.dcm", labels_of(), Source("image.nii.gz"), SEGMENTS)
    monkeypatch.setattr(dicom_seg, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="highdicom, which is not installed") as met:
        dicom_seg.check_available()
    assert "pip install highdicom" in met.value.hint
