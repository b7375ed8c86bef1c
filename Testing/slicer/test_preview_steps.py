"""The preview's nodes come and go step by step; whatever happens between two steps, nothing of them stays."""

from __future__ import annotations

import pytest
import slicer
from preview_scene import chosen, composites, nodeIds, sceneWithViews, torso, up

from VoCoSlicerLib import preview_nodes
from VoCoSlicerLib.preview_layers import layersOf
from VoCoSlicerLib.preview_nodes import nodesByClass


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


@pytest.mark.parametrize("end", ["hidden", "closed", "part deleted", "volume deleted", "cleanup"])
def test_a_preview_that_ends_half_made_leaves_nothing(scene, preview, slowly, end):
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
