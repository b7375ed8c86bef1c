"""The preview's nodes come and go step by step; whatever happens between two steps, nothing of them stays."""

from __future__ import annotations

import pytest
import slicer
from preview_scene import chosen, composites, nodeIds, sceneWithViews, torso, up

from VoCoSlicerLib import preview_nodes
from VoCoSlicerLib.preview_layers import layersOf
from VoCoSlicerLib.preview_nodes import nodesByClass
from VoCoSlicerLib.preview_places import SlicePlaces
from VoCoSlicerLib.preview_scene import PreviewScene


@pytest.fixture
def scene():
    made = sceneWithViews()
    made.SetUndoOn()
    return made


@pytest.fixture
def slowly(monkeypatch):
    """Each look at the preview does one step of what Slicer's views would have to take note of."""
    monkeypatch.setattr(preview_nodes, "BUDGET", 0)


def halfUp(scene, preview):
    """Switch the preview on and stop at each step of making its nodes: yields their IDs so far."""
    made = 0
    while True:
        before = set(nodeIds(scene))
        preview.show()
        while len(new := set(nodeIds(scene)) - before) <= made or preview.nodes is not None:
            if preview.ready:
                return
            preview.poll()
        made = len(new)
        yield new


@pytest.fixture
def fails(monkeypatch):
    """While there is something in this list, each next step of making the nodes raises."""
    build, wanted = PreviewScene.build, []

    def failing(*arguments):
        for step in build(*arguments):
            yield step
            if wanted:
                raise KeyError("a defect")

    monkeypatch.setattr(PreviewScene, "build", failing)
    return wanted


ENDS = ["hidden", "closed", "part deleted", "volume deleted", "cleanup", "a step that fails"]


@pytest.mark.parametrize("end", ENDS)
def test_a_preview_that_ends_half_made_leaves_nothing(scene, preview, slowly, fails, end):
    steps, was = 0, nodeIds(scene)
    for new in halfUp(scene, preview):
        steps += 1
        if end == "hidden":
            preview.hide()
        elif end == "cleanup":
            preview.cleanup()
        elif end == "closed":
            scene.Clear(False)
        elif end == "part deleted":
            scene.RemoveNode(scene.GetNodeByID(max(new)))
        elif end == "a step that fails":
            fails.append(1)
            assert not preview.poll() and "KeyError" in preview.error.message
            assert not preview.ready and not new & set(nodeIds(scene)), (
                "the nodes have not waited to be hidden"
            )
            fails.clear()
            preview.hide()
        else:
            scene.RemoveNode(preview.volume)
        assert not preview.shown and not preview.busy and preview.nodes is None
        left = set(nodeIds(scene))
        assert not new & left
        if end in ("closed", "volume deleted"):
            preview.setVolume(torso(scene))
        else:
            assert left == set(was)
    assert steps >= 4


def test_views_that_cannot_be_reached_end_the_preview_and_keep_no_node(scene, preview, monkeypatch):
    was, layers = set(nodeIds(scene)), [layersOf(view) for view in composites(scene)]
    up(preview)
    with monkeypatch.context() as patch:
        patch.setattr(SlicePlaces, "bring", lambda *_: {}["view"])
        patch.setattr(SlicePlaces, "restore", lambda *_: {}["view"])
        assert not preview.poll() and "KeyError" in preview.error.message
    assert not preview.ready and set(nodeIds(scene)) == was
    assert [layersOf(view) for view in composites(scene)] == layers
    preview.hide()
    assert up(preview) and preview.error is None


def test_other_choices_while_nodes_are_made_are_those_that_come(scene, preview, slowly):
    for number, _new in enumerate(halfUp(scene, preview)):
        preview.setSettings(chosen(**{"crops.counts": (2 + number, 2, 1)}))
        preview.wait(60)
        assert preview.ready and preview.world.grid.n == 2 * (2 + number)
        models = nodesByClass(scene, "vtkMRMLModelNode")
        assert len([node for node in models if "outlines" in node.GetName()]) == 1
        assert len(slicer.util.arrayFromModelPoints(preview.nodes.outlines.grid)) == 16 * (2 + number)
        preview.hide()


@pytest.mark.parametrize("after", [1, 4, 9])
@pytest.mark.parametrize("then", ["nothing", "shown", "hidden", "closed", "cleanup"])
def test_nodes_that_leave_step_by_step_are_gone_in_the_end(scene, preview, slowly, after, then):
    before, layers = nodeIds(scene), [layersOf(view) for view in composites(scene)]
    left = set(nodeIds(up(preview) and scene)) - set(before)
    preview.hide(gently=True)
    assert not preview.shown and preview.nodes is None and preview.busy and left & set(nodeIds(scene))
    assert [layersOf(view) for view in composites(scene)] == layers, "the views are given back at once"
    for _ in range(after):
        assert preview.poll()
    assert 0 < len(left & set(nodeIds(scene))) < len(left)
    if then == "shown":
        preview.show()
        preview.wait(60)
        assert preview.ready and len(nodesByClass(scene, "vtkMRMLMarkupsROINode")) == 1
        preview.hide()
    elif then == "hidden":
        preview.hide()
        assert not preview.busy, "nobody polls the preview of a module that was left"
    elif then == "closed":
        scene.Clear(False)
        # The user's own, under numbers that were the preview's.
        for name in ("MarkupsROI", "Model", "MarkupsFiducial", "LabelMapVolume", "ColorTable"):
            scene.AddNewNodeByClass(f"vtkMRML{name}Node", "mine")
        before = nodeIds(scene)
        assert len(left & set(before)) >= 4
    elif then == "cleanup":
        preview.cleanup()
    preview.wait(60)
    assert not preview.busy and nodeIds(scene) == before
