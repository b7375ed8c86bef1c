"""A scene with three slice views and a volume, for the tests of the crop preview."""

from __future__ import annotations

import itertools

import made_scene
import numpy as np
import slicer

from VoCoCore.presets import resolve_pretrain
from VoCoSlicerLib.preview_nodes import nodesByClass

VIEWS = ("Red", "Green", "Yellow")


def sceneWithViews():
    """A scene with a slice node and a composite node for each of VIEWS."""
    scene = slicer.vtkMRMLScene()
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)  # views that are there already get none
    for name in VIEWS:
        addView(scene, name)
    return scene


def addView(scene, name):
    """A slice view's two nodes; returns the composite node."""
    made = []
    for className in ("vtkMRMLSliceNode", "vtkMRMLSliceCompositeNode"):
        node = scene.CreateNodeByClass(className)
        node.UnRegister(None)
        node.SetLayoutName(name)
        node.SetSingletonTag(name)
        made.append(scene.AddNode(node))
    return made[1]


def composites(scene):
    """The composite nodes of all views."""
    return nodesByClass(scene, "vtkMRMLSliceCompositeNode")


def block(shape=(15, 26, 20)):
    """A bright block in air with some texture (k, j, i); voxels [2, 13) x [5, 24) x [3, 16) are bright."""
    array = np.full(shape, -1000, np.int16)
    array[2:13, 5:24, 3:16] = 60 + np.arange(11 * 19 * 13).reshape(11, 19, 13) % 50
    return array


def torso(scene, geometry="oblique", name="torso"):
    """A volume node that can be previewed."""
    node = made_scene.volume(scene, block(), name, geometry)
    node.CreateDefaultDisplayNodes()
    return node


def chosen(**options):
    """Resolved settings, small unless told otherwise."""
    return resolve_pretrain(options={"preset": "tiny", **options})


def up(preview):
    """Switch a preview on and wait for it."""
    preview.show()
    preview.wait(60)
    assert preview.ready
    return preview


def worldAffine(node):
    """IJK to world RAS (4, 4), from VTK's answers for single points."""
    origin = made_scene.world(node, (0, 0, 0))
    made = np.eye(4)
    for axis in range(3):
        made[:3, axis] = made_scene.world(node, np.eye(3)[axis]) - origin
    made[:3, 3] = origin
    return made


def boxCorners(affine, start, size):
    """Corners (8, 3) in mm of a box in index space, one by one."""
    ends = itertools.product(*((low, low + length) for low, length in zip(start, size, strict=True)))
    return np.array([affine[:3, :3] @ (np.array(end) - 0.5) + affine[:3, 3] for end in ends])


def roiCorners(node):
    """Corners (8, 3) in mm of a markups ROI, from its own matrix and size."""
    matrix = slicer.util.arrayFromVTKMatrix(node.GetObjectToWorldMatrix())
    halves = np.array(list(itertools.product((-0.5, 0.5), repeat=3))) * node.GetSize()
    return halves @ matrix[:3, :3].T + matrix[:3, 3]


def same(found, expected, tolerance=1e-6):
    """Whether two sets of points are the same, in any order."""
    distance = np.linalg.norm(np.asarray(found)[:, None] - np.asarray(expected)[None], axis=2)
    return distance.min(axis=0).max() < tolerance and distance.min(axis=1).max() < tolerance


def countObservers(node):
    """Count, from now on, the observers that Python adds to ``node`` and takes off it again; returns the reading."""
    tags, add, remove = set(), node.AddObserver, node.RemoveObserver

    def counting(*values):
        tags.add(tag := add(*values))
        return tag

    def uncounting(tag):
        tags.discard(tag)
        remove(tag)

    node.AddObserver, node.RemoveObserver = counting, uncounting
    return lambda: len(tags)


def nodeIds(scene):
    """IDs of all nodes."""
    return [scene.GetNthNode(number).GetID() for number in range(scene.GetNumberOfNodes())]


def slicesOf(scene):
    return [scene.GetNodeByID(f"vtkMRMLSliceNode{name}") for name in VIEWS]
