"""Small label maps with predictions of known quality, and tables of scores, made for the tests of evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from VoCoCore.evaluation.cases_table import PER_CASE, SUMMARY, write_per_case
from VoCoCore.evaluation.metrics import LabelMetrics

SHAPE, SPACING = (20, 18, 12), (1.0, 2.0, 2.5)
AFFINE = np.diag([*SPACING, 1.0])
LIVER, SPLEEN = 1, 2


def organs(seed: int = 0) -> np.ndarray:
    """Two boxes, a little elsewhere for each seed."""
    rng = np.random.default_rng(seed)
    array = np.zeros(SHAPE, np.uint8)
    a, b = rng.integers(1, 4, 3), rng.integers(0, 3, 3)
    array[a[0] : a[0] + 7, a[1] : a[1] + 9, a[2] : a[2] + 6] = LIVER
    array[b[0] + 11 : b[0] + 16, b[1] + 3 : b[1] + 12, b[2] + 1 : b[2] + 8] = SPLEEN
    return array


def moved(array: np.ndarray, voxels: int = 1) -> np.ndarray:
    """The map as somebody who is off by so many voxels along x would have it."""
    return np.roll(array, voxels, axis=0)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def cohort(root: Path, cases: int = 4, ending: str = ".nii.gz") -> tuple[Path, Path]:
    """Folders of references and of predictions, ``case0`` and so on; each prediction a voxel off, the last one two."""
    for number in range(cases):
        array = organs(number)
        save(root / "references" / f"case{number}.nii.gz", array)
        save(root / "predictions" / f"case{number}{ending}", moved(array, 2 if number == cases - 1 else 1))
    return root / "references", root / "predictions"


def dataset(root: Path, cases: int = 4, labels: Mapping[str, Any] | None = None) -> Path:
    """An nnU-Net data set with images, and predictions beside it in ``predictions``."""
    names = {"background": 0, "liver": LIVER, "spleen": SPLEEN} if labels is None else dict(labels)
    content = {
        "channel_names": {"0": "CT"}, "labels": names, "numTraining": cases, "file_ending": ".nii.gz"
    }  # fmt: skip
    for number in range(cases):
        array = organs(number)
        grey = (100 * array.astype(np.int16)) + np.random.default_rng(number).integers(0, 50, SHAPE, np.int16)
        save(root / "imagesTr" / f"case{number}_0000.nii.gz", grey)
        save(root / "labelsTr" / f"case{number}.nii.gz", array)
        save(root / "predictions" / f"case{number}.nii.gz", moved(array))
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def scored(
    folder: Path,
    dice: Mapping[str, Mapping[str, float]],
    patients: Mapping[str, str] | None = None,
    **facts: Any,
) -> Path:
    """An evaluation with these scores, case -> label -> Dice; ``facts`` make it a fine-tuning run with a test split.

    ``patients``: case -> first case of its patient.
    """
    inside = folder / "test" if facts else folder
    inside.mkdir(parents=True, exist_ok=True)
    scores = {
        case: {label: LabelMetrics(dice=value, state="") for label, value in labels.items()}
        for case, labels in dice.items()
    }
    write_per_case(inside / PER_CASE, scores, patients or {})
    (inside / SUMMARY).write_text(json.dumps({"tolerance_mm": 1.0}))
    if facts:
        (folder / "environment.json").write_text(json.dumps({"finetune": facts}))
    return folder
