"""Which volumes are passed to a job as the file they were read from, and which are written anew."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import slicer
from made_scene import corners, noise, transform, turn, world
from test_export_nodes import exported, files
from test_nrrd import affineOf

from VoCoCore.data.images import read_image, write_image
from VoCoCore.errors import EnvironmentFault
from VoCoSlicerLib import export_writer


def read(scene, path):
    logic = slicer.vtkSlicerVolumesLogic()
    logic.SetMRMLScene(scene)
    return logic.AddArchetypeVolume(str(path), Path(path).name.split(".")[0])


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".mha"])
@pytest.mark.parametrize("geometry", ["lps", "oblique", "sagittal"])
def test_an_unchanged_file_is_passed_by_path(scene, tmp_path, ending, geometry):
    path = tmp_path / f"scan{ending}"
    write_image(path, noise().T, affineOf(geometry))
    node = read(scene, path)
    node.SetName("renamed")
    [case] = exported(scene, [node], tmp_path / "out").cases
    assert case.images[0].path == str(path) and not files(tmp_path / "out") and case.id == "renamed"
    found = read_image(case.images[0])
    for ijk, ras in corners(node):
        assert np.allclose((found.affine @ [*ijk, 1])[:3], ras, atol=1e-3)


def test_a_file_that_slicer_reads_in_another_order_is_exported(scene, tmp_path):
    write_image(tmp_path / "scan.nrrd", noise().T, affineOf("left-handed"))
    node = read(scene, tmp_path / "scan.nrrd")  # Slicer turns its slices round, so that axes are right-handed
    [case] = exported(scene, [node], tmp_path / "out").cases
    assert len(files(tmp_path / "out")) == 1
    assert np.allclose((read_image(case.images[0]).affine @ [3, 4, 5, 1])[:3], world(node, (3, 4, 5)))


@pytest.mark.parametrize("change", ["voxels", "spacing", "transform", "gone", "replaced", "series"])
def test_anything_else_is_exported(scene, tmp_path, change):
    path = tmp_path / "scan.nrrd"
    write_image(path, noise().T, np.eye(4))
    node = read(scene, path)
    if change == "voxels":
        slicer.util.arrayFromVolume(node)[2, 3, 4] = 77
        slicer.util.arrayFromVolumeModified(node)
    elif change == "spacing":
        node.SetSpacing(1, 1, 2)
    elif change == "transform":
        transform(scene, turn(10), node)
    elif change == "gone":
        path.unlink()
    elif change == "replaced":
        write_image(path, noise().T, np.diag([1, 1, 1.5, 1]))
    else:
        node.GetStorageNode().AddFileName(str(tmp_path / "other.nrrd"))
    [case] = exported(scene, [node], tmp_path / "out").cases
    assert [Path(case.images[0].path).name] == files(tmp_path / "out")
    found = read_image(case.images[0])
    assert np.array_equal(found.array.T, slicer.util.arrayFromVolume(node))
    assert np.allclose((found.affine @ [5, 6, 7, 1])[:3], world(node, (5, 6, 7)), atol=1e-6)


def test_no_room_for_a_volume_that_differs_from_its_file_is_said_before_it_is_written(
    scene, tmp_path, monkeypatch
):
    write_image(tmp_path / "scan.nrrd", noise().T, np.eye(4))
    node = read(scene, tmp_path / "scan.nrrd")
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr(export_writer.shutil, "disk_usage", lambda path: usage)
    exported(scene, [node], tmp_path / "out")  # it is the file's
    write_image(tmp_path / "scan.nrrd", noise(seed=9).T, np.eye(4))  # another program's doing
    with pytest.raises(EnvironmentFault, match=r"0\.0 GB left"):
        exported(scene, [node], tmp_path / "out")
    assert not files(tmp_path / "out")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_file_that_was_written_over_since_it_was_loaded_is_exported(scene, tmp_path, ending):
    path = tmp_path / f"scan{ending}"
    write_image(path, noise().T, np.eye(4))
    node = read(scene, path)
    for _ in range(2):
        [case] = exported(scene, [node], tmp_path / "out").cases
        assert case.images[0].path == str(path)
    other = noise()
    other[-1, -1, -1] += 1
    write_image(path, other.T, np.eye(4))
    [case] = exported(scene, [node], tmp_path / "out").cases
    assert [Path(case.images[0].path).name] == files(tmp_path / "out")
    assert np.array_equal(read_image(case.images[0]).array.T, noise())
    write_image(path, noise().T, np.eye(4))
    [case] = exported(scene, [node], tmp_path / "out").cases
    assert case.images[0].path == str(path)


@pytest.mark.parametrize("scale", [(0.5, 2.0), (0.0123, -1024.0), (1.0, -1024.0)])
def test_a_scaled_file_is_compared_as_slicer_shows_it(scene, tmp_path, scale):
    path = tmp_path / "scan.nii.gz"
    raw = bytearray(nibabel.Nifti1Image(noise().T, np.eye(4)).to_bytes())
    struct.pack_into("<2f", raw, 112, *scale)
    path.write_bytes(gzip.compress(raw))
    node = read(scene, path)
    shown = slicer.util.arrayFromVolume(node)
    assert np.allclose(shown, noise() * scale[0] + scale[1], atol=1e-3)
    [case] = exported(scene, [node], tmp_path / "out").cases
    assert case.images[0].path == str(path) and not files(tmp_path / "out")
    struct.pack_into("<2f", raw, 112, scale[0], scale[1] + 1)
    path.write_bytes(gzip.compress(raw))
    [case] = exported(scene, [node], tmp_path / "out").cases
    assert np.array_equal(read_image(case.images[0]).array.T, shown)
