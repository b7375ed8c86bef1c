"""What a prediction wrote, read without touching the scene: this may run in a thread.

A folder of predictions holds label maps (CASE.seg.nrrd, .nrrd, .nii.gz), ``labels.json`` (names, colours, regions),
``volumes.csv``, on request ``probabilities/CASE.nii.gz``, or for a diagnosis ``predictions.csv`` alone.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import vtk
from vtk.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from VoCoCore.errors import DataError
from VoCoCore.runs.cells import from_cell
from VoCoCore.runs.files import read_json
from VoCoSlicerLib.nifti import readNifti, readNiftiHeader, readNiftiVolumes
from VoCoSlicerLib.nrrd import readNrrd

Colour = tuple[int, int, int]
LABELS, VOLUMES, DIAGNOSES, PROBABILITIES = "labels.json", "volumes.csv", "predictions.csv", "probabilities"
ENDINGS = (".seg.nrrd", ".nrrd", ".nii.gz")
BACKGROUND = "background"


class LabelMap:
    """A label map that is ready for the scene.

    ``array`` (k, j, i) uint8 or uint16; ``affine`` (4, 4) IJK to world RAS mm; ``counts``: voxels of each value;
    ``boxes``: (first, end) voxel (i, j, k) of each value's box, absent values left out.
    """

    def __init__(self, array: np.ndarray, affine: np.ndarray) -> None:
        self.array, self._whole = inVtk(array)
        self.affine = np.asarray(affine, float)
        self.counts, self.boxes = _measured(self.array)
        self._regions: dict[tuple[int, ...], Any] = {}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        k, j, i = self.array.shape
        return i, j, k

    def scalars(self, values: tuple[int, ...] = ()):
        """The voxels as a VTK array; with ``values``, an array that is 1 where one of them is."""
        if not values:
            return self._whole
        if values not in self._regions:
            self._regions[values] = inVtk(np.isin(self.array, values).astype(np.uint8))
        return self._regions[values][1]

    def prepare(self, names: LabelNames) -> LabelMap:
        """Do now, in a thread, what would take time later; returns itself."""
        for value in names.labels:
            if (values := names.valuesOf(value)) != (value,):
                self.scalars(values)
        return self

    def part(self, values: tuple[int, ...]) -> tuple[Any, tuple[int, ...]] | None:
        """Where ``values`` are, with a voxel around that is outside: a VTK array of 0 and 1, and its extent (i, i, j,
        j, k, k) on this grid, which it may reach over by that voxel; None: nowhere.
        """
        boxes = [self.boxes[value] for value in values if value in self.boxes]
        if not boxes:
            return None
        low, high = np.min([box[0] for box in boxes], axis=0), np.max([box[1] for box in boxes], axis=0)
        box = tuple(slice(*ends) for ends in zip(low[::-1], high[::-1], strict=True))
        made, scalars = _inVtk((high - low + 2)[::-1], np.dtype(np.uint8))
        made[:] = 0
        inside = made[1:-1, 1:-1, 1:-1].view(bool)
        # One call for all: each has to wait for Python's lock.
        if len(values) == 1:
            np.equal(self.array[box], values[0], out=inside)
        else:
            self.scalars(values)
            np.equal(self._regions[values][0][box], 1, out=inside)
        return scalars, tuple(int(end) for ends in zip(low - 1, high, strict=True) for end in ends)

    def milliliters(self, values: Iterable[int]) -> float:
        """Volume of all voxels that have one of ``values``."""
        voxels = sum(int(self.counts[value]) for value in set(values) if value < len(self.counts))
        return voxels * abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000


def inVtk(array: np.ndarray):
    """(view (k, j, i), VTK array) of a copy of ``array`` in VTK's own memory: handing it to an image costs nothing."""
    view, scalars = _inVtk(array.shape, array.dtype)
    view[:] = array
    return view, scalars


def _inVtk(shape: Sequence[int], dtype: np.dtype):
    """(view of that shape, VTK array) of new memory, not set to anything."""
    scalars = vtk.vtkDataArray.CreateDataArray(get_vtk_array_type(dtype))
    scalars.SetNumberOfTuples(int(np.prod(shape)))
    return vtk_to_numpy(scalars).reshape(shape), scalars


def _measured(array: np.ndarray) -> tuple[np.ndarray, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Voxels and boxes of all values but 0, slice by slice."""
    length = int(array.max(initial=0)) + 1
    counts = np.zeros(length, np.int64)
    seen = [np.zeros((length, edge), bool) for edge in array.shape]
    _, j, i = array.shape
    for number, plane in enumerate(array):
        found = np.bincount(plane.ravel(), minlength=length)
        counts += found
        present = np.flatnonzero(found)
        seen[0][present, number] = True
        if present[-1] == 0:
            continue
        rows, columns = np.nonzero(plane)
        values = plane[rows, columns].astype(np.intp)
        seen[1] |= np.bincount(values * j + rows, minlength=length * j).reshape(length, j) > 0
        seen[2] |= np.bincount(values * i + columns, minlength=length * i).reshape(length, i) > 0
    boxes = {}
    for value in np.flatnonzero(counts[1:]) + 1:
        ends = [np.flatnonzero(axis[value])[[0, -1]] for axis in seen[::-1]]
        boxes[int(value)] = (np.array([end[0] for end in ends]), np.array([end[1] + 1 for end in ends]))
    return counts, boxes


@dataclass(frozen=True)
class LabelNames:
    """``labels``: voxel value -> name; ``colours``: voxel value -> RGB from 0 to 255; ``regions``: name -> all values
    that the region consists of, where labels overlap (BraTS).
    """

    labels: dict[int, str] = field(default_factory=dict)
    colours: dict[int, Colour] = field(default_factory=dict)
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def valuesOf(self, value: int) -> tuple[int, ...]:
        """All voxel values that belong to the label that ``value`` stands for."""
        return self.regions.get(self.labels.get(value, ""), (value,))


def readLabelMap(path: str | Path) -> LabelMap:
    """A label map of `voco predict`. Raises DataError, naming the file, for anything else."""
    path = Path(path)
    name = path.name.lower()
    if name.endswith(".nrrd"):
        array, header = readNrrd(path)
        affine = header.affine
    elif name.endswith((".nii", ".nii.gz")):
        array, found = readNifti(path)
        affine = found.affine
    else:
        raise DataError(f"{path} is no label map that can be shown here", "predict with the format seg.nrrd")
    if array.dtype.kind not in "iu" or int(array.min()) < 0 or int(array.max()) >= 1 << 16:
        raise DataError(f"{path} holds other values than labels", "choose what 'voco predict' wrote")
    return LabelMap(array.astype(np.uint8 if int(array.max()) < 256 else np.uint16, copy=False), affine)


def readNames(folder: str | Path) -> LabelNames:
    """Names, colours and regions beside the label maps of a folder; empty where there are none."""
    facts = read_json(Path(folder) / LABELS)
    facts = facts if isinstance(facts, dict) else {}
    try:
        labels = {int(value): str(name) for name, value in (facts.get("labels") or {}).items()}
        byName = {str(n): tuple(int(part) for part in rgb) for n, rgb in (facts.get("colours") or {}).items()}
        regions = {
            str(n): tuple(int(v) for v in values) for n, values in (facts.get("regions") or {}).items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{Path(folder) / LABELS} is damaged: {error}", "predict again") from error
    colours = {value: byName[name] for value, name in labels.items() if len(byName.get(name, ())) == 3}
    return LabelNames(labels, colours, regions)


class Probability:
    """The probability map of one label: ``array`` (k, j, i) float32 from 0 to 1, ``affine`` to world RAS mm.

    ``scalars``: the same as a VTK array.
    """

    def __init__(self, name: str, array: np.ndarray, affine: np.ndarray) -> None:
        self.name, self.affine = name, affine
        self.array, self.scalars = inVtk(array)


def readProbabilities(path: str | Path, names: Sequence[str], wanted: Sequence[str] | None = None):
    """Yield a `Probability` for each label of a 4D file, one at a time: all of them may not fit into memory.

    ``names``: the labels in the order of the file, the background left out; ``wanted``: only these. Raises DataError.
    """
    header = readNiftiHeader(path)
    extra = header.volumes - len(names)
    if extra not in (0, 1):
        raise DataError(f"{path} holds {header.volumes} maps for {len(names)} labels", "predict again")
    titles = [BACKGROUND] * extra + list(names)
    chosen = [n for n in range(extra, header.volumes) if wanted is None or titles[n] in wanted]
    if not chosen:
        return
    for number, (array, found) in zip(chosen, readNiftiVolumes(path, chosen), strict=True):
        scaled = array.astype(np.float32)
        scaled *= np.float32(found.slope)
        scaled += np.float32(found.inter)
        yield Probability(titles[number], scaled, found.affine)


def readTable(
    path: str | Path, texts: Sequence[str], numbers: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Rows of volumes.csv or predictions.csv with these columns; none where it is not there.

    ``numbers``: columns that are read as numbers (None: all after ``texts``, each called p(NAME)). Raises DataError
    where a column is missing or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        return []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if numbers is None and reader.fieldnames:  # a class may be called "case", as against "control"
                first, rest = reader.fieldnames[: len(texts)], reader.fieldnames[len(texts) :]
                reader.fieldnames = [*first, *(f"p({name})" for name in rest)]
            rows: list[dict[str, Any]] = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}", "predict again") from error
    for row in rows:
        asked = [name for name in row if name not in texts] if numbers is None else numbers
        for name in (*texts, *asked):
            if row.get(name) is None:
                bare = name if name in texts or numbers is not None else name[2:-1]
                raise DataError(f"{path} has no column {bare!r}", "choose the folder of a prediction")
        row.update({name: from_cell(row[name]) for name in texts})
        try:
            row.update({name: float(row[name]) for name in asked})
        except (TypeError, ValueError) as error:
            raise DataError(f"{path} is damaged: {error}", "predict again") from error
    return rows


def labelFile(folder: str | Path, name: str) -> Path | None:
    """The label map of the case whose files are called ``name``; None where it was not predicted."""
    paths = (Path(folder) / (name + ending) for ending in ENDINGS)
    return next((path for path in paths if path.is_file()), None)
