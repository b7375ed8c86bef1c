"""What predictions are written as: label maps, names and colours, volumes, diagnoses, probabilities."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from VoCoCore.data.cases import Case
from VoCoCore.data.dicom_seg import write_dicom_seg
from VoCoCore.data.images import write_image
from VoCoCore.data.segmentations import write_label_nrrd, write_segmentation
from VoCoCore.errors import DataError
from VoCoCore.models.card import ModelCard
from VoCoCore.runs.cells import as_cell, from_cell
from VoCoCore.runs.files import replacing, write_json

# Formats of label maps, and how their files end.
FORMATS = {"nii.gz": ".nii.gz", "nrrd": ".nrrd", "seg.nrrd": ".seg.nrrd", "dicom-seg": ".dcm"}
LABELS, VOLUMES, DIAGNOSES = "labels.json", "volumes.csv", "predictions.csv"
PROBABILITIES = "probabilities"  # folder beside these
VOLUME_COLUMNS = ("case", "label", "value", "volume_ml")


def segments_of(card: ModelCard) -> dict[str, tuple[int, tuple[int, int, int]]]:
    """Name -> (voxel value, RGB) of all outputs but the background, and of what regions share that only overlap."""
    pairs = zip(card.classes, card.written_values(), strict=True)
    found = {kind.name: (value, kind.colour) for kind, value in pairs if kind.values != (0,)}
    for together, value in card.combinations().items():
        kinds = [card.classes[number] for number in sorted(together)]
        if value not in card.written_values():
            found.setdefault(" and ".join(kind.name for kind in kinds), (value, kinds[0].colour))
    return found


def write_labels(path: Path, labels: np.ndarray, affine: np.ndarray, card: ModelCard, case: Case) -> None:
    """Write a case's label map in the format that the name of ``path`` says."""
    if path.name.endswith(FORMATS["seg.nrrd"]):
        write_segmentation(path, labels, affine, segments_of(card))
    elif path.name.endswith(FORMATS["dicom-seg"]):
        write_dicom_seg(path, labels, case.images[0], segments_of(card))
    elif path.name.endswith(FORMATS["nrrd"]):
        write_label_nrrd(path, labels, affine)
    else:
        write_image(path, labels, affine)


def write_names(folder: Path, card: ModelCard) -> None:
    """Write what the voxel values mean beside the label maps."""
    segments = segments_of(card)
    facts: dict[str, Any] = {
        "labels": {name: value for name, (value, _) in segments.items()},
        "colours": {name: list(colour) for name, (_, colour) in segments.items()},
    }
    if card.activation != "softmax":
        facts["regions"] = {kind.name: list(kind.values) for kind in card.classes}
    write_json(folder / LABELS, facts)


def volumes_ml(labels: np.ndarray, affine: np.ndarray, card: ModelCard) -> dict[str, float]:
    """Volume of each label in millilitres; of a region with all the smaller ones in it."""
    each = abs(float(np.linalg.det(np.asarray(affine)[:3, :3]))) / 1000
    most = max(int(value) for kind in card.classes for value in kind.values)
    counts = np.zeros(max(most, *card.written_values()) + 1, np.int64)
    for plane in labels:  # at once, numpy would make a copy of eight bytes a voxel
        counts += np.bincount(plane.ravel(), minlength=len(counts))
    return {
        kind.name: float(counts[list(kind.values)].sum()) * each
        for kind in card.classes
        if kind.values != (0,)
    }


def as_csv(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as lines of a CSV."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([map(as_cell, row) for row in rows])
    return text.getvalue()


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV, beside its place and then in it."""
    with replacing(path) as beside:
        beside.write_bytes(as_csv([header, *rows]).encode())  # the same line ends everywhere


def read_table(path: Path, header: Sequence[str]) -> list[list[str]]:
    """Rows, below ``header``, of a CSV that an earlier call wrote; none where it is not there.

    A last line that a kill has cut off is left out. Raises DataError where another program has saved the table in
    another form: its rows would be lost.
    """
    if not path.is_file():
        return []
    try:
        data = path.read_bytes()
        text = data[: data.rfind(b"\n") + 1].decode("utf-8")
        first, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except (UnicodeDecodeError, csv.Error):
        first, rows = [], []
    if first != list(header) or any(len(row) != len(first) for row in rows):
        raise DataError(
            f"{path} is not as it was written: another program has changed its form",
            "put the table back, or move it away: its cases are then predicted again",
        )
    return [list(map(from_cell, row)) for row in rows]


def as_rows(case: str, volumes: Mapping[str, float], values: Mapping[str, int]) -> list[list[Any]]:
    """Rows of volumes.csv of one case."""
    return [[case, name, values[name], f"{ml:.3f}"] for name, ml in volumes.items()]
