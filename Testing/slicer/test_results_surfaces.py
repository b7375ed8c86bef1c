"""Surfaces of predicted segments: Slicer's own, made in a thread, one segment after the other."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import slicer
from made_scene import GEOMETRIES, noise, volume
from test_results import card, exportOf, predicted
from vtk.util.numpy_support import vtk_to_numpy

from VoCoCore.data.images import read_case
from VoCoSlicerLib.results_load import PredictionLoad

EDGE = (
    ("background", (0,), (0, 0, 0)),
    ("body", (1, 2), (200, 30, 10)),
    ("left kidney", (2,), (10, 220, 40)),
    ("spleen", (3,), (0, 0, 200)),
)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_surfaces_are_those_that_slicer_makes(scene, tmp_path, geometry):
    node = volume(scene, noise((14, 30, 36)), "abdomen", geometry)
    index, byId = exportOf(scene, [node], tmp_path / "in")

    def drawn(case):
        array, affine = read_case(case)
        found = np.zeros(array.shape[1:], np.uint8)
        found[:, :20] = 1  # reaches the edge
        found[8:15, 5:15, 4:10] = 2
        return found, affine

    folder = predicted(tmp_path / "out", index, model=card(EDGE, "sigmoid"), labels=drawn)
    load = PredictionLoad(scene, folder, byId)
    load.start()
    beside = False
    while not load.poll().finished:
        beside |= any("surfaces" in thread.name for thread in threading.enumerate())
    assert beside and not load.failed, load.failed
    [made] = load.segmentations
    assert made.GetDisplayNode().GetVisibility3D()
    segmentation, rule = made.GetSegmentation(), slicer.vtkBinaryLabelmapToClosedSurfaceConversionRule()
    sizes = []
    for number in range(segmentation.GetNumberOfSegments()):
        segment, theirs = segmentation.GetNthSegment(number), slicer.vtkSegment()
        theirs.AddRepresentation("Binary labelmap", segment.GetRepresentation("Binary labelmap"))
        theirs.SetLabelValue(segment.GetLabelValue())
        rule.Convert(theirs)
        ours, slicers = (one.GetRepresentation("Closed surface") for one in (segment, theirs))
        sizes.append(ours.GetNumberOfPoints())
        assert ours.GetNumberOfPoints() == slicers.GetNumberOfPoints(), segment.GetName()
        assert ours.GetNumberOfPolys() == slicers.GetNumberOfPolys()
        if sizes[-1]:
            points, normals = (
                [one.GetPoints().GetData(), one.GetPointData().GetNormals()] for one in (ours, slicers)
            )
            for mine, his in zip(points, normals, strict=True):
                assert np.allclose(vtk_to_numpy(mine), vtk_to_numpy(his), atol=1e-3)
    assert [size > 0 for size in sizes] == [True, True, False]


def withoutSurfaces(scene, folder) -> PredictionLoad:
    """A prediction that comes in: its segmentation is in the scene, its surfaces are to be made."""
    node = volume(scene, noise(), "abdomen")
    index, byId = exportOf(scene, [node], folder / "in")
    load = PredictionLoad(scene, predicted(folder / "out", index), byId)
    load.start()
    while not load.segmentations:
        load.poll()
    return load


@pytest.mark.parametrize("withoutVoxels", [False, True])
def test_a_segment_deleted_while_its_surface_is_made_is_left_out(scene, tmp_path, withoutVoxels):
    load = withoutSurfaces(scene, tmp_path)
    [made] = load.segmentations
    if withoutVoxels:  # made a surface alone, before the first of ours
        made.GetSegmentation().GetSegment("Segment_1").RemoveRepresentation("Binary labelmap")
    else:
        load.poll()
        made.GetSegmentation().RemoveSegment("Segment_1")
    while not (now := load.poll()).finished:
        pass
    assert now.error is None, now.error
    assert not load.failed and made.GetSegmentation().GetSegment("Segment_2").GetRepresentation(
        "Closed surface"
    )


def test_the_views_hear_of_surfaces_when_all_segments_have_one(scene, tmp_path):
    """As soon as a view finds that one segment has a surface, it makes those of all others, on the window's thread."""
    node = volume(scene, noise(), "abdomen")
    index, byId = exportOf(scene, [node], tmp_path / "in")
    heard = []

    def look(made, event):
        segmentation = made.GetSegmentation()
        segments = [segmentation.GetNthSegment(n) for n in range(segmentation.GetNumberOfSegments())]
        heard.append((event, [one.GetRepresentation("Closed surface") is not None for one in segments]))

    def watch(scene, event):
        for made in slicer.util.getNodesByClass("vtkMRMLSegmentationNode", scene):
            if not made.HasObserver("AnyEvent"):
                made.AddObserver("AnyEvent", look)

    scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, watch)
    load = PredictionLoad(scene, predicted(tmp_path / "out", index), byId)
    load.run()
    assert all(len(set(surfaces)) < 2 for _, surfaces in heard), heard
    assert heard[-1][1] == [True, True]
    steps = [len(surfaces) for _, surfaces in heard]
    assert set(steps) == {0, 2}, "each segment that is added alone is drawn anew by all views"


def test_a_segmentation_that_was_hidden_meanwhile_stays_hidden(scene, tmp_path):
    load = withoutSurfaces(scene, tmp_path)
    display = load.segmentations[0].GetDisplayNode()
    assert display.GetVisibility()
    display.SetVisibility(False)
    while not load.poll().finished:
        pass
    assert not display.GetVisibility()
