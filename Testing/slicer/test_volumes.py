"""What the table of volumes says of a scene: size, spacing, kind, faults; and which volumes belong together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import made_scene
import numpy as np
import pytest
import slicer
from made_scene import GEOMETRIES, noise, segmentation, transform, turn, volume, warp, world

from VoCoCore.errors import DataError, SettingsError
from VoCoSlicerLib import volumes
from VoCoSlicerLib.logic_cases import casesOf
from VoCoSlicerLib.volume_table import VolumeTable
from VoCoSlicerLib.volumes import describeVolume, groupChannels, listVolumes, rasMatrix, suggestSegmentation


def ct(shape=(12, 40, 44), seed=0):
    return noise(shape, seed)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_row_says_what_the_node_is(scene, geometry):
    node = volume(scene, ct(), "chest", geometry)
    row = describeVolume(node)
    assert (row.nodeId, row.name, row.size) == (node.GetID(), "chest", (44, 40, 12))
    assert np.allclose(row.spacing, GEOMETRIES[geometry][1])
    assert row.modality == "CT" and row.usable and row.segmentationId == ""
    if geometry not in ("sagittal", "left-handed"):  # there the short axis runs along R
        assert row.warnings == ()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_nested_transforms_are_hardened_into_the_matrix(scene, geometry):
    node = volume(scene, ct(), geometry=geometry)
    outer = transform(scene, turn(31, (5, -7, 90)))
    inner = transform(scene, turn(-12, (100, 0, 3), 1.5), node)
    inner.SetAndObserveTransformNodeID(outer.GetID())
    matrix = rasMatrix(node)
    for ijk in [(0, 0, 0), (43, 0, 0), (0, 39, 11), (3.5, 2, 7)]:
        assert np.allclose((matrix @ [*ijk, 1])[:3], world(node, ijk), atol=1e-9)
    assert np.allclose(describeVolume(node).spacing, np.multiply(GEOMETRIES[geometry][1], 1.5))


def test_a_warped_volume_is_refused_with_the_reason(scene):
    node = volume(scene, ct(), "chest")
    warp(scene, node, "breathing")
    row = describeVolume(node)
    assert not row.usable and "not linear (breathing)" in row.warnings[0]
    with pytest.raises(DataError, match="chest lies under a transform that is not linear") as raised:
        rasMatrix(node)
    assert "harden" in raised.value.hint


def test_kinds_of_images(scene):
    mr = volume(scene, np.random.default_rng(1).gamma(2, 90, (12, 40, 44)).astype(np.float32))
    assert describeVolume(mr).modality == "MR"
    flat = describeVolume(volume(scene, np.full((12, 40, 44), 7, np.uint8)))
    assert flat.modality == "" and "same value, 7" in flat.warnings[0]
    broken = np.ones((12, 40, 44), np.float32)
    broken[::2] = np.nan
    assert "not numbers" in describeVolume(volume(scene, broken)).warnings[0]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (noise((1, 40, 44)), "not 3D: 44 x 40 x 1"),
        (np.zeros((9, 20, 24, 3), np.uint8), "3 values"),
        (None, "no image"),
    ],
)
def test_what_cannot_be_used(scene, array, words):
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "odd")
    if array is not None:
        node.SetAndObserveImageData(made_scene.imageOf(array))
    row = describeVolume(node)
    assert not row.usable and words in row.warnings[0]


def test_a_frame_of_a_time_series_is_no_case(scene):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "beating")
    for number in range(3):
        frame = volume(scene, ct(seed=number))
        sequence.SetDataNodeAtValue(frame, str(number))
        scene.RemoveNode(frame)
    logic = slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(scene)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    logic.UpdateAllProxyNodes()
    rows = [row for row in listVolumes(scene) if "beating" in row.name]
    assert len(rows) == 1 and not rows[0].usable and "time series" in rows[0].warnings[0]


def test_warnings_of_geometry(scene):
    small = describeVolume(volume(scene, ct((12, 15, 44))))
    assert small.usable and "44 x 15 x 12" in small.warnings[0] and "16 x 16 x 4" in small.warnings[0]
    sheared = volume(scene, ct())
    matrix = np.eye(4)
    matrix[1, 2] = np.tan(np.radians(10))
    transform(scene, matrix, sheared)
    assert "10.0 degrees off right angles" in describeVolume(sheared).warnings[0]
    huge = volume(scene, ct())
    huge.SetSpacing(1, 1, 50)
    assert "1 x 1 x 50 mm" in describeVolume(huge).warnings[0]


def test_voxels_may_be_as_small_as_a_microscopes(scene):
    tiny = volume(scene, ct())
    tiny.SetSpacing(3e-4, 3e-4, 3e-4)
    assert describeVolume(tiny).usable
    tiny.SetSpacing(0, 1, 1)
    assert not describeVolume(tiny).usable and "no volume" in describeVolume(tiny).warnings[0]


def test_the_list_leaves_out_what_is_no_input(scene):
    volume(scene, ct(), "shown")
    volume(scene, ct(), "hidden").SetHideFromEditors(True)
    volume(scene, ct(), "result").SetAttribute("VoCo.result", "probability")
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    assert [row.name for row in listVolumes(scene)] == ["shown"]


def test_a_segmentation_is_found_by_reference_then_by_name(scene):
    image, other = volume(scene, ct(), "CT 1.nii.gz"), volume(scene, ct(), "CT 2")
    assert suggestSegmentation(scene, image) is None
    elsewhere = segmentation(scene, other, {}, "something")
    named = segmentation(scene, other, {}, "ct 1 Segmentation")
    assert suggestSegmentation(scene, image) is named
    drawn = segmentation(scene, image, {}, "drawn")
    assert suggestSegmentation(scene, image) is drawn
    assert suggestSegmentation(scene, other) is elsewhere
    assert describeVolume(image).segmentationId == drawn.GetID()


def test_volumes_of_one_name_get_no_segmentation_of_each_other(scene):
    first, second = volume(scene, ct(), "CT"), volume(scene, ct(), "CT.nii.gz")
    drawn = segmentation(scene, first, {}, "CT segmentation")
    assert suggestSegmentation(scene, first) is drawn and suggestSegmentation(scene, second) is None
    with pytest.raises(DataError, match="no segmentation belongs to CT") as raised:
        casesOf(scene, [first, second], labelled=True)
    assert "no other" in raised.value.hint
    loose = segmentation(scene, first, {}, "CT")
    loose.SetNodeReferenceID(loose.GetReferenceImageGeometryReferenceRole(), None)
    assert suggestSegmentation(scene, second) is None  # it may be of either
    scene.RemoveNode(first)
    assert suggestSegmentation(scene, second) is drawn
    table = VolumeTable(scene)
    table.refresh()
    assert [row.segmentationId for row in table.rows] == [drawn.GetID()]


def test_a_name_that_several_volumes_have_names_none_of_them(scene):
    """Else the second patient's labels would be taken for the first one's volume."""
    first, second = volume(scene, ct(), "CT"), volume(scene, ct(seed=1), "CT")
    drawn = [segmentation(scene, node, {}, name) for node, name in ((first, "CT"), (second, "other"))]
    with pytest.raises(SettingsError, match="2 nodes of the scene are called 'CT'") as raised:
        casesOf(scene, ["CT", "CT"], ["CT", "other"])
    assert "IDs" in raised.value.hint
    scene.RemoveNode(second)
    (case,) = casesOf(scene, ["CT"], ["CT"])
    assert (case.volumeIds, case.segmentationId) == ((first.GetID(),), drawn[0].GetID())


def test_the_table_follows_a_segmentation_that_goes_to_another_volume(scene):
    first, second = volume(scene, ct(), "first"), volume(scene, ct(), "second")
    drawn = segmentation(scene, first, {}, "Segmentation")
    table = VolumeTable(scene)
    while table.refresh():
        pass
    assert [row.segmentationId for row in table.rows] == [drawn.GetID(), ""]
    drawn.SetReferenceImageGeometryParameterFromVolumeNode(
        second
    )  # as the Segment Editor's source volume does
    assert table.refresh()
    assert [row.segmentationId for row in table.rows] == ["", drawn.GetID()]


def test_the_table_follows_a_transform_of_a_transform(scene):
    node = volume(scene, ct(), "moved")
    inner, outer = transform(scene, np.eye(4), node), transform(scene, np.eye(4))
    inner.SetAndObserveTransformNodeID(outer.GetID())
    table = VolumeTable(scene)
    while table.refresh():
        pass
    assert np.allclose(table.rows[0].spacing, 1)
    outer.SetMatrixTransformToParent(volumes.toVtk(np.diag([2.0, 3.0, 4.0, 1.0])))
    assert table.refresh() and np.allclose(table.rows[0].spacing, (2, 3, 4))
    inner.SetAndObserveTransformNodeID(None)
    warp(scene, inner)
    assert table.refresh() and not table.rows[0].usable


def test_a_hidden_volumes_segmentation_is_not_another_ones_of_its_name(scene):
    hidden, shown = volume(scene, ct(), "CT"), volume(scene, ct(), "CT")
    hidden.SetHideFromEditors(True)
    segmentation(scene, hidden, {}, "CT_seg")
    assert suggestSegmentation(scene, shown) is None


def test_many_volumes_find_their_segmentations_with_one_look_at_each_name(scene, monkeypatch):
    images = [volume(scene, ct(), f"case {number}") for number in range(20)]
    other = volume(scene, ct(), "other")
    drawn = [segmentation(scene, other, {}, f"case {number}_seg") for number in range(20)]
    looks, plain = [], volumes.plainName
    monkeypatch.setattr(volumes, "plainName", lambda name: looks.append(name) or plain(name))
    table = VolumeTable(scene)
    table.refresh()
    assert [row.segmentationId for row in table.rows[:-1]] == [node.GetID() for node in drawn]
    assert [row.nodeId for row in table.rows[:-1]] == [node.GetID() for node in images]
    assert len(looks) <= 4 * len(images)


def test_a_segmentation_of_any_channel_is_that_of_the_case(scene):
    """Tumours are drawn on the FLAIR, which rarely is the first channel."""
    channels = [volume(scene, ct(), f"p_{name}") for name in ("t1", "flair")]
    drawn = segmentation(scene, channels[1], {}, "Segmentation")
    (case,) = casesOf(scene, [channels], labelled=True)
    assert case.segmentationId == drawn.GetID()


def test_channels_of_one_examination_are_grouped(scene):
    names = ["p1_flair", "p1_t1", "other", "p1_t1ce", "p1_t2", "p2_t1", "p2_T1c", "p1_t2"]
    nodes = {name + str(number): volume(scene, ct(), name) for number, name in enumerate(names)}
    smaller = volume(scene, ct((12, 20, 44)), "p3_t1"), volume(scene, ct(), "p3_t2")
    byId = {node.GetID(): name for name, node in nodes.items()} | {node.GetID(): "p3" for node in smaller}
    groups = [[byId[identity] for identity in group] for group in groupChannels(listVolumes(scene))]
    assert groups == [
        ["p1_t11", "p1_t1ce3", "p1_t24", "p1_flair0"],
        ["other2"],
        ["p2_t15", "p2_T1c6"],
        ["p1_t27"],
        ["p3"],
        ["p3"],
    ]


def test_slicers_process_needs_numpy_alone():
    code = (
        "import sys, slicer\nbefore = set(sys.modules)\n"
        "import VoCoSlicerLib.export, VoCoSlicerLib.results_load, VoCoSlicerLib.volumes\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print('NEW', *sorted(new - {'vtk', 'vtkmodules', 'numpy'}))"
    )
    folder = Path(made_scene.__file__).resolve().parents[2] / "VoCoSlicer"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.rpartition("NEW")[2].split() == ["VoCoCore", "VoCoSlicerLib"]
