"""Slice views and cameras that show little of the grid are brought to it while it is previewed, and go back."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from preview_scene import addView, slicesOf, up


def cuts(view, world):
    """Whether the plane of a slice view meets the grid, and its middle lies over it."""
    toIndex = np.linalg.inv(world.affine) @ slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
    place = toIndex[:3, 3] + 0.5
    return bool(np.all(place > 0) and np.all(place < world.grid.volume_size))


def test_views_that_show_nothing_of_the_grid_are_brought_to_it(scene, preview):
    red, green, yellow = slicesOf(scene)
    for view, orientation in zip((red, green, yellow), ("Axial", "Coronal", "Sagittal"), strict=True):
        view.SetOrientation(orientation)
        view.SetDimensions(400, 300, 1)
    up(preview)
    world, middle = preview.world, preview.world.centres.mean(axis=0)
    preview.hide()
    red.JumpSliceByCentering(*np.add(middle, (900, 0, 0)))  # beside it, in its plane
    green.JumpSliceByCentering(*np.add(middle, (0, 700, 0)))  # behind it
    yellow.JumpSliceByCentering(*middle)
    yellow.SetFieldOfView(40, 30, 1)
    places = [placeOf(view) for view in (red, green, yellow)]
    up(preview)
    assert placeOf(yellow) == places[2], "it shows a part of the grid: that is what its user looks at"
    crop = world.centreOf(preview.box)
    for view in (red, green):
        assert cuts(view, world)
        toView = np.linalg.inv(slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS()))
        assert abs((toView @ [*crop, 1])[2]) < 1e-6, "the crop is cut"
        corners = world.corners.reshape(-1, 3) @ toView[:3, :3].T + toView[:3, 3]
        reach = np.divide(view.GetFieldOfView()[:2], 2)
        assert np.all(np.abs(corners[:, :2]) <= reach + 1e-6), "all of the grid is seen"
        assert reach[0] / reach[1] == pytest.approx(4 / 3)
    green.JumpSlice(*middle)
    scrolled = placeOf(green)
    assert scrolled != places[1]
    red.SetFieldOfView(*(0.9 * edge for edge in red.GetFieldOfView()))  # Slicer, with the width of the panel
    preview.hide()
    assert [placeOf(view) for view in (red, yellow)] == [places[0], places[2]]
    assert placeOf(green) == scrolled, "where its user went afterwards he stays"


def test_a_view_that_shows_the_grid_at_its_edge_is_brought_to_it(scene, preview):
    """The middle of the view is over the grid, and most of it is not."""
    up(preview)
    world, middle = preview.world, preview.world.centres.mean(axis=0)
    preview.hide()
    red = slicesOf(scene)[0]
    red.SetDimensions(400, 400, 1)
    red.JumpSliceByCentering(*middle)
    size = np.ptp(world.corners.reshape(-1, 3), axis=0).max()
    red.SetFieldOfView(size, size, 1)
    right, upwards = slicer.util.arrayFromVTKMatrix(red.GetSliceToRAS())[:3, :2].T
    red.JumpSliceByCentering(*(middle + 0.1 * size * right))
    near = placeOf(red)
    up(preview)
    assert placeOf(red) == near, "nearly all of it is seen"
    preview.hide()
    red.JumpSliceByCentering(*(middle + 0.35 * size * (right + upwards)))
    edge = placeOf(red)
    up(preview)
    found = np.linalg.inv(slicer.util.arrayFromVTKMatrix(red.GetSliceToRAS())) @ [*middle, 1]
    assert np.allclose(found[:2], 0, atol=1e-6)
    preview.hide()
    assert placeOf(red) == edge


def test_a_camera_that_shows_the_grid_badly_looks_at_it_meanwhile(scene, preview):
    up(preview)
    world, middle = preview.world, preview.world.centres.mean(axis=0)
    preview.hide()
    radius = np.linalg.norm(world.corners.reshape(-1, 3) - middle, axis=1).max()
    # Where each is and what it looks at, from the middle of the grid in radii.
    views = {
        "beside": ((30, 0, 0), (30, -9, 0)),
        "far": ((0, 99, 0), (0, 0, 0)),
        "left": ((30, 0, 0), (30, -9, 0)),
        "well": ((0.3, 4, 0), (0.3, 0, 0)),
    }
    cameras = {name: scene.AddNewNodeByClass("vtkMRMLCameraNode", name) for name in views}
    for name, (position, focus) in views.items():
        cameras[name].SetPosition(middle + radius * np.asarray(position))
        cameras[name].SetFocalPoint(middle + radius * np.asarray(focus))
    before = {name: lookOf(camera) for name, camera in cameras.items()}
    up(preview)
    assert lookOf(cameras["well"]) == before["well"]
    for name in ("beside", "far", "left"):
        position, focus = np.asarray(lookOf(cameras[name]))
        assert np.allclose(focus, middle) and np.linalg.norm(position - middle) > radius
        assert np.allclose(np.cross(focus - position, np.subtract(*before[name])), 0, atol=1e-3), "from there"
    cameras["left"].SetPosition(np.add(middle, (0, 0, 500)))
    there = lookOf(cameras["left"])
    preview.hide()
    assert lookOf(cameras["left"]) == there, "where its user went afterwards he stays"
    for name in ("beside", "far", "well"):
        assert np.allclose(lookOf(cameras[name]), before[name])


def lookOf(node):
    """Where a camera is and what it looks at."""
    return node.GetCamera().GetPosition(), node.GetCamera().GetFocalPoint()


def placeOf(view):
    """The plane and the field of view of a slice view."""
    return slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS()).tolist(), view.GetFieldOfView()


def test_views_of_another_layout_are_brought_too(scene, preview):
    """A volume that lies elsewhere is previewed, and then its user chooses a layout with views of its own."""
    up(preview)
    world, middle = preview.world, preview.world.centres.mean(axis=0)
    (red, *_) = slicesOf(scene)
    red.JumpSliceByCentering(*np.add(middle, (900, 0, 0)))
    away = placeOf(red)
    preview.volume.SetOrigin(*np.add(preview.volume.GetOrigin(), (0, 0, 400)))
    preview.wait(60)
    addView(scene, "Compare1")
    new = scene.GetNodeByID("vtkMRMLSliceNodeCompare1")
    assert not cuts(new, preview.world), "Slicer is still making it, and would crash"
    assert preview.busy
    preview.wait(60)
    assert cuts(new, preview.world) and not cuts(new, world)
    preview.present(opacity=0.5)
    assert placeOf(red) == away, "where its user went he stays"
    preview.hide()
    assert np.allclose(np.asarray(placeOf(new)[0])[:3, 3], 0), "as it came"
