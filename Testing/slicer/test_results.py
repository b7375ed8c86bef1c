"""Predictions in the scene: where they lie, what they are called, how large they are, and whose work they are."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import slicer
import vtk
from made_scene import GEOMETRIES, noise, transform, turn, volume, warp, world
from vtk.util.numpy_support import vtk_to_numpy

from VoCoCore.data.cases import load_index
from VoCoCore.data.images import read_case
from VoCoCore.errors import DataError, StopRequested
from VoCoCore.inference import results as written
from VoCoCore.models.card import ModelCard, OutputClass
from VoCoSlicerLib import results_load
from VoCoSlicerLib.export import CaseExport, SceneCase
from VoCoSlicerLib.overlays import overlayLabels
from VoCoSlicerLib.results import addProbability, addSegmentation, segmentVolumes
from VoCoSlicerLib.results_load import PredictionLoad, loadPredictions
from VoCoSlicerLib.results_tables import classTable
from VoCoSlicerLib.volumes import describeVolume, listVolumes

SHAPE = (9, 20, 24)
PROVENANCE = {
    "run": "/runs/liver",
    "weightsHash": "ab" * 32,
    "date": "2026-11-25",
    "model": "segmentation, unet",
}
ORGANS = (
    ("background", (0,), (0, 0, 0)),
    ("liver", (1,), (200, 30, 10)),
    ("left kidney", (2,), (10, 220, 40)),
)


def card(classes=ORGANS, activation="softmax", task="segmentation"):
    made = tuple(OutputClass(*each) for each in classes)
    return ModelCard(task, "unet", 4, (32, 32, 32), made, activation, {})


def labelsOf(case):
    """A label map that a network might give for an exported case, made from its own voxels: (X, Y, Z)."""
    array, affine = read_case(case)
    return (array[0] > 600).astype(np.uint8) + (array[0] > 1100).astype(np.uint8), affine


def predicted(folder, index, format="seg.nrrd", model=None, labels=labelsOf):
    """What `voco predict` writes for an index, by its own functions, with made-up labels."""
    model = model or card()
    folder.mkdir(exist_ok=True)
    rows = []
    values = {name: value for name, (value, _) in written.segments_of(model).items()}
    for case in index.cases:
        found, affine = labels(case)
        path = folder / (case.id + written.FORMATS[format])
        written.write_labels(path, found, affine, model, case)
        rows += written.as_rows(case.id, written.volumes_ml(found, affine, model), values)
    written.write_names(folder, model)
    written.write_table(folder / written.VOLUMES, ["case", "label", "value", "volume_ml"], rows)
    return folder


def exportOf(scene, nodes, folder):
    job = CaseExport(scene, [SceneCase((node.GetID(),)) for node in nodes], folder)
    return load_index(job.run()), job.volumesById


def segmentPlaces(node, name):
    """World RAS of all voxels of a segment, through VTK alone."""
    segmentation = node.GetSegmentation()
    segment = segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName(name))
    image, matrix, places = segment.GetRepresentation("Binary labelmap"), vtk.vtkMatrix4x4(), []
    image.GetImageToWorldMatrix(matrix)
    i, j, k = image.GetDimensions()
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(k, j, i)
    for at in np.argwhere(array == segment.GetLabelValue()):
        point = np.array(matrix.MultiplyPoint([*map(float, at[::-1]), 1]))[:3]
        parent = node.GetParentTransformNode()
        while parent is not None:
            one = vtk.vtkMatrix4x4()
            parent.GetMatrixTransformToParent(one)
            point = np.array(one.MultiplyPoint([*point, 1]))[:3]
            parent = parent.GetParentTransformNode()
        places.append(point)
    return np.array(places)


def bright(node, low, high):
    """World RAS of all voxels of a volume with values above ``low``, up to ``high``."""
    found = np.argwhere(
        (slicer.util.arrayFromVolume(node) > low) & (slicer.util.arrayFromVolume(node) <= high)
    )
    return np.array([world(node, at[::-1]) for at in found])


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("format", ["seg.nrrd", "nii.gz"])
def test_results_lie_on_the_voxels_they_were_predicted_from(scene, tmp_path, geometry, moved, format):
    node = volume(scene, noise(), "abdomen", geometry)
    if moved:
        inner = transform(scene, turn(33, (10, 4, -9)), node)
        inner.SetAndObserveTransformNodeID(transform(scene, turn(-70, (0, 50, 3), 1.25)).GetID())
    index, byId = exportOf(scene, [node], tmp_path / "in")
    load = loadPredictions(scene, predicted(tmp_path / "out", index, format), byId, show3d=False)
    [made] = load.segmentations
    assert not load.failed and not load.warnings
    for name, low, high in (("liver", 600, 1100), ("left kidney", 1100, 9999)):
        expected = bright(node, low, high)
        assert len(expected) > 50
        assert np.allclose(segmentPlaces(made, name), expected, atol=1e-5)
    assert made.GetTransformNodeID() == node.GetTransformNodeID()
    if moved:  # moving the volume takes its result along
        node.GetParentTransformNode().SetMatrixTransformToParent(vtk.vtkMatrix4x4())
        assert np.allclose(segmentPlaces(made, "liver"), bright(node, 600, 1100), atol=1e-5)


def test_a_volume_moved_since_its_export_keeps_its_result(scene, tmp_path):
    node = volume(scene, noise(), geometry="oblique")
    index, byId = exportOf(scene, [node], tmp_path / "in")
    predicted(tmp_path / "out", index)
    transform(scene, turn(50, (7, 8, 9)), node)
    [made] = loadPredictions(scene, tmp_path / "out", byId, show3d=False).segmentations
    assert np.allclose(segmentPlaces(made, "liver"), bright(node, 600, 1100), atol=1e-6)


def test_a_result_on_another_grid_lies_where_its_file_says(scene, tmp_path):
    node = volume(scene, noise(), geometry="oblique")
    shear = np.eye(4)
    shear[1, 2] = 0.4
    transform(scene, shear, node)
    index, byId = exportOf(scene, [node], tmp_path / "in")
    array, affine = read_case(index.cases[0])
    assert array.shape[1:] != SHAPE[::-1]  # it was straightened
    [made] = loadPredictions(scene, predicted(tmp_path / "out", index), byId, show3d=False).segmentations
    where = np.argwhere(labelsOf(index.cases[0])[0].T == 1)[:, ::-1]
    expected = where @ affine[:3, :3].T + affine[:3, 3]
    assert np.allclose(segmentPlaces(made, "liver"), expected, atol=1e-6)


def test_names_colours_terms_and_provenance(scene, tmp_path):
    node = volume(scene, noise(), "abdomen")
    index, byId = exportOf(scene, [node], tmp_path / "in")
    folder = predicted(tmp_path / "out", index)
    [made] = loadPredictions(scene, folder, byId, provenance=PROVENANCE).segmentations
    segmentation = made.GetSegmentation()
    assert [segmentation.GetNthSegment(n).GetName() for n in range(2)] == ["liver", "left kidney"]
    assert np.allclose(np.multiply(segmentation.GetNthSegment(0).GetColor(), 255), (200, 30, 10))
    tag = vtk.mutable("")
    assert segmentation.GetNthSegment(1).GetTag("TerminologyEntry", tag)
    assert "~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~SCT^7771000^Left~" in tag.get()
    assert made.GetName() == "abdomen (VoCo)"
    role = made.GetReferenceImageGeometryReferenceRole()
    assert made.GetNodeReferenceID(role) == node.GetID()
    assert (
        made.GetAttribute("VoCo.run") == "/runs/liver" and made.GetAttribute("VoCo.weightsHash") == "ab" * 32
    )
    for word in ("2026-11-25", "segmentation, unet", "/runs/liver", "abab"):
        assert word in made.GetDescription()
    assert segmentation.ContainsRepresentation("Closed surface") and made.GetDisplayNode().GetVisibility3D()
    for number in range(2):
        surface = segmentation.GetNthSegment(number).GetRepresentation("Closed surface")
        bounds, places = surface.GetBounds(), segmentPlaces(made, ("liver", "left kidney")[number])
        assert np.allclose(bounds[::2], places.min(axis=0), atol=1) and surface.GetNumberOfPoints() > 100
    again = loadPredictions(scene, folder, byId, show3d=False).segmentations[0]
    assert again.GetName() == "abdomen (VoCo) 2"
    # Results are no input, neither as a volume nor as the segmentation of one.
    assert describeVolume(node).segmentationId == ""


def test_results_stand_beside_their_volume_in_the_data_tree(scene, tmp_path):
    node = volume(scene, noise())
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = tree.CreateStudyItem(tree.CreateSubjectItem(tree.GetSceneItemID(), "P"), "S")
    if not tree.GetItemByDataNode(node):
        tree.CreateItem(study, node)
    tree.SetItemParent(tree.GetItemByDataNode(node), study)
    index, byId = exportOf(scene, [node], tmp_path / "in")
    [made] = loadPredictions(scene, predicted(tmp_path / "out", index), byId, show3d=False).segmentations
    assert tree.GetItemParent(tree.GetItemByDataNode(made)) == study


def column(table, title):
    array = table.GetTable().GetColumnByName(title)
    return [array.GetValue(row) for row in range(array.GetNumberOfValues())]


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_volumes_are_those_of_the_prediction(scene, tmp_path, scale):
    nodes = [volume(scene, noise(seed=n), f"v{n}", "oblique") for n in range(2)]
    for node in nodes:
        transform(scene, turn(20, (1, 2, 3), scale), node)
    index, byId = exportOf(scene, nodes, tmp_path / "in")
    load = loadPredictions(
        scene, predicted(tmp_path / "out", index), byId, provenance=PROVENANCE, show3d=False
    )
    [table] = load.tables
    rows = written.read_table(tmp_path / "out" / "volumes.csv", written.VOLUME_COLUMNS)
    told = [float(row[3]) for row in rows]
    assert np.allclose(column(table, "Volume (ml)"), told, atol=5.1e-4)
    assert column(table, "Label") == ["liver", "left kidney"] * 2
    assert column(table, "Segmentation") == ["v0 (VoCo)"] * 2 + ["v1 (VoCo)"] * 2
    assert table.GetAttribute("VoCo.run") == "/runs/liver"
    each = 1.2 * 0.8 * 2.0 * scale**3 / 1000
    assert column(table, "Volume (ml)")[0] == pytest.approx(each * len(bright(nodes[0], 600, 1100)))
    counted = segmentVolumes(load.segmentations[1])
    assert np.allclose(list(counted.values()), told[2:], atol=5.1e-4)
    lines = (tmp_path / "out" / "volumes.csv").read_text().splitlines()
    lines[1] = "v0,liver,1,999.0"
    (tmp_path / "out" / "volumes.csv").write_text("\n".join(lines))
    [warning] = loadPredictions(scene, tmp_path / "out", byId, show3d=False).warnings
    assert warning.startswith("v0: liver has ") and "999.0 ml in volumes.csv" in warning


def test_regions_that_overlap_are_whole(scene, tmp_path):
    """BraTS: the whole tumour holds the core, the core holds what enhances."""
    regions = (("WT", (1, 2, 4), (9, 9, 9)), ("TC", (1, 4), (5, 5, 5)), ("ET", (4,), (1, 1, 1)))
    node = volume(scene, noise())
    index, byId = exportOf(scene, [node], tmp_path / "in")
    model = card(regions, "sigmoid")

    def labels(case):
        array, affine = read_case(case)
        return np.select([array[0] > 1200, array[0] > 900, array[0] > 500], [4, 1, 2]).astype(
            np.uint8
        ), affine

    load = loadPredictions(
        scene, predicted(tmp_path / "out", index, model=model, labels=labels), byId, show3d=False
    )
    [made], [table] = load.segmentations, load.tables
    assert not load.warnings and column(table, "Label") == ["WT", "TC", "ET"]
    for name, low in (("WT", 500), ("TC", 900), ("ET", 1200)):
        assert len(segmentPlaces(made, name)) == (noise() > low).sum()


def test_empty_labels_still_have_a_segment(scene, tmp_path):
    node = volume(scene, noise())
    index, byId = exportOf(scene, [node], tmp_path / "in")
    nothing = predicted(
        tmp_path / "out", index, labels=lambda case: (labelsOf(case)[0] * 0, labelsOf(case)[1])
    )
    load = loadPredictions(scene, nothing, byId)
    assert load.segmentations[0].GetSegmentation().GetNumberOfSegments() == 2
    assert column(load.tables[0], "Volume (ml)") == [0.0, 0.0]


def test_bad_and_missing_cases_do_not_stop_the_others(scene, tmp_path):
    nodes = [volume(scene, noise(seed=n), f"v{n}") for n in range(4)]
    index, byId = exportOf(scene, nodes, tmp_path / "in")
    folder = predicted(tmp_path / "out", index)
    (folder / "v0.seg.nrrd").write_bytes((folder / "v0.seg.nrrd").read_bytes()[:-40])
    (folder / "v1.seg.nrrd").unlink()
    scene.RemoveNode(nodes[2])
    load = PredictionLoad(scene, folder, byId, show3d=False)
    load.start()
    while not (state := load.poll()).finished:
        assert state.done <= state.total == 4
    assert state.error is None and list(load.failed) == ["v0", "v1"] and "not predicted" in load.failed["v1"]
    assert "v0.seg.nrrd" in load.failed["v0"]
    assert [node.GetName() for node in load.segmentations] == [
        "v2 (VoCo)",
        "v3 (VoCo)",
    ]  # also without its volume
    for name in ("v2", "v3"):
        (folder / f"{name}.seg.nrrd").unlink()
    with pytest.raises(DataError, match="no case could be loaded: v0"):
        loadPredictions(scene, folder, byId)
    with pytest.raises(DataError, match="holds no predictions"):
        loadPredictions(scene, tmp_path, byId)


def test_loading_can_be_stopped(scene, tmp_path):
    nodes = [volume(scene, noise(seed=n), f"v{n}") for n in range(3)]
    index, byId = exportOf(scene, nodes, tmp_path / "in")
    load = PredictionLoad(scene, predicted(tmp_path / "out", index), byId, show3d=False)
    load.start()
    while not load.segmentations:
        load.poll()
    load.cancel()
    assert isinstance(load.poll().error, StopRequested) and len(load.segmentations) == 1


@pytest.mark.parametrize("since", ["warped", "flattened"])
def test_a_volume_under_a_transform_without_inverse_gets_its_result(scene, tmp_path, since):
    node = volume(scene, noise())
    index, byId = exportOf(scene, [node], tmp_path / "in")
    predicted(tmp_path / "out", index)
    if since == "warped":
        warp(scene, node)
    else:
        transform(scene, np.diag([1.0, 1.0, 0.0, 1.0]), node)
    [made] = loadPredictions(scene, tmp_path / "out", byId, show3d=False).segmentations
    assert made.GetTransformNodeID() == node.GetTransformNodeID()


def probabilityFile(folder, affine, count=3):
    """Maps of 0, 1/65535, ... as prediction writes them: NIfTI of whole numbers with a scale."""
    stored = np.random.default_rng(2).integers(0, 65536, (*SHAPE[::-1], count)).astype(np.uint16)
    image = nibabel.Nifti1Image(stored, affine)
    image.header.set_slope_inter(1 / 65535, 0)
    folder.mkdir()
    (folder / "probabilities").mkdir()
    path = folder / "probabilities" / "image.nii.gz"
    nibabel.save(image, path)
    return path, np.asarray(nibabel.load(path).dataobj)


@pytest.mark.parametrize("moved", [False, True])
def test_probabilities_overlay_their_volume(scene, tmp_path, moved):
    node = volume(scene, noise(), geometry="oblique")
    if moved:
        transform(scene, turn(40, (3, 3, 3)), node)
    index, _ = exportOf(scene, [node], tmp_path / "in")
    path, values = probabilityFile(tmp_path / "out", read_case(index.cases[0])[1])
    made = addProbability(scene, path, node, {1: "liver", 2: "left kidney"}, PROVENANCE)
    assert [each.GetName() for each in made] == [
        "image liver probability (VoCo)",
        "image left kidney probability (VoCo)",
    ]
    for number, each in enumerate(made, 1):
        array = slicer.util.arrayFromVolume(each)
        assert array.dtype == np.float32 and np.allclose(array.T, values[..., number], atol=1e-6)
        for ijk in itertools.product((0, 23), (0, 19), (0, 8)):
            assert np.allclose(world(each, ijk), world(node, ijk), atol=1e-4)
    display = made[0].GetDisplayNode()
    assert (display.GetLevel(), display.GetWindow(), display.GetApplyThreshold()) == (0.5, 1.0, 1)
    assert display.GetColorNode().GetNumberOfColors() == 256 and display.GetLowerThreshold() == 0.05
    assert [row.nodeId for row in listVolumes(scene)] == [node.GetID()]
    assert overlayLabels(scene) == ["liver", "left kidney"]
    one = addProbability(
        scene, path, node, {1: "liver", 2: "left kidney"}, PROVENANCE, wanted=["left kidney"]
    )
    assert np.allclose(slicer.util.arrayFromVolume(one[0]).T, values[..., 2], atol=1e-6)
    with pytest.raises(DataError, match="3 maps for 1 labels"):
        addProbability(scene, path, node, {1: "liver"}, PROVENANCE)


def test_a_folder_with_probabilities(scene, tmp_path):
    node = volume(scene, noise())
    index, byId = exportOf(scene, [node], tmp_path / "in")
    probabilityFile(tmp_path / "out", np.eye(4))
    load = loadPredictions(scene, predicted(tmp_path / "out", index), byId, probabilities=True, show3d=False)
    assert len(load.probabilityNodes) == 2 and not load.failed


def test_probabilities_that_would_fill_the_memory_stay_on_disk(scene, tmp_path, monkeypatch):
    node = volume(scene, noise())
    index, byId = exportOf(scene, [node], tmp_path / "in")
    probabilityFile(tmp_path / "out", np.eye(4))
    monkeypatch.setattr(results_load, "MOST_MAPS", int(1.5 * 4 * np.prod(SHAPE)))
    load = loadPredictions(scene, predicted(tmp_path / "out", index), byId, probabilities=True, show3d=False)
    assert len(load.probabilityNodes) == 1 and len(load.segmentations) == 1 and not load.failed
    (warning,) = [line for line in load.warnings if "probability maps" in line]
    assert "first 1 " in warning and str(tmp_path / "out" / "probabilities") in warning


def test_diagnoses_are_a_table(scene, tmp_path):
    nodes = [volume(scene, noise(seed=n), f"v{n}") for n in range(2)]
    rows = [["a", "sick", "0.250000", "0.750000"], ["b", "healthy", "0.9", "0.1"], ["c", "sick", "0", "1"]]
    written.write_table(tmp_path / "predictions.csv", ["case", "predicted", "healthy", "sick"], rows)
    byId = {"a": (nodes[0].GetID(),), "b": nodes[1].GetID()}
    [table] = loadPredictions(scene, tmp_path, byId, provenance=PROVENANCE).tables
    assert column(table, "Volume") == ["v0", "v1", "c"] and column(table, "Class") == [
        "sick",
        "healthy",
        "sick",
    ]
    assert column(table, "p(sick)") == [0.75, 0.1, 1.0] and table.GetName() == "VoCo classification"
    assert classTable(scene, tmp_path / "none.csv", {}).GetTable().GetNumberOfRows() == 0


def test_a_result_is_saved_and_read_again_with_its_scene(scene, tmp_path):
    node = volume(scene, noise(), "abdomen", "oblique")
    index, byId = exportOf(scene, [node], tmp_path / "in")
    [made] = loadPredictions(
        scene, predicted(tmp_path / "out", index), byId, provenance=PROVENANCE, show3d=False
    ).segmentations
    places = segmentPlaces(made, "liver")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(tmp_path / "saved.seg.nrrd"))
    assert storage.WriteData(made)
    again = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "again")
    storage.ReadData(again)
    assert again.GetSegmentation().GetNumberOfSegments() == 2
    assert np.allclose(np.sort(segmentPlaces(again, "liver"), axis=0), np.sort(places, axis=0), atol=1e-4)


def test_files_that_are_no_label_maps(scene, tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"x")
    for name in ("a.dcm", "gone.nrrd"):
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            addSegmentation(scene, tmp_path / name, None, {1: "a"}, {})
    nibabel.save(nibabel.Nifti1Image(np.full(SHAPE, -1, np.int16), np.eye(4)), tmp_path / "b.nii.gz")
    with pytest.raises(DataError, match="other values than labels"):
        addSegmentation(scene, Path(tmp_path / "b.nii.gz"), None, {1: "a"}, {})


def test_large_results_are_added_in_small_steps(scene, tmp_path):
    node = volume(scene, noise((60, 256, 256)))
    index, byId = exportOf(scene, [node], tmp_path / "in")

    def ball(case):
        array, affine = read_case(case)
        x, y, z = np.indices(array.shape[1:])
        return (((x - 128) ** 2 + (y - 128) ** 2 + 9 * (z - 30) ** 2) < 80**2).astype(np.uint8), affine

    load = PredictionLoad(scene, predicted(tmp_path / "out", index, labels=ball), byId, show3d=False)
    load.start()
    polls = list(iter(lambda: load.poll().finished, True))
    assert load.segmentations and len(polls) > 1


def test_classes_may_be_called_as_the_columns_beside_them(scene, tmp_path):
    """As in studies of cases and controls."""
    rows = [["scan", "control", 0.125, 0.75, 0.125]]
    written.write_table(
        tmp_path / "predictions.csv", ["case", "predicted", "case", "control", "predicted"], rows
    )
    table = classTable(scene, tmp_path / "predictions.csv", {}).GetTable()
    assert [table.GetColumnName(n) for n in range(2, 5)] == ["p(case)", "p(control)", "p(predicted)"]
    found = [table.GetValue(0, column).ToString() for column in range(5)]
    assert found == ["scan", "control", "0.125", "0.75", "0.125"]
