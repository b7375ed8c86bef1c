"""Volumes, transforms and segmentations made for tests, and where their voxels lie, computed by VTK alone."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "VoCoSlicer"))

# Directions (columns i, j, k in RAS), spacings and origins of the geometries that must come out right.
GEOMETRIES = {
    "plain": (np.eye(3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    "lps": (np.diag([-1.0, -1.0, 1.0]), (0.7, 0.7, 3.0), (120.0, 95.5, -310.25)),
    "flipped": (np.diag([1.0, -1.0, -1.0]), (0.9, 1.1, 2.5), (-30.0, 44.0, 12.0)),
    "sagittal": (np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]]), (0.5, 0.6, 1.4), (3.0, -80.0, 60.0)),
    "left-handed": (np.array([[0, 0, 1.0], [1, 0, 0], [0, -1, 0]]), (0.5, 0.6, 1.4), (3.0, -80.0, 60.0)),
    "oblique": (np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]]), (1.2, 0.8, 2.0), (10.0, -20.0, 33.0)),
}


def volume(scene, array, name="image", geometry="plain"):
    """A scalar volume node of ``array`` (k, j, i)."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetAndObserveImageData(imageOf(np.asarray(array)))
    directions, spacing, origin = GEOMETRIES[geometry]
    node.SetIJKToRASDirections(np.asarray(directions, float).tolist())
    node.SetSpacing(spacing)
    node.SetOrigin(origin)
    return node


def imageOf(array, kind=vtk.vtkImageData):
    """A vtkImageData with a copy of ``array`` (k, j, i) or (k, j, i, values)."""
    image = kind()
    image.SetDimensions(*array.shape[2::-1])
    flat = np.ascontiguousarray(array).reshape(-1, *array.shape[3:])
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    return image


def noise(shape=(9, 20, 24), seed=0, dtype=np.int16):
    """Values of a CT (k, j, i), none alike its neighbours."""
    return np.random.default_rng(seed).integers(-1000, 1500, shape).astype(dtype)


def transform(scene, matrix, child=None, name="move"):
    """A linear transform node with ``matrix`` (4, 4); ``child`` goes below it."""
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    made = vtk.vtkMatrix4x4()
    made.DeepCopy(np.asarray(matrix, float).ravel().tolist())
    node.SetMatrixTransformToParent(made)
    if child is not None:
        child.SetAndObserveTransformNodeID(node.GetID())
    return node


def turn(degrees, shift=(0, 0, 0), scale=1.0):
    """A rotation about S by ``degrees``, a shift in mm and a scale, as a matrix (4, 4)."""
    angle = np.radians(degrees)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, :3] *= scale
    matrix[:3, 3] = shift
    return matrix


def warp(scene, child, name="warp"):
    """Put ``child`` under a transform that is not linear."""
    node = scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", name)
    spline = vtk.vtkThinPlateSplineTransform()
    points = vtk.vtkPoints(), vtk.vtkPoints()
    for place in itertools.product((0, 50), repeat=3):
        points[0].InsertNextPoint(place)
        points[1].InsertNextPoint(place[0], place[1] + place[0] ** 2 / 50, place[2])
    spline.SetSourceLandmarks(points[0])
    spline.SetTargetLandmarks(points[1])
    spline.SetBasisToR()
    node.SetAndObserveTransformFromParent(spline)
    child.SetAndObserveTransformNodeID(node.GetID())
    return node


def world(node, ijk):
    """World RAS of continuous index ``ijk``, by VTK: the node's matrix, then its parents' transforms, one by one."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    point = np.array(matrix.MultiplyPoint([*map(float, ijk), 1.0]))[:3]
    parent = node.GetParentTransformNode()
    while parent is not None:
        one = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToParent(one)
        point = np.array(one.MultiplyPoint([*point, 1.0]))[:3]
        parent = parent.GetParentTransformNode()
    return point


def corners(node):
    """(index, world RAS) of the eight corner voxels."""
    ends = [(0, edge - 1) for edge in node.GetImageData().GetDimensions()]
    return [(ijk, world(node, ijk)) for ijk in itertools.product(*ends)]


def segmentation(scene, node, masks, name="segments", values=None):
    """A segmentation on the grid of volume ``node``; ``masks``: segment name -> bool (k, j, i), each a layer."""
    made = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    made.SetReferenceImageGeometryParameterFromVolumeNode(node)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    for title, mask in masks.items():
        image = imageOf(np.asarray(mask).astype(np.uint8), slicer.vtkOrientedImageData)
        image.SetImageToWorldMatrix(matrix)
        made.AddSegmentFromBinaryLabelmapRepresentation(image, title)
    return made


def sphere(centre, radius):
    """A closed surface."""
    source = vtk.vtkSphereSource()
    source.SetCenter(*centre)
    source.SetRadius(radius)
    source.SetThetaResolution(60)
    source.SetPhiResolution(60)
    source.Update()
    return source.GetOutput()


def written(export, seconds=60.0):
    """Poll an export until its thread has begun, and wait until that has written its first version."""
    until = time.monotonic() + seconds
    while export._thread is None:  # a busy machine takes several slices of time to take the nodes
        assert time.monotonic() < until, export.poll()
        export.poll()
    export._thread.join()


def finish(export, seconds=60.0):
    """Poll an export until its end; returns the last state."""
    until = time.monotonic() + seconds
    while not (state := export.poll()).finished:
        assert time.monotonic() < until, state
        time.sleep(0.002)
    return state
