"""Make the sample cases that come with the Slicer module: synthetic torsos, so nobody's data.

.venv/bin/python docs/make_samples.py
"""

from __future__ import annotations

import colorsys
from pathlib import Path

from VoCoCore.data.images import write_image
from VoCoCore.data.phantom import make_case
from VoCoCore.data.phantom_shapes import LABELS
from VoCoCore.data.segmentations import write_segmentation

FOLDER = Path(__file__).resolve().parents[1] / "VoCoSlicer" / "Resources" / "SampleData"
SEED = 2024
LARGE, SMALL, COHORT = (96, 96, 48), (64, 64, 32), 6


def segments() -> dict[str, tuple[int, tuple[int, int, int]]]:
    """Name -> (voxel value, colour): neighbours in the list get hues far from each other."""
    found = {}
    for name, value in LABELS.items():
        if value:
            red, green, blue = colorsys.hsv_to_rgb(value * 0.381966 % 1, 0.6, 0.9)
            found[name] = (value, (round(255 * red), round(255 * green), round(255 * blue)))
    return found


def make(name: str, number: int, size: tuple[int, int, int]) -> None:
    """Write NAME.nrrd (HU) and NAME.seg.nrrd."""
    case = make_case(SEED, number, size)
    write_image(FOLDER / f"{name}.nrrd", case.image, case.affine)
    write_segmentation(FOLDER / f"{name}.seg.nrrd", case.label, case.affine, segments())


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    make("VoCoTorso", 0, LARGE)
    for case_number in range(1, COHORT + 1):
        make(f"VoCoTorso{case_number}", case_number, SMALL)
