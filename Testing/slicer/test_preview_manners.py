"""The crop preview leaves nothing behind: layers, nodes, observers; scenes saved, closed and changed meanwhile."""

from __future__ import annotations

import made_scene
import numpy as np
import pytest
import slicer
from preview_scene import (
    VIEWS,
    addView,
    chosen,
    composites,
    countObservers,
    nodeIds,
    sceneWithViews,
    slicesOf,
    torso,
    up,
)
from vtk.util.numpy_support import vtk_to_numpy

from VoCoSlicerLib.preview import CropPreview
from VoCoSlicerLib.preview_layers import layersOf, restoreSaved


@pytest.fixture
def scene():
    made = sceneWithViews()
    made.SetUndoOn()
    return made


def test_nothing_is_left_after_a_hundred_times(scene, preview):
    volume = preview.volume
    watched = [scene, volume, *composites(scene), *slicesOf(scene)]
    counts = [countObservers(node) for node in watched]
    nodes = nodeIds(scene)
    up(preview)
    busy = [count() for count in counts]
    assert busy[0] and busy[1] and all(busy[-3:])
    preview.hide()
    for _ in range(100):
        up(preview)
        assert len(nodeIds(scene)) > len(nodes) + 10
        assert [count() for count in counts] == busy
        preview.present(heat=True, opacity=0.3)
        preview.nextRandomCrop()
        preview.hide()
        assert not any(count() for count in counts)
    assert nodeIds(scene) == nodes
    assert preview.roiNode is None and preview.box is None and preview.labels.size == 0


@pytest.mark.parametrize("mine", ["", "vtkMRMLMarkupsLineNode"])
def test_clicks_go_on_to_place_points_in_the_users_own_markup(mine):
    """Slicer's markups logic makes every new markup the one that points are placed in."""
    scene = sceneWithViews()
    application = slicer.vtkMRMLApplicationLogic()
    application.SetMRMLScene(scene)
    logic = slicer.vtkSlicerMarkupsLogic()
    logic.SetMRMLScene(scene)
    selection = application.GetSelectionNode()
    own = scene.AddNewNodeByClass(mine).GetID() if mine else None
    before = selection.GetActivePlaceNodeClassName(), selection.GetActivePlaceNodeID()
    assert before[1] == own
    preview = CropPreview(scene)
    preview.setVolume(torso(scene))
    preview.setSettings(chosen())
    for step in (lambda: up(preview), preview.hide):
        step()
        assert (selection.GetActivePlaceNodeClassName(), selection.GetActivePlaceNodeID()) == before


def test_nodes_are_hidden_unsaved_and_never_undone(scene, preview):
    before = set(nodeIds(scene))
    up(preview)
    preview.present(heat=True, prepared=True)
    preview.wait(60)
    own = [scene.GetNodeByID(nodeId) for nodeId in nodeIds(scene) if nodeId not in before]
    assert len(own) > 20
    for node in own:
        assert node.GetHideFromEditors() and not node.GetSaveWithScene() and not node.GetUndoEnabled()
        assert node.GetAttribute("SubjectHierarchy.ExcludeFromTree")
    assert scene.GetNumberOfUndoLevels() == 0


def test_nothing_appears_in_the_data_tree(scene, preview):
    logic = slicer.vtkSlicerSubjectHierarchyModuleLogic()
    logic.SetMRMLScene(scene)
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)

    def items():
        return tree.GetNumberOfItems() if tree else 0

    before = items()
    up(preview)
    assert items() == before


def test_the_users_layers_come_back(scene, preview):
    other = torso(scene, "plain", "other")
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "mine")
    views = composites(scene)
    views[0].SetBackgroundVolumeID(other.GetID())
    views[0].SetLabelVolumeID(labels.GetID())
    views[0].SetLabelOpacity(0.85)
    views[1].SetForegroundVolumeID(other.GetID())
    views[1].SetForegroundOpacity(0.15)
    before = [layersOf(view) for view in views]
    up(preview)
    cells, heat = preview.nodes.cells.cells.GetID(), preview.nodes.cells.heat.GetID()
    for view in views:
        assert view.GetBackgroundVolumeID() == preview.volume.GetID()
        assert view.GetLabelVolumeID() == cells and view.GetLabelOpacity() == 0.4
    assert layersOf(views[1]).foreground == other.GetID()
    preview.present(heat=True, cells=False, opacity=0.6)
    for view, own in zip(views, before, strict=True):
        assert view.GetForegroundVolumeID() == heat and view.GetForegroundOpacity() == 0.6
        assert (layersOf(view).label, view.GetLabelOpacity()) == (own.label, own.labelOpacity)
    preview.present(heat=True, cells=True)
    assert layersOf(views[0]).label == labels.GetID(), "the colours of the cells would hide those of the heat"
    preview.present(heat=False)
    assert layersOf(views[0]).label == cells
    preview.hide()
    assert [layersOf(view) for view in views] == before


def test_what_the_user_changes_meanwhile_is_kept(scene, preview):
    other = torso(scene, "plain", "other")
    views = composites(scene)
    up(preview)
    views[0].SetBackgroundVolumeID(other.GetID())
    views[1].SetForegroundVolumeID(other.GetID())
    preview.present(opacity=0.2)
    assert views[0].GetBackgroundVolumeID() == other.GetID() and views[0].GetLabelOpacity() == 0.2
    preview.hide()
    assert layersOf(views[0]).background == other.GetID() and layersOf(views[0]).label is None
    assert layersOf(views[1]).foreground == other.GetID()
    scene.RemoveNode(other)
    up(preview).hide()
    assert layersOf(views[0]).label is None


def test_views_that_come_later_show_it_too(scene, preview):
    up(preview)
    later = addView(scene, "Orange")
    assert later.GetLabelVolumeID() == preview.nodes.cells.cells.GetID()
    preview.hide()
    assert later.GetLabelVolumeID() is None and later.GetBackgroundVolumeID() is None


def test_a_scene_saved_meanwhile_gets_the_users_layers_back(scene, preview, tmp_path):
    """Slicer tells nobody that it saves: the views' own layers come back when the scene is loaded."""
    other = torso(scene, "plain", "other")
    mine, views = composites(scene)[0], len(composites(scene))
    mine.SetForegroundVolumeID(other.GetID())
    mine.SetForegroundOpacity(0.15)
    mine.SetLabelOpacity(0.85)
    up(preview)
    preview.present(heat=True, prepared=True, opacity=0.6)
    preview.wait(60)
    path = tmp_path / "scene.mrml"
    scene.SetURL(str(path))
    assert scene.Commit(str(path))
    assert mine.GetForegroundVolumeID() == preview.nodes.cells.heat.GetID(), "it is still up"
    assert "VoCo base" not in path.read_text(encoding="utf-8")

    loaded = sceneWithViews()
    loaded.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "first")  # the saved ones get other IDs
    loaded.SetURL(str(path))
    assert loaded.Import()
    restoreSaved(loaded)
    assert len(composites(loaded)) == views
    layers = layersOf(composites(loaded)[0])
    assert loaded.GetNodeByID(layers.foreground).GetName() == "other"
    assert (layers.background, layers.label) == (None, None)
    assert np.allclose((layers.foregroundOpacity, layers.labelOpacity), (0.15, 0.85))
    composites(loaded)[0].SetForegroundOpacity(0.5)
    restoreSaved(loaded)
    assert composites(loaded)[0].GetForegroundOpacity() == 0.5, "once is enough"


def test_after_the_preview_nothing_is_noted_on_the_views(scene, preview, tmp_path):
    up(preview).hide()
    path = tmp_path / "scene.mrml"
    scene.SetURL(str(path))
    assert scene.Commit(str(path))
    assert "VoCo" not in path.read_text(encoding="utf-8")


def test_closing_the_scene(scene, preview):
    up(preview)
    told = []
    preview.changed.connect(lambda: told.append(preview.shown))
    volume, views = preview.volume, slicesOf(scene)
    preview.hide()
    counts = [countObservers(node) for node in (scene, volume, *views)]
    up(preview)
    scene.Clear(False)
    assert told[-1] is False and not preview.shown and preview.nodes is None and preview.volume is None
    assert not [n for n in nodeIds(scene) if "Markups" in n or "Model" in n or "Volume" in n]
    assert not any(count() for count in counts)
    preview.setVolume(torso(scene))
    up(preview)


def test_deleting_the_volume_or_a_part(scene, preview):
    before = [nodeId for nodeId in nodeIds(scene) if "Volume" not in nodeId]
    up(preview)
    scene.RemoveNode(preview.roiNode)
    assert not preview.shown and [n for n in nodeIds(scene) if "Volume" not in n] == before
    up(preview)
    scene.RemoveNode(preview.volume)
    assert not preview.shown and preview.volume is None
    assert not [n for n in nodeIds(scene) if "Markups" in n or "Model" in n or "LabelMap" in n]
    assert all(view.GetBackgroundVolumeID() is None for view in composites(scene))


def test_the_volume_goes_while_a_thread_looks_at_it(scene, preview):
    preview.show()
    scene.RemoveNode(preview.volume)
    preview.wait(60)
    assert not preview.shown and preview.nodes is None and not preview.busy


def test_two_previews_do_not_disturb_each_other(scene, preview):
    other = CropPreview(scene)
    other.setVolume(torso(scene, "lps", "second"))
    other.setSettings(chosen())
    before = [layersOf(view) for view in composites(scene)]
    up(preview)
    up(other)
    other.hide()
    assert preview.nodes.complete() and preview.shown
    preview.hide()
    assert [layersOf(view) for view in composites(scene)] == before
    other.cleanup()


@pytest.mark.parametrize("counts", [(4, 4, 1), (3, 3, 2)])
@pytest.mark.parametrize("orientation", ["Axial", "Coronal", "Sagittal"])
def test_slice_views_colour_each_point_as_its_base(scene, preview, orientation, counts):
    """Slicer's own slice pipeline, pixel by pixel: through oblique matrices, small tilts included."""
    node = preview.volume
    made_scene.transform(scene, tilt(), node)
    preview.setSettings(chosen(**{"crops.counts": counts, "crops.volume_size": (100, 110, 50)}))
    up(preview)
    preview.present(opacity=1.0)
    world = preview.world
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLScene(scene)
    view = scene.GetNodeByID("vtkMRMLSliceNodeRed")
    logic.SetSliceNode(view)
    assert view.SetOrientation(orientation)
    view.SetDimensions(160, 160, 1)
    view.SetFieldOfView(45, 45, 1)
    view.JumpSliceByCentering(*world.centres[8 if counts[2] == 2 else 5])
    logic.UpdatePipeline()
    producer = logic.GetImageDataConnection().GetProducer()
    producer.Update()
    image = producer.GetOutput()
    pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(160, 160, -1)[..., :3].astype(int)
    toRas = slicer.util.arrayFromVTKMatrix(view.GetXYToRAS())
    toIndex = np.linalg.inv(world.affine) @ toRas
    y, x = np.mgrid[0:160, 0:160]
    place = np.stack([x, y, 0 * x, 0 * x + 1], -1) @ toIndex.T[:, :3] + 0.5
    edges = [np.abs(place[..., a, None] - world.grid.edges[a]).min(axis=-1) for a in range(3)]
    sure = np.all((place > 0) & (place < world.grid.volume_size), axis=-1) & (np.min(edges, axis=0) > 0.1)
    i, j, k = (np.searchsorted(world.grid.edges[a], place[sure][:, a], side="right") - 1 for a in range(3))
    numbers = (i * counts[1] + j) * counts[2] + k
    table, colour = preview.nodes.cells.cells.GetDisplayNode().GetColorNode(), np.zeros(4)
    for number in set(numbers):
        table.GetColor(int(number) + 1, colour)
        assert np.abs(pixels[sure][numbers == number] - colour[:3] * 255).max() <= 2, number
    assert len(set(numbers)) >= 4 and sure.sum() > 2000


def tilt():
    """A tilt of one and a half degrees about A and of one about R."""
    a, b = np.radians(1.5), np.radians(1)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]) @ np.array(
        [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    )
    return matrix


def test_numbers_lie_in_the_middle_of_what_each_view_cuts(scene, preview):
    preview.setSettings(chosen(**{"crops.counts": (4, 3, 2)}))
    up(preview)
    world = preview.world
    for name, orientation, across in zip(VIEWS, ("Axial", "Sagittal", "Coronal"), (2, 0, 1), strict=True):
        view = scene.GetNodeByID(f"vtkMRMLSliceNode{name}")
        assert view.SetOrientation(orientation)
        for number in (1, 11, 20):
            view.JumpSlice(*world.centres[number])
            node = preview.nodes.numbers.inView(view)
            shown = {n for n in range(world.grid.n) if node.GetNthControlPointVisibility(n)}
            assert number in shown
            place = np.zeros(3)
            node.GetNthControlPointPositionWorld(number, place)
            assert np.allclose(place, world.centres[number], atol=1e-4)
            assert node.GetNthControlPointLabel(number) == str(number)
            sliceToRas = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
            for other in shown:  # every number lies in the plane, within its own cell
                node.GetNthControlPointPositionWorld(other, place)
                assert abs((place - sliceToRas[:3, 3]) @ sliceToRas[:3, 2]) < 1e-4
                index = (np.linalg.inv(world.affine) @ [*place, 1])[:3] + 0.5
                start, size = (part[other] for part in world.grid.starts_and_sizes)
                assert np.all(index > start - 1e-3) and np.all(index < start + size + 1e-3)
            assert len(shown) < world.grid.n, f"cells off the plane are not numbered ({across})"
    preview.present(numbers=False)
    assert not preview.nodes.numbers.inView(view).GetDisplayNode().GetVisibility()


def test_a_plane_between_two_cells_gets_the_numbers_of_one(scene, preview):
    preview.setSettings(chosen(**{"crops.counts": (2, 2, 2)}))
    up(preview)
    world = preview.world
    for number, view in enumerate(slicesOf(scene)):
        plane = np.eye(4)
        plane[:3, :3] = np.roll(world.axes, 2 - number, axis=1)  # its normal is one axis of the grid
        plane[:3, 3] = world.centres.mean(axis=0)
        view.GetSliceToRAS().DeepCopy(plane.ravel())
        view.UpdateMatrices()
        node = preview.nodes.numbers.inView(view)
        places = [
            node.GetNthControlPointPositionWorld(n) for n in range(8) if node.GetNthControlPointVisibility(n)
        ]
        assert len(places) == 4
        assert all(np.linalg.norm(np.subtract(a, b)) > 1 for a in places for b in places if a is not b)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_previews_the_users_layers_come_back_whichever_ends_first(scene, preview, order):
    """Scripts can make more than the one preview of the module."""
    mine, other = torso(scene, name="mine"), CropPreview(scene)
    other.setVolume(torso(scene, name="other"))
    other.setSettings(chosen())
    for composite in composites(scene):
        composite.SetBackgroundVolumeID(mine.GetID())
    before = [layersOf(composite) for composite in composites(scene)]
    both = up(preview), up(other)
    for one in order:
        both[one].hide()
    assert [layersOf(composite) for composite in composites(scene)] == before
    other.cleanup()
