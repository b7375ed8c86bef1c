"""Small labelled data sets in a folder, that tests of fine-tuning spoil each in its own way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

NAMES = {"background": 0, "blob": 1, "other": 2}


def body(seed: int = 0) -> np.ndarray:
    """Something like a CT of 36 x 34 x 33 voxels."""
    return np.random.default_rng(seed).integers(-900, 300, (36, 34, 33)).astype(np.int16)


def mask(*values: float, kind: type = np.uint8, shape: tuple[int, ...] = (36, 34, 33)) -> np.ndarray:
    """A box for each value."""
    label = np.zeros(shape, kind)
    for place, value in enumerate(values):
        label[4 + 8 * place : 11 + 8 * place, 6:20, 6:20] = value
    return label


def write(path: Path, array: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return path.name


class Cases:
    """A data set in a folder, which each test spoils in its own way; ``labels`` is the list in dataset.json."""

    def __init__(self, folder: Path, count: int = 4) -> None:
        self.folder, self.labels = folder, dict(NAMES)
        self.entries: list[dict[str, Any]] = []
        for number in range(count):
            image = write(folder / f"c{number}.nii.gz", body(number))
            label = write(folder / f"l{number}.nii.gz", mask(1, 2))
            self.entries.append({"image": image, "label": label})

    def save(self) -> Path:
        content = {"labels": self.labels, "channel_names": {"0": "CT"}, "training": self.entries}
        (self.folder / "dataset.json").write_text(json.dumps(content))
        return self.folder / "dataset.json"


def rows(folder: Path, *lines: str) -> Path:
    Cases(folder)
    (folder / "list.csv").write_text("\n".join(["image,label,split,patient", *lines]) + "\n")
    return folder / "list.csv"
