"""The crop preview over a real scene: places, labels, what it follows, and that nothing of it stays behind."""

from __future__ import annotations

import json

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")
import made_scene  # noqa: E402
import vtk  # noqa: E402
from preview_scene import (  # noqa: E402
    block,
    boxCorners,
    chosen,
    composites,
    nodeIds,
    roiCorners,
    same,
    sceneWithViews,
    torso,
    worldAffine,
)

from VoCoCore.data.apply import apply_plan  # noqa: E402
from VoCoCore.data.plan import plan_case  # noqa: E402
from VoCoCore.data.sampling import draw, random_boxes  # noqa: E402
from VoCoCore.geometry import Box, Grid  # noqa: E402
from VoCoSlicerLib import preview_plan, preview_step  # noqa: E402
from VoCoSlicerLib.export import CaseExport, SceneCase  # noqa: E402
from VoCoSlicerLib.nrrd import readNrrd  # noqa: E402
from VoCoSlicerLib.preview import CropPreview  # noqa: E402


@pytest.fixture
def scene():
    return sceneWithViews()


@pytest.fixture
def shown(scene):
    """Makes previews, shown and ready unless told otherwise, and takes them down at the end."""
    made = []

    def show(node, settings=None, fails=False):
        preview = CropPreview(scene)
        made.append(preview)
        preview.setVolume(node)
        preview.setSettings(settings or chosen())
        preview.show()
        preview.wait(60)
        assert fails or (preview.error is None and preview.ready)
        return preview

    yield show
    for preview in made:
        preview.cleanup()


def trainerPlan(node, settings):
    """The plan from the array and affine that an export would give, without the preview's own code."""
    return plan_case(
        block().transpose(2, 1, 0)[None], worldAffine(node), settings.prepare, settings.crops.volume_size
    )


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("geometry", list(made_scene.GEOMETRIES))
def test_nodes_lie_where_the_trainer_cuts(scene, shown, geometry, moved):
    node, settings = torso(scene, geometry), chosen(**{"crops.counts": (4, 3, 2)})
    if moved:
        inner = made_scene.transform(scene, made_scene.turn(25, (30, -4, 9)), node)
        made_scene.transform(scene, made_scene.turn(-55, (0, 55, 1)), inner)
    preview = shown(node, settings)
    plan = trainerPlan(node, settings)
    grid = Grid(settings.crops.volume_size, (4, 3, 2))
    expected = [boxCorners(plan.affine, box.start, box.size) for box in grid.boxes()]
    points = slicer.util.arrayFromModelPoints(preview.nodes.outlines.grid).reshape(-1, 8, 3)
    assert len(points) == 24
    for found, wanted in zip(points, expected, strict=True):
        assert same(found, wanted)
    crop = random_boxes(draw(settings, 0, plan.shape))[0]
    assert same(roiCorners(preview.roiNode), boxCorners(plan.affine, crop.start, crop.size))
    # Each base's voxels of the label volume span exactly that base.
    cells = preview.nodes.cells.cells
    values, affine = slicer.util.arrayFromVolume(cells).transpose(2, 1, 0), worldAffine(cells)
    for number, wanted in enumerate(expected):
        mine = np.argwhere(values == number + 1)
        low, size = mine.min(axis=0), np.ptp(mine, axis=0) + 1
        assert np.prod(size) == len(mine)
        assert same(boxCorners(affine, low, size), wanted)
    assert np.allclose(worldAffine(preview.nodes.cells.heat), affine)


def test_labels_and_heat_follow_the_dragged_crop(scene, shown):
    preview = shown(torso(scene), chosen(**{"crops.counts": (4, 4, 2)}))
    preview.present(heat=True)
    told = []

    def tell():
        told.append(preview.labels)

    preview.labelsChanged.connect(tell)
    affine = preview.world.affine
    start = np.array([37.0, 18.0, 11.0])
    centre = affine[:3, :3] @ (start + 16 - 0.5) + affine[:3, 3]
    preview.roiNode.SetCenterWorld(*centre)
    # Whole voxels of the crop are counted into the bases: an independent computation of y.
    x, y, z = np.meshgrid(*(np.arange(s, s + 32) for s in start), indexing="ij")
    base = (x // 32 * 4 + y // 32) * 2 + z // 32
    expected = np.bincount(base.astype(int).ravel(), minlength=32) / 32**3
    assert np.allclose(preview.labels, expected, atol=1e-9) and np.isclose(preview.labels.sum(), 1)
    assert len(told) == 1 and np.allclose(told[0], expected)
    cells, heat = preview.nodes.cells.cells, preview.nodes.cells.heat
    classes = slicer.util.arrayFromVolume(cells) - 1
    assert np.allclose(slicer.util.arrayFromVolume(heat), expected[classes], atol=1e-6)
    assert not heat.GetDisplayNode().GetInterpolate()
    preview.labelsChanged.disconnect(tell)
    preview.moveCrop((0, 0, 0))
    assert len(told) == 1 and preview.labels[0] == 1


def test_crop_stays_inside_and_keeps_its_size(scene, shown):
    preview = shown(torso(scene, "oblique"))
    roi, size = preview.roiNode, preview.roiNode.GetSize()
    roi.SetCenterWorld(9999.0, 0.0, -9999.0)
    low, high = np.array(preview.box.start), np.array(preview.box.stop)
    assert np.all(low > -1e-9) and np.all(high <= np.add((128, 128, 32), 1e-9))
    assert np.isclose(preview.labels.sum(), 1)
    assert same(roiCorners(roi), boxCorners(preview.world.affine, low, preview.box.size))
    roi.SetSize(1.0, 500.0, 3.0)
    assert np.allclose(roi.GetSize(), size)
    display = roi.GetDisplayNode()
    assert not display.GetScaleHandleVisibility() and not display.GetRotationHandleVisibility()


def test_crop_that_is_spoilt_by_hand_comes_back(scene, shown):
    preview = shown(torso(scene, "oblique"))
    preview.moveCrop((40, 30, 0))
    roi, box, labels = preview.roiNode, preview.box, preview.labels.copy()
    place = boxCorners(preview.world.affine, box.start, box.size)
    assert roi.GetFixedNumberOfControlPoints(), "the point by which it is dragged could be deleted"
    made_scene.transform(scene, made_scene.turn(30, (9, 9, 9)), roi)
    assert same(roiCorners(roi), place), "it lies under a transform now, and where it was"
    assert preview.box == box and np.array_equal(preview.labels, labels)
    roi.SetCenterWorld(np.nan, 0.0, 0.0)
    assert same(roiCorners(roi), place) and preview.box == box
    preview.moveCrop((10, 0, 0))
    assert not np.array_equal(preview.labels, labels)


def test_dragging_writes_the_crop_only_where_it_left_the_grid(scene, shown):
    preview = shown(torso(scene, "oblique"))  # as thick as a crop: rounding alone takes it out of the grid
    roi, told = preview.roiNode, []
    roi.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: told.append(1))
    centre = np.asarray(preview.world.centreOf(Box((20.0, 30.0, 0.0), preview.box.size)))
    roi.SetCenterWorld(*centre)
    once = len(told)
    roi.SetCenterWorld(*(centre + preview.world.axes @ [1.7, 2.3, 0.0]))
    assert len(told) == 2 * once and np.isclose(preview.labels.sum(), 1, atol=1e-12)
    roi.SetCenterWorld(*(centre + preview.world.axes @ [1.7, 2.3, 50.0]))
    assert len(told) > 3 * once and preview.box.start[2] == 0


def test_next_crop_is_what_the_trainer_draws(scene, shown):
    settings = chosen(recipe="v2", **{"prepare.by_body_part": False, "crops.volume_size": (12, 12, 8)})
    settings = chosen(
        **{"prepare.fit": "pad", "crops.volume_size": (8, 12, 8), "crops.counts": (2, 3, 1), "run.seed": 7}
    )
    preview = shown(node := torso(scene), settings)
    plan = trainerPlan(node, settings)
    assert plan.shape != settings.crops.volume_size, "there is room for regions"
    for number in range(6):
        made = draw(settings, number, plan.shape)
        for crop in range(settings.crops.random_crops):
            assert (preview.sample, preview.crop) == (number, crop)
            corners = boxCorners(plan.affine, made.region + made.starts[crop], made.sizes[crop])
            assert same(roiCorners(preview.roiNode), corners)
            assert np.allclose(preview.labels, made.labels[crop])
            preview.nextRandomCrop()
    preview.setSample(3, 1)
    assert np.allclose(preview.labels, draw(settings, 3, plan.shape).labels[1])


def test_dragging_never_looks_at_the_volume_again(scene, shown, monkeypatch):
    asked = []
    plan = preview_plan.planOf
    monkeypatch.setattr(preview_step, "planOf", lambda request: asked.append(request.key) or plan(request))
    preview = shown(node := torso(scene))
    for step in range(20):
        preview.moveCrop((step, 2 * step, 0))
    preview.setSample(5)
    preview.present(opacity=0.7)
    preview.setSettings(chosen(**{"crops.random_size": (20, 20, 20)}))
    preview.setSettings(chosen(**{"run.seed": 3}))
    node.SetName("renamed")
    preview.hide()
    preview.show()
    preview.wait(60)
    assert len(asked) == 1
    slicer.util.arrayFromVolume(node)[:] = np.roll(block(), 1, axis=2)
    slicer.util.arrayFromVolumeModified(node)
    preview.wait(60)
    assert len(asked) == 2 and preview.ready


def test_crop_that_was_dragged_stays_when_the_volume_moves(scene, shown):
    preview = shown(node := torso(scene))
    preview.moveCrop((50, 40, 0))
    made_scene.transform(scene, made_scene.turn(15, (5, 6, 7)), node)
    preview.wait(60)
    plan = trainerPlan(node, chosen())
    assert np.allclose(preview.box.start, (50, 40, 0))
    assert same(roiCorners(preview.roiNode), boxCorners(plan.affine, (50, 40, 0), (32, 32, 32)))
    preview.nextRandomCrop()
    assert preview.box == random_boxes(draw(chosen(), 0, plan.shape))[1]


def test_prepared_volume_is_what_the_store_would_hold(scene, shown):
    node = torso(scene, "sagittal")
    preview = shown(node)
    preview.present(prepared=True)
    preview.wait(60)
    plan = trainerPlan(node, chosen())
    prepared = preview.nodes.preparedNode
    expected = apply_plan(block().transpose(2, 1, 0)[None], plan)[0]
    assert np.array_equal(slicer.util.arrayFromVolume(prepared).transpose(2, 1, 0), expected)
    assert np.allclose(worldAffine(prepared), plan.affine, atol=1e-6)
    assert {view.GetBackgroundVolumeID() for view in composites(scene)} == {prepared.GetID()}
    preview.present(prepared=False)
    assert {view.GetBackgroundVolumeID() for view in composites(scene)} == {node.GetID()}


def test_scores_belong_to_one_place_of_the_crop(scene, shown):
    preview = shown(torso(scene))
    preview.present(heat=True)
    preview.setHeat("predicted")
    values = np.linspace(-0.4, 0.9, 16)
    preview.setPredicted(values)
    preview.setSimilarity(values[::-1])
    heat = preview.nodes.cells.heat
    classes = slicer.util.arrayFromVolume(preview.nodes.cells.cells) - 1
    assert np.allclose(slicer.util.arrayFromVolume(heat), values[classes], atol=1e-6)
    assert heat.GetDisplayNode().GetWindowLevelMin() == pytest.approx(-0.4)
    assert set(preview.scores) == {"predicted", "similarity"}
    with pytest.raises(ValueError, match="16 values"):
        preview.setPredicted([1.0, 2.0])
    preview.setPredicted(values)
    preview.moveCrop((3, 3, 0))
    assert not preview.scores and not slicer.util.arrayFromVolume(heat).any()


def vectors(scene):
    node = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colours")
    node.SetAndObserveImageData(made_scene.imageOf(np.zeros((4, 5, 6, 3), np.uint8)))
    return node


def sheared(scene):
    node = torso(scene, name="skew")
    matrix = np.eye(4)
    matrix[0, 1] = 0.3
    made_scene.transform(scene, matrix, node)
    return node


def warped(scene):
    node = torso(scene, name="bent")
    made_scene.warp(scene, node)
    return node


def flat(scene):
    return made_scene.volume(scene, np.full((9, 9, 9), 5, np.int16), "flat")


def sheet(scene):
    return made_scene.volume(scene, np.arange(81, dtype=np.int16).reshape(1, 9, 9), "one slice")


def squashed(scene):
    node = torso(scene, name="squashed")
    node.SetSpacing(0, 1, 1)
    return node


def empty(scene):
    return scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")


def exported(scene, nodes, folder):
    """The case of ``nodes`` as a job reads it: values (C, X, Y, Z) and affine, from the files of an export."""
    index = CaseExport(scene, [SceneCase(tuple(node.GetID() for node in nodes))], folder).run()
    (case,) = json.loads(index.read_text())["cases"]
    read = [readNrrd(index.parent / image) for image in case["images"]]
    return np.stack([array.transpose(2, 1, 0) for array, _ in read]), read[0][1].affine


def assertAsTheJob(preview, scene, nodes, folder):
    """What is shown is what the trainer makes of the exported files."""
    settings = preview.settings
    array, affine = exported(scene, nodes, folder)
    plan = plan_case(array, affine, settings.prepare, settings.crops.volume_size, None)
    assert preview.plan.source_shape == plan.source_shape == array.shape[1:]
    assert np.allclose(preview.plan.affine, plan.affine, atol=1e-4)
    assert (preview.plan.start, preview.plan.size, preview.plan.shape) == (plan.start, plan.size, plan.shape)
    region = preview.region()
    while region is None:
        preview.wait(60)
        region = preview.region()
    values = apply_plan(array, plan)
    assert region.shape == (len(array), *settings.crops.volume_size)
    (x, y, z), (i, j, k) = preview.world.first, settings.crops.volume_size
    assert np.array_equal(region, values[:, x : x + i, y : y + j, z : z + k])


def test_a_sheared_volume_is_shown_as_its_job_reads_it(scene, shown, tmp_path):
    node = sheared(scene)
    preview = shown(node)
    assert "not at right angles" in preview.plan.notes[0]
    axes = preview.plan.affine[:3, :3] / np.linalg.norm(preview.plan.affine[:3, :3], axis=0)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    assertAsTheJob(preview, scene, [node], tmp_path)


def test_channels_of_a_case_are_cut_together(scene, shown, tmp_path):
    one, two = torso(scene, name="a_t1"), torso(scene, name="a_t2")
    array = np.roll(block(), 2, axis=0)  # another body box; and a voxel and a half beside
    slicer.util.updateVolumeFromArray(two, array)
    two.SetOrigin(*np.add(two.GetOrigin(), (1.0, 1.5, 0.0)))
    preview = shown(one)
    alone = preview.plan
    preview.setVolume(one, [one, two])
    preview.wait(60)
    assert preview.plan.size != alone.size and len(preview.plan.intensities) == 2
    assertAsTheJob(preview, scene, [one, two], tmp_path)
    before = preview.plan
    slicer.util.updateVolumeFromArray(two, block())  # the other channel is watched too
    assert preview.busy or preview.plan is not before
    preview.wait(60)
    assert preview.plan.size != before.size
    preview.setVolume(two, [one, two])
    preview.present(prepared=True)
    preview.wait(60)
    found, values = (
        slicer.util.arrayFromVolume(preview.nodes.preparedNode).transpose(2, 1, 0),
        preview.region(),
    )
    assert found.shape == values.shape[1:], "a volume of the tiny preset is cut whole"
    assert np.array_equal(found, values[1]) and not np.array_equal(found, values[0])
    scene.RemoveNode(one)
    preview.wait(60)
    assert preview.ready and len(preview.plan.intensities) == 1, "what is left is shown alone"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (vectors, "3 values a voxel"),
        (warped, "bent"),
        (flat, "same value"),
        (empty, "no image"),
        (sheet, "not 3D"),
        (squashed, "spacing, axes or transform are damaged"),
    ],
)
def test_a_volume_that_cannot_be_cut_says_why(scene, shown, make, words):
    before = nodeIds(scene)
    node = make(scene)
    made = set(nodeIds(scene)) - set(before)
    preview = shown(node, fails=True)
    assert words in preview.error.message and preview.error.hint
    assert preview.nodes is None and not preview.ready and preview.labels.size == 0
    assert set(nodeIds(scene)) == {*before, *made}
    good = torso(scene)
    preview.setVolume(good)
    preview.wait(60)
    assert preview.error is None and preview.ready
