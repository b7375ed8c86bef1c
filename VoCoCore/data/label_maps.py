"""Label maps: read, held against their image, and brought onto its prepared grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from VoCoCore.data.cases import Case, Source
from VoCoCore.data.images import grid_difference, read_header, read_image
from VoCoCore.data.images_itk import is_segmentation
from VoCoCore.data.plan import Plan
from VoCoCore.data.segments import drawn, laid_on
from VoCoCore.data.volume import ImageError, Volume
from VoCoCore.errors import DataError

LARGEST_VALUE = 2**15 - 1
IGNORE = "ignore"  # nnU-Net's name of the label whose voxels do not count
NOT_COUNTED = -1  # what they are in a prepared label


def ignored_value(labels: Mapping[str, int] | None) -> int | None:
    """The value of voxels that do not count, among the labels that a list of cases names."""
    return (labels or {}).get(IGNORE)


def read_map(source: Source) -> Volume:
    """A label map as it is stored, or drawn from its segments. Raises ImageError, which for one with a fourth axis
    speaks of labels; DataError for a segment that is none of the labels.
    """
    if source.segments:
        return drawn(source)
    try:
        return read_image(source)
    except ImageError as error:
        if error.kind != "not_3d" or (maps := read_header(source).channels) < 2:
            raise
        raise ImageError(
            f"the label map {source.path} is 4D with {maps} volumes",
            "save it as one 3D map in which each label has a value of its own",
            error.kind,
        ) from None


def map_along(source: Source, shape: Sequence[int], affine: np.ndarray) -> Volume:
    """A label map along the axes of its image's grid ``shape`` (3,), ``affine`` (4, 4), and on that grid where it is of
    3D Slicer and holds a part of it. Raises as `read_map`.
    """
    volume = read_map(source).along(affine)
    return laid_on(volume, tuple(shape), affine) if is_segmentation(source.path) else volume


def read_label(
    case: Case,
    shape: Sequence[int],
    affine: np.ndarray,
    declared: Sequence[int],
    ignored: int | None = None,
) -> np.ndarray:
    """The label (X, Y, Z) int16 of a case on its image's grid, ``shape`` (3,) and ``affine`` (4, 4); NOT_COUNTED where
    it has the value ``ignored``.

    Raises DataError, naming the file, where it lies on another grid, or holds anything but whole numbers among
    ``declared``.
    """
    assert case.label is not None
    path, volume = case.label.path, map_along(case.label, shape, affine)
    if difference := grid_difference(shape, affine, volume.array.shape, volume.affine):
        raise DataError(
            f"the label {path} is not on the grid of its image: {difference}",
            "resample the label onto its image, nearest neighbour",
        )
    found = values_of(volume.array, path)
    odd = sorted(set(found) - set(declared))
    if odd:
        raise DataError(
            f"the label {path} holds {_listed(odd)}, declared are {_listed(sorted(declared))}",
            "correct the label, or the list of labels in dataset.json",
        )
    label = volume.array.astype(np.int16)
    if ignored in found:
        label[label == ignored] = NOT_COUNTED
    if (label < 0).all():
        raise DataError(
            f"the label {path} says of no voxel what it is", "leave the case out, or label some of it"
        )
    return label


def label_values(source: Source) -> list[int]:
    """The values in a label file, in order. Raises DataError for anything but whole numbers."""
    return values_of(read_map(source).array, source.path)


def values_of(array: np.ndarray, path: str) -> list[int]:
    """The values in a label, in order.

    Raises DataError, naming ``path``, for others than whole numbers from 0 to LARGEST_VALUE.
    """
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and np.array_equal(array, np.rint(array))):
        raise DataError(
            f"the label {path} has values that are not whole numbers",
            "give a label map, not an image or probabilities",
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > LARGEST_VALUE:
        raise DataError(
            f"the label {path} has values from {low} to {high}", f"labels are 0 to {LARGEST_VALUE}"
        )
    return np.flatnonzero(np.bincount(array.ravel(order="K").astype(np.int64))).tolist()


def prepared_label(label: np.ndarray, plan: Plan) -> np.ndarray:
    """The label (X, Y, Z) of the source at the voxels of the prepared image (plan.shape), nearest neighbour.

    For plans that neither pad nor resize, as fine-tuning makes them.
    """
    assert plan.shape == plan.size, "labels are never stretched"
    oriented = plan.oriented(label)
    nearest = [
        np.clip(np.rint(points).astype(np.intp), 0, edge - 1)
        for points, edge in zip(plan.box_points(), oriented.shape, strict=True)
    ]
    return np.ascontiguousarray(oriented[np.ix_(*nearest)])


def _listed(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return f"{shown}, ..." if len(values) > 8 else shown
