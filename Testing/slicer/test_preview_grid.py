"""What the preview draws is what the trainer cuts, in the patient's space, for any direction of the volume."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from VoCoCore.data.plan import plan_case
from VoCoCore.data.sampling import draw, random_boxes
from VoCoCore.geometry import Box, Grid
from VoCoCore.presets import resolve_pretrain

pytest.importorskip("slicer")
from VoCoSlicerLib import preview_grid
from VoCoSlicerLib.preview_grid import WorldGrid, foregroundCorners, worldGrid

angles = st.floats(-1.2, 1.2)
signs = st.sampled_from([-1.0, 1.0])
spacings = st.floats(0.3, 6.0)


@st.composite
def affines(draw_):
    """Any rotation, flips, permuted axes, anisotropic spacing, and an origin far away."""
    a, b, c = (draw_(angles) for _ in range(3))
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]) @ turn
    turn = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]) @ turn
    order = draw_(st.permutations([0, 1, 2]))
    steps = [draw_(spacings) * draw_(signs) for _ in range(3)]
    made = np.eye(4)
    made[:3, :3] = turn[:, order] * steps
    made[:3, 3] = [draw_(st.floats(-800, 800)) for _ in range(3)]
    return made


def blob(shape=(20, 26, 15)):
    """A bright block in air, off centre: its voxels are [3, 16) x [5, 24) x [2, 13)."""
    array = np.full(shape, -1000, np.int16)
    array[3:16, 5:24, 2:13] = 60
    return array


def chosen(**options):
    return resolve_pretrain(options={"preset": "tiny", **options})


@settings(max_examples=60, deadline=None)
@given(affines())
def test_resized_grid_has_the_corners_that_the_source_says(affine):
    """Worked out from the source's own voxels: first and last kept centre are first and last prepared centre."""
    plan = plan_case(blob()[None], affine, chosen().prepare, (128, 128, 32))
    world = worldGrid(plan, chosen(), 0)
    # The kept block's eight outermost voxel centres, straight from the source's affine.
    ends = itertools.product((3, 15), (5, 23), (2, 12))
    outer = np.array([affine[:3, :3] @ index + affine[:3, 3] for index in ends])
    # Along each prepared axis, those centres lie half a prepared voxel inside the grid.
    axes = world.affine[:3, :3] / np.linalg.norm(world.affine[:3, :3], axis=0)
    steps = np.linalg.norm(world.affine[:3, :3], axis=0)
    corners = world.corners.reshape(-1, 3)
    low, high = (corners @ axes).min(axis=0), (corners @ axes).max(axis=0)
    assert np.allclose(low, (outer @ axes).min(axis=0) - steps / 2, rtol=0, atol=1e-6)
    assert np.allclose(high, (outer @ axes).max(axis=0) + steps / 2, rtol=0, atol=1e-6)
    # 4 x 4 x 1 equal cells between, numbered with x slowest, x towards the patient's right.
    for number, (i, j) in enumerate(itertools.product(range(4), range(4))):
        middle = low + (high - low) * [(i + 0.5) / 4, (j + 0.5) / 4, 0.5]
        assert np.allclose(world.centres[number] @ axes, middle, rtol=0, atol=1e-6)
    # The axes are those of the source, turned towards R, A, S as a whole.
    ours = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    assert np.allclose(np.abs(ours.T @ axes).max(axis=0), 1, atol=1e-9)
    assert all(axes[axis, axis] >= 0 for axis in range(3))


@settings(max_examples=40, deadline=None)
@given(affines(), st.integers(0, 50))
def test_padded_grid_lies_on_the_drawn_region(affine, number):
    """Recipe with padding: the grid is the region of this sample, whole voxels of the prepared volume."""
    wanted = chosen(**{"prepare.fit": "pad", "crops.counts": (2, 3, 1), "crops.volume_size": (11, 12, 8)})
    plan = plan_case(blob()[None], affine, wanted.prepare, (11, 12, 8))
    world, made = worldGrid(plan, wanted, number), draw(wanted, number, plan.shape)
    for box, corners in zip(Grid((11, 12, 8), (2, 3, 1)).boxes(), world.corners, strict=True):
        for corner, (x, y, z) in zip(corners, itertools.product((0, 1), repeat=3), strict=True):
            index = np.add(made.region, box.start) + np.multiply((x, y, z), box.size) - 0.5
            assert np.allclose(corner, plan.affine[:3, :3] @ index + plan.affine[:3, 3], rtol=0, atol=1e-6)
    assert list(world.drawn) == random_boxes(made)


@settings(max_examples=40, deadline=None)
@given(affines())
def test_foreground_box_is_the_bright_block(affine):
    plan = plan_case(blob()[None], affine, chosen().prepare, (128, 128, 32))
    faces = itertools.product((2.5, 15.5), (4.5, 23.5), (1.5, 12.5))
    expected = np.array([affine[:3, :3] @ face + affine[:3, 3] for face in faces])
    found = foregroundCorners(plan)
    distance = np.linalg.norm(found[:, None] - expected[None], axis=2)
    assert np.all(distance.min(axis=0) < 1e-6) and np.all(distance.min(axis=1) < 1e-6)


@settings(max_examples=80, deadline=None)
@given(affines(), st.tuples(*[st.floats(-40, 120)] * 3))
def test_a_crop_goes_to_the_patient_and_back(affine, start):
    world = WorldGrid(Grid((60, 64, 40), (4, 4, 2)), affine, (21, 16, 20), ())
    box = Box(start, (21, 16, 20))
    back = world.boxAt(world.centreOf(box))
    assert np.allclose(back.start, start, rtol=0, atol=1e-8) and back.size == box.size
    inside = world.clamped(box)
    assert np.allclose(inside.start, np.clip(start, 0, [39, 48, 20]), rtol=0, atol=1e-9)
    assert np.isclose(world.labels(inside).sum(), 1)
    part = np.minimum(np.add(start, box.size), (60, 64, 40)) - np.maximum(start, 0)
    share = np.prod(np.maximum(part, 0) / box.size)
    assert np.isclose(world.labels(box).sum(), share, atol=1e-9)
    assert np.isclose(np.linalg.det(world.axes), 1), "a markups ROI needs a right-handed system"


@settings(max_examples=60, deadline=None)
@given(
    affines(),
    st.tuples(*[st.integers(1, 4)] * 3),
    st.tuples(*[st.integers(4, 30)] * 3),
)
def test_every_lattice_voxel_lies_in_its_base_alone(affine, counts, size):
    world = WorldGrid(Grid(size, counts), affine, (1, 1, 1), ())
    lattice = world.lattice
    shape = lattice.classes.shape
    # Corners of every lattice voxel in the grid's index space, by the lattice's own affine.
    relative = np.linalg.inv(affine) @ lattice.affine
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    low = (index - 0.5) @ relative[:3, :3].T + relative[:3, 3] + 0.5
    high = (index + 0.5) @ relative[:3, :3].T + relative[:3, 3] + 0.5
    starts, sizes = world.grid.starts_and_sizes
    own = lattice.classes.ravel()
    assert np.all(low >= starts[own] - 1e-6) and np.all(high <= (starts + sizes)[own] + 1e-6)
    assert set(own) == set(range(world.grid.n))
    assert np.isclose(np.prod(high - low, axis=1).sum(), np.prod(size)), "and together they cover the grid"
    edges = np.linalg.norm(lattice.affine[:3, :3], axis=0)
    assert edges.max() / edges.min() <= preview_grid.MOST_STRETCH + 1e-6, (
        "Slicer drops the tilt of longer voxels"
    )


def test_bases_of_very_different_cuts_get_a_regular_lattice(monkeypatch):
    monkeypatch.setattr(preview_grid, "MOST_LATTICE_VOXELS", 500)
    world = WorldGrid(Grid((97, 101, 53), (3, 4, 2)), np.eye(4), (9, 9, 9), ())
    assert world.lattice.classes.size <= 500
    found, sizes = np.unique(world.lattice.classes, return_counts=True)
    assert len(found) == 24 and len(set(sizes)) == 1
    edges = np.linalg.norm(world.lattice.affine[:3, :3], axis=0) * world.lattice.classes.shape
    assert np.allclose(edges, (97, 101, 53))


def test_voxels_of_a_broken_header_fill_no_memory(monkeypatch):
    """They would be divided until none is long, into more than any memory holds."""
    monkeypatch.setattr(preview_grid, "MOST_LATTICE_VOXELS", 500)
    world = WorldGrid(Grid((64, 64, 32), (4, 4, 1)), np.diag([40, 0.05, 1, 1]), (16, 16, 16), ())
    assert np.array_equal(world.lattice.classes, np.arange(16).reshape(4, 4, 1))
