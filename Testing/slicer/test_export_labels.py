"""Segments as label maps on their volume's grid: any geometry, surfaces, overlaps, names and values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import slicer
import vtk
from made_scene import (
    GEOMETRIES,
    finish,
    imageOf,
    noise,
    segmentation,
    sphere,
    transform,
    turn,
    volume,
    warp,
    world,
    written,
)
from vtk.util.numpy_support import vtk_to_numpy

from VoCoCore.data.cases import Case, Index, Source, load_index, save_index
from VoCoCore.data.images import read_image
from VoCoCore.data.label_maps import read_label
from VoCoCore.data.sources import index_source
from VoCoCore.errors import DataError
from VoCoSlicerLib.export import CaseExport, SceneCase
from VoCoSlicerLib.segments import drawLabels, segmentNames, surfaceSlabs, takeSegments

SHAPE = (9, 20, 24)


def labelOf(scene, node, segments, folder, **facts):
    """(label (k, j, i) as the trainer reads it, name -> value, warnings)."""
    job = CaseExport(scene, [SceneCase((node.GetID(),), segments.GetID())], folder, **facts)
    job.start()
    state = finish(job)
    if state.error:
        raise state.error
    index = load_index(job.index)
    case, image = index.cases[0], read_image(index.cases[0].images[0])
    label = read_label(case, image.array.shape, image.affine, list(index.labels.values()))
    return label.T, index.labels, state.warnings


def box(k, j, i, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[slice(*k), slice(*j), slice(*i)] = True
    return mask


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_on_the_same_grid_every_voxel_is_kept(scene, tmp_path, geometry):
    node = volume(scene, noise(), geometry=geometry)
    masks = {"Liver": box((1, 4), (2, 9), (3, 20)), "Spleen": box((5, 8), (2, 9), (3, 20))}
    label, labels, warnings = labelOf(scene, node, segmentation(scene, node, masks), tmp_path)
    assert labels == {"background": 0, "Liver": 1, "Spleen": 2} and warnings == ()
    assert np.array_equal(label, 1 * masks["Liver"] + 2 * masks["Spleen"])


def test_as_slicers_own_export(scene, tmp_path):
    node = volume(scene, noise(), geometry="oblique")
    rng = np.random.default_rng(3)
    made = segmentation(scene, node, {f"s{n}": rng.random(SHAPE) > 0.7 for n in range(3)})
    made.GetSegmentation().CollapseBinaryLabelmaps(False)
    theirs = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "theirs")
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.ExportAllSegmentsToLabelmapNode(
        made, theirs, slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
    )
    label, _, warnings = labelOf(scene, node, made, tmp_path)
    assert np.array_equal(label, slicer.util.arrayFromVolume(theirs)) and len(warnings) == 3


def lookedUp(node, made, mask):
    """The mask of a one-segment segmentation at each voxel of a volume, voxel by voxel through VTK."""
    image = made.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    matrix, out = vtk.vtkMatrix4x4(), np.zeros(SHAPE, bool)
    image.GetWorldToImageMatrix(matrix)
    toSegments = vtk.vtkMatrix4x4()
    if made.GetParentTransformNode() is not None:
        made.GetParentTransformNode().GetMatrixTransformFromWorld(toSegments)
    for k, j, i in itertools.product(*map(range, SHAPE)):
        place = matrix.MultiplyPoint(toSegments.MultiplyPoint([*world(node, (i, j, k)), 1]))
        x, y, z = (int(np.floor(value + 0.5)) for value in place[:3])
        k2, j2, i2 = mask.shape
        out[k, j, i] = 0 <= x < i2 and 0 <= y < j2 and 0 <= z < k2 and mask[z, y, x]
    return out


@pytest.mark.parametrize("geometry", ["plain", "left-handed", "oblique", "flipped"])
@pytest.mark.parametrize("moved", ["", "volume", "segments", "both"])
def test_segments_on_another_grid(scene, tmp_path, geometry, moved):
    """Drawn on a finer grid, turned another way, that covers only a part of the volume."""
    node = volume(scene, noise(), geometry=geometry)
    if moved in ("volume", "both"):
        inner = transform(scene, turn(4, (0.5, 0.2, 0)), node)
        inner.SetAndObserveTransformNodeID(transform(scene, turn(-9)).GetID())
    centre = world(node, (12.3, 9.9, 4.2))
    other = volume(scene, np.zeros((14, 15, 16), np.int16), "other", "sagittal")
    other.SetSpacing(0.71, 0.53, 0.97)
    other.SetOrigin(centre - (world(other, (8, 7, 7)) - world(other, (0, 0, 0))))
    mask = np.random.default_rng(5).random((14, 15, 16)) > 0.4
    made = segmentation(scene, other, {"noise": mask})
    if moved in ("segments", "both"):
        about = turn(20)
        about[:3, 3] = centre - about[:3, :3] @ centre + [0, 1, 0]
        transform(scene, about, made)
    expected = lookedUp(node, made, mask)
    label, _, _ = labelOf(scene, node, made, tmp_path)
    assert np.array_equal(label, expected)
    assert expected.any()


def test_a_part_of_the_grid_and_a_scaled_one(scene, tmp_path):
    """What Slicer keeps after cropping: an extent that does not begin at zero."""
    node = volume(scene, noise())
    made = segmentation(scene, node, {})
    image = imageOf(np.ones((3, 4, 5), np.uint8), slicer.vtkOrientedImageData)
    image.SetExtent(2, 6, 3, 6, 4, 6)
    made.AddSegmentFromBinaryLabelmapRepresentation(image, "part")
    assert np.array_equal(labelOf(scene, node, made, tmp_path)[0], box((4, 7), (3, 7), (2, 7)))
    coarse = imageOf(np.ones((2, 3, 4), np.uint8), slicer.vtkOrientedImageData)
    coarse.SetSpacing(2, 2, 2)
    coarse.SetOrigin(4.5, 6.5, 2.5)  # covers voxels 4 to 11, 6 to 11, 2 to 5
    made = segmentation(scene, node, {})
    made.AddSegmentFromBinaryLabelmapRepresentation(coarse, "coarse")
    assert np.array_equal(labelOf(scene, node, made, tmp_path)[0], box((2, 6), (6, 12), (4, 12)))


@pytest.mark.parametrize("geometry", ["plain", "left-handed", "oblique"])
@pytest.mark.parametrize("moved", [False, True])
def test_surfaces_become_the_voxels_inside(scene, tmp_path, geometry, moved):
    node = volume(scene, noise(), geometry=geometry)
    centre, radius = world(node, (12, 10, 4)), 4.0
    made = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "surface")
    made.SetSourceRepresentationToClosedSurface()
    made.AddSegmentFromClosedSurfaceRepresentation(sphere(centre, radius), "ball", [1, 0, 0])
    if moved:
        transform(scene, turn(0, (0.7, 0.3, 0.1)), made)
        centre = np.add(centre, [0.7, 0.3, 0.1])
    label, _, warnings = labelOf(scene, node, made, tmp_path)
    away = np.zeros(SHAPE)
    for k, j, i in itertools.product(*map(range, SHAPE)):
        away[k, j, i] = np.linalg.norm(world(node, (i, j, k)) - centre)
    # A ball of flat triangles is a little smaller than a round one.
    assert label[away < 0.98 * radius].all() and not label[away > radius].any()
    assert label.any() and warnings == ()


def test_two_surfaces_and_one_that_leaves_the_volume(scene):
    balls = [sphere((5, 5, 4), 3), sphere((23, 10, 4), 5), sphere((200, 0, 0), 5)]
    found = []
    for ball in balls:
        mask = np.zeros(SHAPE, bool)
        for where, inside in surfaceSlabs(ball, np.eye(4), SHAPE[::-1], np.eye(4)):
            mask[where] = inside
        found.append(mask)
    k, j, i = np.indices(SHAPE)
    assert np.array_equal(found[0], (i - 5) ** 2 + (j - 5) ** 2 + (k - 4) ** 2 < 9)
    assert found[1][4, 10, 23] and found[1].sum() < 0.75 * 4 / 3 * np.pi * 125 and not found[2].any()
    assert not found[1][(i - 23) ** 2 + (j - 10) ** 2 + (k - 4) ** 2 > 25].any()


def test_overlaps_are_said_and_the_later_segment_wins(scene, tmp_path):
    node = volume(scene, noise())
    masks = {"organ": box((1, 6), (2, 12), (3, 20)), "tumour": box((2, 5), (4, 8), (5, 9))}
    label, labels, warnings = labelOf(scene, node, segmentation(scene, node, masks), tmp_path)
    assert labels["tumour"] == 2 and (label[masks["tumour"]] == 2).all()
    assert (label == 1).sum() == masks["organ"].sum() - masks["tumour"].sum()
    assert warnings == ("image: segments organ and tumour overlap in 48 voxels, which become tumour",)
    # In the order of the values asked for, it is still the later segment that lies on top.
    label, labels, _ = labelOf(
        scene, node, segmentation(scene, node, masks), tmp_path, segmentNames=["tumour", "organ"]
    )
    assert labels == {"background": 0, "tumour": 1, "organ": 2} and (label[masks["tumour"]] == 1).all()


def test_empty_segments_and_those_outside_are_said(scene, tmp_path):
    node, far = volume(scene, noise()), volume(scene, noise(), "far")
    far.SetOrigin(500, 0, 0)
    made = segmentation(scene, node, {"empty": np.zeros(SHAPE, bool), "seen": box((1, 3), (1, 3), (1, 3))})
    away = segmentation(scene, far, {"away": box((1, 3), (1, 3), (1, 3))})
    made.GetSegmentation().CopySegmentFromSegmentation(
        away.GetSegmentation(), away.GetSegmentation().GetSegmentIdBySegmentName("away")
    )
    made.GetSegmentation().AddEmptySegment("new", "never drawn")
    label, labels, warnings = labelOf(scene, node, made, tmp_path)
    assert list(labels) == ["background", "empty", "seen", "away", "never drawn"]
    assert set(np.unique(label)) == {0, 2}
    assert warnings == tuple(
        f"image: segment {name} is empty, or lies outside the volume"
        for name in ("empty", "away", "never drawn")
    )


def test_segments_that_share_a_layer(scene, tmp_path):
    node = volume(scene, noise())
    masks = {f"s{n}": box((n, n + 1), (2, 12), (3, 20)) for n in range(5)}
    made = segmentation(scene, node, masks)
    made.GetSegmentation().CollapseBinaryLabelmaps(False)
    assert made.GetSegmentation().GetNumberOfLayers() == 1
    label, labels, _ = labelOf(scene, node, made, tmp_path, segmentNames=["s3", "S1 "])
    assert labels == {"background": 0, "s3": 1, "S1 ": 2}
    assert np.array_equal(label, 1 * masks["s3"] + 2 * masks["s1"])


def test_names_are_one_list_over_all_cases(scene, tmp_path):
    nodes = [volume(scene, noise(seed=n), f"v{n}") for n in range(3)]
    a, b = box((1, 3), (2, 9), (3, 20)), box((5, 8), (2, 9), (3, 20))
    first = segmentation(scene, nodes[0], {"Liver": a, "Spleen": b})
    second = segmentation(scene, nodes[1], {"spleen ": a, "Kidney": b})
    cases = [
        SceneCase((node.GetID(),), made.GetID() if made else None)
        for node, made in zip(nodes, (first, second, None), strict=True)
    ]
    index = load_index(CaseExport(scene, cases, tmp_path).run())
    assert index.labels == {"background": 0, "Liver": 1, "Spleen": 2, "Kidney": 3}
    assert np.array_equal(read_image(index.cases[1].label).array.T, 2 * a + 3 * b)
    assert index.cases[2].label is None
    assert segmentNames(second) == ["spleen", "Kidney"]


def test_segments_of_one_name_become_one_label_and_that_is_said(scene, tmp_path):
    node = volume(scene, noise())
    masks = {"Liver": box((1, 3), (2, 12), (3, 20)), "liver ": box((5, 7), (4, 8), (5, 9))}
    label, labels, warnings = labelOf(scene, node, segmentation(scene, node, masks), tmp_path)
    assert labels == {"background": 0, "Liver": 1} and np.array_equal(label, sum(masks.values()))
    assert warnings == ("image: 2 segments are called Liver, and become one label",)


def test_a_label_map_volume_serves_as_well(scene, tmp_path):
    node = volume(scene, noise(), geometry="oblique")
    labelmap = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    array = np.zeros(SHAPE, np.int16)
    array[1:3], array[5:7] = 3, 9
    labelmap.SetAndObserveImageData(imageOf(array))
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    labelmap.SetIJKToRASMatrix(matrix)
    label, labels, _ = labelOf(scene, node, labelmap, tmp_path)
    assert labels == {"background": 0, "label 3": 1, "label 9": 2}
    assert np.array_equal(label, (array == 3) + 2 * (array == 9))


def test_a_label_map_of_64_bits_is_looked_through_by_numpy_2_0_too(scene, tmp_path, monkeypatch):
    real = np.bincount

    def strict(values, *args, **words):
        if not np.can_cast(values.dtype, np.intp, "safe"):
            raise TypeError("Cannot cast array data from dtype('uint64') to dtype('int64')")
        return real(values, *args, **words)

    monkeypatch.setattr(np, "bincount", strict)
    node, labelmap = volume(scene, noise()), scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    array = np.zeros(SHAPE, np.uint64)
    array[1:3], array[5:7] = 3, 9
    labelmap.SetAndObserveImageData(imageOf(array))
    label, _, _ = labelOf(scene, node, labelmap, tmp_path)
    assert np.array_equal(label, (array == 3) + 2 * (array == 9))


def test_colours_without_a_name_name_no_label(scene, tmp_path):
    node, labelmap = volume(scene, noise()), scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    array = np.zeros(SHAPE, np.uint8)
    array[1], array[2], array[3], array[4] = 1, 2, 3, 4
    labelmap.SetAndObserveImageData(imageOf(array))
    labelmap.CreateDefaultDisplayNodes()
    colours = scene.AddNewNodeByClass("vtkMRMLColorTableNode", "colours")
    colours.SetTypeToUser()
    colours.SetNumberOfColors(4)
    colours.SetColor(1, "liver", 1, 0, 0)
    colours.SetColor(2, "(none)", 0, 1, 0)
    colours.SetColor(3, "invalid", 0, 0, 1)
    labelmap.GetDisplayNode().SetAndObserveColorNodeID(colours.GetID())
    _, labels, _ = labelOf(scene, node, labelmap, tmp_path)
    assert labels == {"background": 0, "liver": 1, "label 2": 2, "label 3": 3, "label 4": 4}


def test_labels_of_a_sheared_volume_lie_on_the_straight_grid(scene, tmp_path):
    node = volume(scene, noise())
    made = segmentation(scene, node, {"part": box((2, 6), (4, 15), (5, 18))})
    shear = np.eye(4)
    shear[0, 2] = 0.5
    for each in (node, made):
        transform(scene, shear, each)
    job = CaseExport(scene, [SceneCase((node.GetID(),), made.GetID())], tmp_path)
    case = load_index(job.run()).cases[0]
    image, label = read_image(case.images[0]), read_image(case.label)
    assert image.array.shape == label.array.shape and np.allclose(image.affine, label.affine)
    inside = (np.linalg.inv(label.affine) @ [*world(node, (10, 8, 4)), 1])[:3]
    outside = (np.linalg.inv(label.affine) @ [*world(node, (20, 8, 4)), 1])[:3]
    assert label.array[tuple(np.rint(inside).astype(int))] == 1
    assert label.array[tuple(np.rint(outside).astype(int))] == 0


def test_a_warped_segmentation_and_other_contents_are_refused(scene, tmp_path):
    node = volume(scene, noise())
    made = segmentation(scene, node, {"part": box((2, 6), (4, 15), (5, 18))}, "drawn")
    warp(scene, made)
    with pytest.raises(DataError, match="drawn lies under a transform that is not linear"):
        labelOf(scene, node, made, tmp_path)
    with pytest.raises(DataError, match="image holds no segments"):
        labelOf(scene, node, node, tmp_path)
    empty = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "empty")
    for image in (None, vtk.vtkImageData()):
        empty.SetAndObserveImageData(image)
        with pytest.raises(DataError, match="empty holds no segments"):
            labelOf(scene, node, empty, tmp_path)


def test_a_changed_segment_is_written_again(scene, tmp_path):
    node = volume(scene, noise())
    made = segmentation(scene, node, {"part": box((2, 6), (4, 15), (5, 18))})
    job = CaseExport(scene, [SceneCase((node.GetID(),), made.GetID())], tmp_path)
    job.start()
    written(job)
    image = made.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    vtk_to_numpy(image.GetPointData().GetScalars())[:] = 1
    image.Modified()
    assert finish(job).error is None
    assert read_image(load_index(job.index).cases[0].label).array.all()


def test_many_segments_get_two_bytes(scene):
    made = segmentation(scene, volume(scene, noise()), {})
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 301
    image = imageOf(array.astype(np.int16), slicer.vtkOrientedImageData)
    for value in range(1, 301):
        segment = slicer.vtkSegment()
        segment.SetName(f"s{value}")
        segment.SetLabelValue(value)
        segment.AddRepresentation("Binary labelmap", image)
        made.GetSegmentation().AddSegment(segment)
    values = {f"s{value}": 301 - value for value in range(1, 301)}
    drawn = drawLabels(takeSegments(made), values, SHAPE[::-1], np.eye(4))
    assert drawn.labels.dtype == np.uint16 and not drawn.warnings
    assert np.array_equal(drawn.labels, np.where(array > 0, 301 - array, 0))


def cohort(folder, labels):
    folder.mkdir()
    case = Case("disk", (Source(str(folder / "i.nrrd")),), Source(str(folder / "l.nrrd")), "p")
    save_index(Index((case,), ("image",), labels), folder / "index.json")
    return folder / "index.json"


def test_segments_take_the_values_of_cohorts_on_disk(scene, tmp_path):
    node = volume(scene, noise())
    masks = {"Liver": box((1, 3), (2, 9), (3, 20)), "Tumour": box((5, 8), (2, 9), (3, 20))}
    made = segmentation(scene, node, {"Background": box((3, 5), (2, 9), (3, 20)), **masks})
    disk = cohort(tmp_path / "a", {"background": 0, "spleen": 1, "LIVER": 6})
    label, labels, _ = labelOf(scene, node, made, tmp_path / "out", folders=[disk])
    assert labels == {"background": 0, "spleen": 1, "LIVER": 6, "Tumour": 2}
    assert np.array_equal(label, 6 * masks["Liver"] + 2 * masks["Tumour"])
    other = cohort(tmp_path / "b", {"background": 0, "liver": 2})
    with pytest.raises(DataError, match="give the labels LIVER and liver different values"):
        labelOf(scene, node, made, tmp_path / "out", folders=[disk, other])
    unnamed = cohort(tmp_path / "c", None)
    with pytest.raises(DataError, match="labels without names"):
        labelOf(scene, node, made, tmp_path / "out", folders=[unnamed])


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("cropped", [False, True])
def test_what_slicer_saves_is_read_from_disk_as_it_is_exported(scene, tmp_path, geometry, cropped):
    """Other values in each file, layers, a grid that is cropped: the same label maps by two ways."""
    order = {"first": ["Liver", "Spleen", "Tumour"], "second": ["Spleen", "Liver"]}
    masks = {
        "Liver": box((1, 4), (2, 9), (3, 20)),
        "Spleen": box((5, 8), (2, 9), (3, 20)),
        "Tumour": box((2, 6), (5, 11), (9, 15)),
    }
    exported = {}
    for number, (name, names) in enumerate(order.items()):
        node = volume(scene, noise(seed=number), name, geometry)
        drawn = segmentation(scene, node, {n: masks[n] for n in names}, f"{name} Segmentation")
        exported[name], labels, _ = labelOf(scene, node, drawn, tmp_path / "out" / name)
        exported[name] = {label: exported[name] == value for label, value in labels.items() if value}
        for one, ending in ((node, ".nrrd"), (drawn, ".seg.nrrd")):
            one.AddDefaultStorageNode()
            storage = one.GetStorageNode()
            storage.SetFileName(str(tmp_path / "saved" / (one.GetName() + ending)))
            (tmp_path / "saved").mkdir(exist_ok=True)
            if cropped and one is drawn:
                storage.SetCropToMinimumExtent(True)
            assert storage.WriteData(one)
    index = index_source(tmp_path / "saved")
    assert index.labels == {"background": 0, "Liver": 1, "Spleen": 2, "Tumour": 3}
    for case in index.cases:
        image = read_image(case.images[0])
        label = read_label(case, image.array.shape, image.affine, (0, 1, 2, 3)).T
        for name, mask in exported[case.id].items():
            assert mask.any() and np.array_equal(label == index.labels[name], mask), (case.id, name)


def test_labels_of_cohorts_need_names_where_others_have_them_and_agree_only_where_they_are_wanted(
    scene, tmp_path
):
    named = cohort(tmp_path / "a", {"background": 0, "liver": 6})
    other = cohort(tmp_path / "b", {"background": 0, "liver": 1})
    unnamed = cohort(tmp_path / "c", None)
    with pytest.raises(DataError, match=r"c.index\.json has labels without names"):
        CaseExport(scene, [], tmp_path / "out", [named, unnamed]).run()
    index = load_index(CaseExport(scene, [], tmp_path / "out", [named, other, unnamed], labels=False).run())
    assert index.labels is None and [case.label for case in index.cases] == [None, None, None]
