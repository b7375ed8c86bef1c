"""What predictions are written as: label maps, names and colours, volumes, diagnoses, probabilities."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from VoCoCore.data.images import write_image
from VoCoCore.data.segmentations import write_segmentation
from VoCoCore.geometry import spacing_of
from VoCoCore.models.card import ModelCard
from VoCoCore.runs.files import patiently, write_json, writing

FORMATS = ("nii.gz", "nrrd", "seg.nrrd")
LABELS, VOLUMES, DIAGNOSES = "labels.json", "volumes.csv", "predictions.csv"


def segments_of(card: ModelCard) -> dict[str, tuple[int, tuple[int, int, int]]]:
    """Name -> (voxel value, RGB) of all outputs but the background."""
    pairs = zip(card.classes, card.written_values(), strict=True)
    return {kind.name: (value, kind.colour) for kind, value in pairs if kind.values != (0,)}


def write_labels(path: Path, labels: np.ndarray, affine: np.ndarray, card: ModelCard) -> None:
    """Write a label map in the format that the name of ``path`` says."""
    if path.name.endswith(".seg.nrrd"):
        write_segmentation(path, labels, affine, segments_of(card))
    else:
        write_image(path, labels, affine)


def write_names(folder: Path, card: ModelCard) -> None:
    """Write what the voxel values mean beside the label maps."""
    segments = segments_of(card)
    write_json(
        folder / LABELS,
        {
            "labels": {name: value for name, (value, _) in segments.items()},
            "colours": {name: list(colour) for name, (_, colour) in segments.items()},
        },
    )


def volumes_ml(labels: np.ndarray, affine: np.ndarray, card: ModelCard) -> dict[str, float]:
    """Volume of each label in millilitres; of a region, of all voxels with its own value alone."""
    each = float(np.prod(spacing_of(affine))) / 1000
    counts = np.bincount(labels.ravel(), minlength=1)
    return {
        name: float(counts[value]) * each if value < len(counts) else 0.0
        for name, (value, _) in segments_of(card).items()
    }


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV, beside its place and then in it."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        beside.write_text(text.getvalue(), encoding="utf-8")
        patiently(lambda: os.replace(beside, path))


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV that an earlier call wrote; none where it is not there."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Probabilities:
    """Collects probabilities plane by plane in a file, and writes them as one 4D image of hundredths of percent."""

    def __init__(self, folder: Path, classes: int, shape: Sequence[int], axis: int) -> None:
        """``shape`` (3,) of the oriented volume, ``axis`` along which planes come."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix=".voco-probabilities-", dir=folder)
        self.axis = axis
        path = Path(self._folder.name) / "values"
        self.values = np.memmap(path, np.uint8, "w+", shape=(*shape, classes))

    def __call__(self, at: int, rows: tuple[int, int], columns: tuple[int, int], found: np.ndarray) -> None:
        """Take one plane (K, u, v); what never comes stays 0."""
        where: list[Any] = [slice(*rows), slice(*columns)]
        where.insert(self.axis, at)
        self.values[tuple(where)] = np.rint(np.moveaxis(found, 0, -1) * 255)

    def write(self, path: Path, turn: Any, affine: np.ndarray) -> None:
        """Write (X, Y, Z, K), in the case's own axes by ``turn``, as NIfTI with values from 0 to 1."""
        turned = np.stack([turn(self.values[..., k]) for k in range(self.values.shape[3])], axis=3)
        image = nib.Nifti1Image(turned, affine)
        image.header.set_slope_inter(1 / 255, 0)
        beside = path.with_name(f".{os.getpid()}-{path.name}")
        with writing(path):
            nib.save(image, beside)
            patiently(lambda: os.replace(beside, path))
        del self.values
        self._folder.cleanup()


def as_rows(case: str, volumes: Mapping[str, float], values: Mapping[str, int]) -> list[list[Any]]:
    """Rows of volumes.csv of one case."""
    return [[case, name, values[name], f"{ml:.3f}"] for name, ml in volumes.items()]
