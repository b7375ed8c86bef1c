"""Segmentations that 3D Slicer saved (.seg.nrrd): segments have names, lie in layers, and on a grid of their own.

The voxel values in such a file are numbers in the order in which segments were added, another one in each file: what a
voxel is, a segment's name says. Segments that overlap lie in several layers, which make the file 4D; the grid may be
cropped to what is segmented, or reach beyond the image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from VoCoCore.data.cases import Case, Index, Source
from VoCoCore.data.images import SAME_GRID, read_header, read_images
from VoCoCore.data.images_itk import is_segmentation
from VoCoCore.data.names import BACKGROUND, same_name
from VoCoCore.data.volume import Volume
from VoCoCore.errors import DataError, nearest
from VoCoCore.geometry import is_invertible

_FACT = re.compile(rb"Segment(\d{1,5})_(ID|Name|LabelValue|Layer):=(.*)")
_MOST_LINES, _LONGEST = 100_000, 1 << 16


@dataclass(frozen=True)
class Segment:
    """One segment: where its voxels have which ``value``."""

    name: str
    value: int
    layer: int


def segments_of(path: str) -> tuple[Segment, ...]:
    """The segments that the header of a .seg.nrrd names, in their order; none of another or unreadable file."""
    if not is_segmentation(path):
        return ()
    facts: dict[int, dict[str, str]] = {}
    try:
        with open(path, "rb") as file:
            for line in islice(iter(lambda: file.readline(_LONGEST), b""), _MOST_LINES):
                if not line.strip(b"\r\n"):  # voxels follow
                    break
                if found := _FACT.match(line.rstrip(b"\r\n")):
                    text = found[3].decode("utf-8", "replace").replace("\\n", " ").replace("\\\\", "\\")
                    facts.setdefault(int(found[1]), {})[found[2].decode()] = text
    except OSError:
        return ()
    return tuple(_segment(number, facts[number]) for number in sorted(facts) if "ID" in facts[number])


def _segment(number: int, facts: Mapping[str, str]) -> Segment:
    def whole(key: str, otherwise: int) -> int:
        text = facts.get(key, "").strip()
        return int(text) if text.isdecimal() and len(text) < 10 else otherwise

    name = " ".join(facts.get("Name", facts["ID"]).split())
    # Slicer before 4.11 had a layer for each segment, in which it is 1.
    return Segment(name or facts["ID"], whole("LabelValue", 1), whole("Layer", number))


def with_segments(index: Index) -> Index:
    """The index whose labels know by name what their segments are, where they are segmentations of 3D Slicer.

    Without names in ``index.labels`` these come from the segments, with values in the order of the alphabet: the same
    names make the same values, whatever the cases. A file none of whose segments has a name of ``index.labels`` keeps
    its voxel values, as do all where some labels are maps without names.
    """
    paths = list(dict.fromkeys(case.label.path for case in index.cases if case.label is not None))
    files = {path: segments for path in paths if (segments := segments_of(path))}
    labels = index.labels
    if labels is None and len(files) == len(paths):
        labels = named_values(segment.name for segments in files.values() for segment in segments)
    if not files or labels is None:
        return index
    pairs = {path: matched(segments, labels) for path, segments in files.items()}
    return replace(index, labels=labels, cases=tuple(_known(case, pairs) for case in index.cases))


def refuse_mixed(index: Index) -> None:
    """Raise DataError where nobody named labels and only some are segments, whose values are others in each file."""
    if index.labels is not None:
        return
    labels = [case.label.path for case in index.cases if case.label is not None]
    named = next((path for path in labels if segments_of(path)), None)
    plain = next((path for path in labels if not segments_of(path)), None)
    if named and plain:
        raise DataError(
            f"the labels in {named} have names, those in {plain} have not",
            "save all as .seg.nrrd, or name the values in a dataset.json",
        )


def _known(case: Case, pairs: Mapping[str, tuple[tuple[str, int], ...]]) -> Case:
    if case.label is None or case.label.path not in pairs:
        return case
    return replace(case, label=replace(case.label, segments=pairs[case.label.path]))


def named_values(names: Iterable[str]) -> dict[str, int]:
    """Name -> value of segments: 0 for the background, then 1, 2, ... in the order of the alphabet."""
    spelled: dict[str, str] = {}
    for name in names:
        spelled.setdefault(same_name(name), name)
    spelled.pop(BACKGROUND, None)
    return {BACKGROUND: 0} | {spelled[key]: value for value, key in enumerate(sorted(spelled), start=1)}


def matched(segments: Iterable[Segment], labels: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """(name of a segment, value) of those that ``labels`` know."""
    values = {same_name(name): value for name, value in labels.items()}
    found = {segment.name: values.get(same_name(segment.name)) for segment in segments}
    return tuple((name, value) for name, value in found.items() if value is not None)


def drawn(source: Source) -> Volume:
    """The label map int16 of ``source.segments``; where segments overlap, the later one wins, as in Slicer's export.

    Raises DataError for a segment that has no value there, ImageError as `read_image`.
    """
    segments, wanted = segments_of(source.path), dict(source.segments)
    unknown = next((one.name for one in segments if one.name not in wanted), None)
    if unknown is not None:
        raise DataError(
            f"the segment '{unknown}' in {source.path} is none of the labels.{nearest(unknown, wanted)}",
            "rename it, delete it, or add it to the list of labels",
        )
    layers = max(read_header(source).channels, 1)
    volumes = read_images([Source(source.path, volume=n if layers > 1 else None) for n in range(layers)])
    # The number of the segment, which says who came later, before its value.
    latest = np.zeros(volumes[0].array.shape, np.int16)
    for number, volume in enumerate(volumes):
        table = np.zeros(int(np.iinfo(np.uint16).max) + 1, np.int16)
        for place, segment in enumerate(segments, start=1):
            if segment.layer == number and segment.value < len(table):
                table[segment.value] = place
        table[0] = 0
        np.maximum(latest, table[_whole(volume.array, source.path)], out=latest)
    values = np.array([0, *(wanted[segment.name] for segment in segments)], np.int16)
    return Volume(values[latest], volumes[0].affine)


def _whole(array: np.ndarray, path: str) -> np.ndarray:
    found = array if array.dtype == np.uint8 else array.astype(np.uint16)
    if not np.array_equal(found, array):
        raise DataError(
            f"the label {path} has values that are not whole numbers", "save the segmentation again"
        )
    return found


def laid_on(volume: Volume, shape: tuple[int, ...], affine: np.ndarray) -> Volume:
    """``volume`` (its axes along those of the grid) cropped and filled up with 0 to the grid ``shape`` (3,), ``affine``
    (4, 4), where its voxels are some of that grid's; else as it is.
    """
    start = _start(affine, volume.affine)
    if start is None:
        return volume
    low, high = np.maximum(start, 0), np.minimum(start + volume.array.shape, shape)
    if (low >= high).any():
        return volume
    array = np.zeros(shape, volume.array.dtype)
    inside = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
    array[tuple(map(slice, low, high))] = volume.array[inside]
    moved = volume.affine.copy()
    moved[:3, 3] -= volume.affine[:3, :3] @ start
    return Volume(array, moved)


def laid_together(one: Volume, other: Volume) -> tuple[Volume, Volume]:
    """Two volumes (along the same axes) filled up with 0 to a grid that holds the voxels of both; as they are where
    their grids have no voxel in common.
    """
    start = _start(one.affine, other.affine)
    if start is None or (start >= one.array.shape).any() or (start + other.array.shape <= 0).any():
        return one, other
    low = np.minimum(start, 0)
    x, y, z = np.maximum(one.array.shape, start + other.array.shape) - low
    affine = one.affine.copy()
    affine[:3, 3] += one.affine[:3, :3] @ low
    return laid_on(one, (int(x), int(y), int(z)), affine), laid_on(other, (int(x), int(y), int(z)), affine)


def _start(affine: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """The voxel (3,) of a grid in which the first one of another grid lies; None where it lies between voxels, or the
    affine cannot be inverted.
    """
    if not is_invertible(affine):
        return None
    offset = np.linalg.solve(affine, other)[:3, 3]
    start = np.rint(offset).astype(int)
    return start if np.abs(offset - start).max() <= SAME_GRID else None
