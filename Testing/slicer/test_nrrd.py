"""Files written and read with numpy alone, held against SimpleITK, nibabel and the trainer's own reader."""

from __future__ import annotations

import errno
import gzip
import os

import nibabel
import numpy as np
import pytest
import SimpleITK
from made_scene import GEOMETRIES, noise

from VoCoCore.data.images import read_image, write_image
from VoCoCore.data.segmentations import write_segmentation
from VoCoCore.errors import DataError, EnvironmentFault, StopRequested
from VoCoSlicerLib.image_files import fileImage, holdsVolume
from VoCoSlicerLib.nifti import readNifti, readNiftiHeader, readNiftiVolumes
from VoCoSlicerLib.nrrd import readNrrd, readNrrdHeader, writeNrrd


def affineOf(geometry):
    directions, spacing, origin = GEOMETRIES[geometry]
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions) * spacing
    affine[:3, 3] = origin
    return affine


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("compress", [False, True])
def test_others_read_what_is_written(tmp_path, geometry, compress):
    array, affine, path = noise(), affineOf(geometry), tmp_path / "a.nrrd"
    writeNrrd(path, array, affine, compress=compress)
    image = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), array)
    for ijk in [(0, 0, 0), (23, 0, 0), (5, 19, 8)]:
        lps = np.array(image.TransformIndexToPhysicalPoint(ijk))
        assert np.allclose(lps * [-1, -1, 1], (affine @ [*ijk, 1])[:3], atol=1e-9)
    ours = read_image(path)
    assert np.array_equal(ours.array, array.T) and np.allclose(ours.affine, affine, atol=1e-9)
    again, header = readNrrd(path)
    assert np.array_equal(again, array) and np.allclose(header.affine, affine, atol=1e-12)


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64", ">i2"]
)
def test_all_kinds_of_values(tmp_path, dtype):
    array = noise().clip(0, 120).astype(dtype)
    writeNrrd(tmp_path / "a.nrrd", array, np.eye(4))
    found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "a.nrrd")))
    assert np.array_equal(found, array) and found.dtype == array.dtype.newbyteorder("=")
    again, _ = readNrrd(tmp_path / "a.nrrd")
    assert np.array_equal(again, array) and again.dtype == found.dtype


def test_values_without_a_name_are_refused(tmp_path):
    with pytest.raises(DataError, match="bool"):
        writeNrrd(tmp_path / "a.nrrd", np.zeros((2, 2, 2), bool), np.eye(4))
    assert not list(tmp_path.iterdir())


def test_a_view_is_written_as_it_is_seen(tmp_path):
    array = noise()[::2, ::-1, 3:]
    writeNrrd(tmp_path / "a.nrrd", array, np.eye(4))
    assert np.array_equal(readNrrd(tmp_path / "a.nrrd")[0], array)


def test_what_is_stopped_leaves_nothing_and_keeps_the_old(tmp_path):
    path = tmp_path / "a.nrrd"
    writeNrrd(path, noise(seed=1), np.eye(4))

    def stop(written):
        raise StopRequested("enough")

    with pytest.raises(StopRequested):
        writeNrrd(path, noise(seed=2), np.eye(4), tick=stop)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.nrrd"]
    assert np.array_equal(readNrrd(path)[0], noise(seed=1))


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    def full(written):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(EnvironmentFault, match="the disk is full") as raised:
        writeNrrd(tmp_path / "a.nrrd", noise(), np.eye(4), tick=full)
    assert raised.value.hint and not list(tmp_path.iterdir())


def test_a_real_device_without_room(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    import VoCoSlicerLib.nrrd as module

    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        module._write(file, b"x" * 100)


def test_a_prediction_is_read_with_its_keys(tmp_path):
    labels = (np.random.default_rng(0).random((24, 20, 9)) > 0.5).astype(np.uint8)
    affine = affineOf("oblique")
    write_segmentation(tmp_path / "a.seg.nrrd", labels, affine, {"liver": (1, (255, 0, 0))})
    array, header = readNrrd(tmp_path / "a.seg.nrrd")
    assert np.array_equal(array, labels.T) and np.allclose(header.affine, affine)
    assert header.keys["Segment0_Name"] == "liver"


@pytest.mark.parametrize("content", [b"", b"NRRD0004\n", b"NRRD0004\ndimension: 2\n\n", b"\x00" * 400])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "bad.nrrd"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.nrrd"):
        readNrrdHeader(path)
    assert not holdsVolume(path, np.zeros((2, 2, 2)), np.eye(4))


def test_files_that_end_early_are_said(tmp_path):
    for compress in (False, True):
        path = tmp_path / f"{compress}.nrrd"
        writeNrrd(path, noise(), np.eye(4), compress=compress)
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(DataError, match=r"ends early|damaged"):
            readNrrd(path)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_the_grid_of_a_file_is_the_trainers(tmp_path, geometry, ending):
    path = tmp_path / f"a{ending}"
    write_image(path, noise().T, affineOf(geometry))
    found, theirs = fileImage(path), read_image(path)
    assert found.shape == theirs.array.shape and np.allclose(found.affine, theirs.affine, atol=1e-4)
    assert holdsVolume(path, noise(), affineOf(geometry))
    assert not holdsVolume(path, noise().T, affineOf(geometry))
    moved = affineOf(geometry)
    moved[0, 3] += 0.01
    assert not holdsVolume(path, noise(), moved)


def test_values_of_files_are_compared_however_they_are_stored(tmp_path):
    array, affine, other = noise().astype(np.float32), np.eye(4), noise().astype(np.float32)
    array[2, 3, 4] = other[2, 3, 4] = np.nan
    other[-1, -1, -1] += 1
    big = nibabel.Nifti1Image(array.T.astype(">f4"), affine, nibabel.Nifti1Header(endianness=">"))
    nibabel.save(big, tmp_path / "big.nii")
    raw = (tmp_path / "big.nii").read_bytes()
    parts = [gzip.compress(raw[start : start + 3001]) for start in range(0, len(raw), 3001)]
    (tmp_path / "parts.nii.gz").write_bytes(b"".join(parts))
    writeNrrd(tmp_path / "packed.nrrd", array, affine, compress=True)
    writeNrrd(tmp_path / "whole.nrrd", array, affine)
    for path in tmp_path.iterdir():
        done = []
        assert holdsVolume(path, array, affine, done.append) and sum(done) == array.nbytes, path
        assert not holdsVolume(path, other, affine), path
        path.write_bytes(path.read_bytes()[:-500])
        assert not holdsVolume(path, array, affine), path
    text = (tmp_path / "whole.nrrd").read_bytes().replace(b"encoding: raw", b"encoding: hex")
    (tmp_path / "whole.nrrd").write_bytes(text)
    assert not holdsVolume(tmp_path / "whole.nrrd", array, affine)


@pytest.mark.parametrize("factor", [1, -1])
def test_nifti_with_a_quaternion_alone(tmp_path, factor):
    affine = affineOf("oblique") @ np.diag([1, 1, factor, 1])
    image = nibabel.Nifti1Image(noise().T, affine)
    image.set_sform(None, code=0)
    image.set_qform(affine, code=1)
    nibabel.save(image, tmp_path / "q.nii")
    assert np.allclose(readNiftiHeader(tmp_path / "q.nii").affine, affine, atol=1e-4)


def test_nifti_voxels_and_their_scale(tmp_path):
    image = nibabel.Nifti1Image(np.stack([noise(seed=n).T for n in range(3)], axis=3), np.eye(4))
    image.header.set_slope_inter(0.5, 2)
    nibabel.save(image, tmp_path / "f.nii.gz")
    stored = nibabel.load(tmp_path / "f.nii.gz").dataobj
    array, header = readNifti(tmp_path / "f.nii.gz", 1)
    assert np.array_equal(array.T * header.slope + header.inter, np.asarray(stored)[..., 1])
    both = [found.copy() for found, _ in readNiftiVolumes(tmp_path / "f.nii.gz", [0, 2])]
    assert np.array_equal(both[1].T * 0.5 + 2, np.asarray(stored)[..., 2]) and len(both) == 2
    with pytest.raises(DataError, match="no volume number 3"):
        readNifti(tmp_path / "f.nii.gz", 3)
    assert not holdsVolume(tmp_path / "f.nii.gz", noise() * 0.5 + 2, np.eye(4))  # of several volumes
