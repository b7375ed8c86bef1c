"""Scoring one case with 14 labels, beside MONAI's metrics on the same arrays: Dice, HD95, surface Dice.

Run: python Testing/benchmarks/bench_evaluation.py [--full]
Short: 128 x 128 x 75 voxels, all labels at once; --full: 512 x 512 x 300, where MONAI gets one label at a time, because
all of them as floats would take 10 GB. Ours also computes the mean surface distance and volumes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from baselines.monai_pipeline import scores
from scipy.ndimage import zoom
from side_by_side import Row, full, in_turn, row, tell

from VoCoCore.evaluation.metrics import LabelMetrics, case_metrics

LABELS, SPACING, TOLERANCE = 14, (0.8, 0.8, 1.5), 1.0
SCORES = ("dice", "hd95", "surface_dice")


def organs(seed: int, moved: float, shape: tuple[int, int, int]) -> np.ndarray:
    """Rough ellipsoids, always the same; ``seed`` changes their surface, ``moved`` shifts them by so many voxels."""
    places = np.random.default_rng(0)
    centres, radii = places.uniform(0.2, 0.8, (LABELS, 3)), places.uniform(0.04, 0.19, (LABELS, 3))
    coarse = np.random.default_rng(seed).standard_normal((LABELS, 16, 16, 10)).astype(np.float32)
    found = np.zeros(shape, np.uint8, order="F")  # as nibabel reads them
    size = np.array(shape)
    for number in range(LABELS):
        low = np.maximum(0, (centres[number] - 1.4 * radii[number]) * size).astype(int)
        high = np.minimum(size, (centres[number] + 1.4 * radii[number]) * size).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        axes = np.ogrid[box]
        away = sum(
            ((x / n - c - moved / n) / r) ** 2
            for x, n, c, r in zip(axes, shape, centres[number], radii[number], strict=True)
        )
        rough = zoom(coarse[number], (high - low) / coarse[number].shape, order=1)
        found[box][away + 0.2 * rough < 1] = number + 1
    return found


def rows(whole: bool) -> Iterator[Row]:
    """One case."""
    shape = (512, 512, 300) if whole else (128, 128, 75)
    reference, prediction = organs(1, 0.0, shape), organs(2, 1.5, shape)
    labels = {str(number): (number,) for number in range(1, LABELS + 1)}
    tensors = torch.from_numpy(reference), torch.from_numpy(prediction)
    found: dict[str, LabelMetrics] = {}
    peer: dict[str, list[float]] = {}

    def ours() -> None:
        found.update(case_metrics(reference, prediction, SPACING, labels, TOLERANCE))

    def theirs() -> None:
        peer.update(scores(*tensors, SPACING, LABELS, TOLERANCE, at_once=1 if whole else LABELS))

    times = in_turn(ours, theirs, 1 if whole else 3, warm=int(not whole))
    apart = max(
        abs(getattr(mine, name) - value) / max(abs(value), 1e-9)
        for name in SCORES
        for mine, value in zip(found.values(), peer[name], strict=True)
    )
    size = " x ".join(map(str, shape))
    name = f"score a case of {size} voxels, {LABELS} labels (baseline: MONAI's metrics)"
    yield row(name, "CPU s", times, "ratio >= 3", difference=apart)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tell(rows(full(__doc__)))
