"""Whether the file that a volume was read from still is that volume, so that it need not be written again."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from VoCoCore.errors import DataError
from VoCoCore.geometry import spacing_of
from VoCoSlicerLib.nifti import readNiftiHeader
from VoCoSlicerLib.nrrd import LPS_TO_RAS, readNrrdHeader

APART = 0.1  # voxels that two grids may lie apart and still be one
SAME = 1e-3  # mm that the same voxel may lie apart: NIfTI keeps its numbers in 32 bits


def acceptedKind(path: str) -> bool:
    """Whether the trainer reads a file of this name and its geometry can be compared here."""
    name = os.path.basename(path).lower()
    return name.endswith((".nii", ".nii.gz", ".nrrd", ".mha")) and not name.endswith(".seg.nrrd")


def fileGrid(path: str | Path) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape (i, j, k) and affine (4, 4) to RAS mm of a file of an accepted kind. Raises DataError."""
    name = str(path).lower()
    if name.endswith(".nrrd"):
        header = readNrrdHeader(path)
        return header.shape, header.affine
    if name.endswith(".mha"):
        return _metaImage(path)
    found = readNiftiHeader(path)
    if found.volumes != 1:
        raise DataError(f"{path} holds {found.volumes} volumes", "export it")
    return found.shape, found.affine


def isGridOf(path: str | Path, shape: Sequence[int], affine: np.ndarray) -> bool:
    """Whether the file is there and has this ``shape`` (i, j, k) and ``affine`` (4, 4); never raises."""
    try:
        ours, matrix = fileGrid(path)
    except (DataError, OSError, ValueError, zlib.error, struct.error):
        return False
    return tuple(ours) == tuple(shape) and cornersApart(shape, matrix, affine) <= SAME


def cornersApart(shape: Sequence[int], one: np.ndarray, other: np.ndarray) -> float:
    """Farthest distance, mm, between the same corner voxel of a grid under two affines."""
    ends = np.array(np.meshgrid(*[(0, edge - 1) for edge in shape])).reshape(3, -1)
    moved = (np.asarray(one) - np.asarray(other)) @ np.vstack([ends, np.ones(ends.shape[1])])
    return float(np.linalg.norm(moved[:3], axis=0).max())


def sameGrid(shape: Sequence[int], affine: np.ndarray, otherShape: Sequence[int], other: np.ndarray) -> bool:
    """Whether two grids (shape (i, j, k), affine (4, 4)) have the same voxels, as far as that matters."""
    if tuple(shape) != tuple(otherShape):
        return False
    return cornersApart(shape, affine, other) <= APART * spacing_of(other).min()


def _metaImage(path: str | Path) -> tuple[tuple[int, int, int], np.ndarray]:
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    fields = {}
    for line in head.split(b"\n"):
        name, _, value = line.decode("ascii", "replace").partition("=")
        fields[name.strip().lower()] = value.strip()
        if name.strip().lower() == "elementdatafile":
            break
    try:
        if fields["elementdatafile"] != "LOCAL" or fields["ndims"] != "3":
            raise ValueError("not one 3D image in one file")
        if fields.get("elementnumberofchannels", "1") != "1":
            raise ValueError("several values a voxel")
        i, j, k = (int(edge) for edge in fields["dimsize"].split())
        lps = np.eye(4)
        # Rows of TransformMatrix are the axes of the image.
        axes = np.reshape([float(v) for v in fields["transformmatrix"].split()], (3, 3)).T
        lps[:3, :3] = axes * [float(v) for v in fields["elementspacing"].split()]
        lps[:3, 3] = [float(v) for v in fields["offset"].split()]
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} is no MetaImage of one 3D image: {error}", "export it") from error
    return (i, j, k), LPS_TO_RAS @ lps
