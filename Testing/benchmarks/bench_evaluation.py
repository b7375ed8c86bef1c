"""Scoring one case of 512 x 512 x 300 voxels with 14 labels, beside MONAI's metrics on the same arrays.

Run: python Testing/benchmarks/bench_evaluation.py
Prints a JSON list; CPU seconds of one process. MONAI gets one label at a time, because all 15 as floats would
take 10 GB; it computes what ours does (Dice, HD95, mean surface distance, surface Dice), in four calls as its users do.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from scipy.ndimage import zoom

from VoCoCore.evaluation.metrics import LabelMetrics, case_metrics

SHAPE, LABELS, SPACING, TOLERANCE = (512, 512, 300), 14, (0.8, 0.8, 1.5), 1.0
ROUNDS = 3


def organs(seed: int, moved: float) -> np.ndarray:
    """Rough ellipsoids, always the same; ``seed`` changes their surface, ``moved`` shifts them by so many voxels."""
    places = np.random.default_rng(0)
    centres, radii = places.uniform(0.2, 0.8, (LABELS, 3)), places.uniform(0.04, 0.19, (LABELS, 3))
    coarse = np.random.default_rng(seed).standard_normal((LABELS, 16, 16, 10)).astype(np.float32)
    found = np.zeros(SHAPE, np.uint8, order="F")  # as nibabel reads them
    size = np.array(SHAPE)
    for number in range(LABELS):
        low = np.maximum(0, (centres[number] - 1.4 * radii[number]) * size).astype(int)
        high = np.minimum(size, (centres[number] + 1.4 * radii[number]) * size).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        axes = np.ogrid[box]
        away = sum(
            ((x / n - c - moved / n) / r) ** 2
            for x, n, c, r in zip(axes, SHAPE, centres[number], radii[number], strict=True)
        )
        rough = zoom(coarse[number], (high - low) / coarse[number].shape, order=1)
        found[box][away + 0.2 * rough < 1] = number + 1
    return found


def seconds(work: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Quickest of ``rounds``, and how far the slowest was from it."""
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times), max(times) - min(times)


def monai_scores(reference: torch.Tensor, prediction: torch.Tensor) -> dict[str, tuple[float, ...]]:
    """Dice, HD95, mean surface distance and surface Dice of each label."""
    found = {}
    for number in range(1, LABELS + 1):
        a, b = ((array == number)[None, None] for array in (prediction, reference))
        values = (
            compute_dice(a, b, include_background=True),
            compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=SPACING),
            compute_average_surface_distance(a, b, include_background=True, symmetric=True, spacing=SPACING),
            compute_surface_dice(a, b, [TOLERANCE], include_background=True, spacing=SPACING),
        )
        found[str(number)] = tuple(float(value) for value in values)
    return found


def figures(found: LabelMetrics) -> tuple[float, ...]:
    """The same four of ours."""
    return found.dice, found.hd95, found.asd, found.surface_dice


def main() -> None:
    """Print the rows as JSON."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    reference, prediction = organs(1, 0.0), organs(2, 1.5)
    labels = {str(number): (number,) for number in range(1, LABELS + 1)}
    ours = case_metrics(reference, prediction, SPACING, labels, TOLERANCE)
    time_ours, spread = seconds(
        lambda: case_metrics(reference, prediction, SPACING, labels, TOLERANCE), ROUNDS
    )
    tensors = torch.from_numpy(reference), torch.from_numpy(prediction)
    theirs: dict[str, tuple[float, ...]] = {}
    time_theirs, _ = seconds(lambda: theirs.update(monai_scores(*tensors)), 1)
    apart = max(
        abs(a - b) / max(abs(b), 1e-9)
        for name in labels
        for a, b in zip(figures(ours[name]), theirs[name], strict=True)
    )
    size = " x ".join(map(str, SHAPE))
    row = {
        "name": f"score a case of {size} voxels, {LABELS} labels (baseline: MONAI's metrics)",
        "unit": "CPU-s",
        "ours": time_ours,
        "baseline": time_theirs,
        "ratio": time_theirs / time_ours,
        "spread": spread,
        "goal": "ratio at least 2",
        "largest relative difference": apart,
    }
    print(json.dumps([row], indent=1))


if __name__ == "__main__":
    main()
