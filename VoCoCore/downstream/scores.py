"""Counting how well predictions agree: overlap of labels on the device, and what a diagnosis is judged by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


def _counted(kept: Tensor, classes: Tensor, count: int) -> Tensor:
    # Whole numbers added by index: unlike bincount this never waits for the device, and the order does not matter.
    return torch.zeros(count, dtype=torch.int64, device=kept.device).scatter_add_(0, classes, kept.long())


def confusion_counts(predicted: Tensor, target: Tensor, classes: int) -> Tensor:
    """Voxels of each class in both, in ``predicted`` and in ``target``: (3, classes) int64, on their device.

    Whole numbers of one shape, below ``classes``. Where ``target`` is negative nothing counts. Counts of several
    crops or cases may be added.
    """
    p, t = predicted.flatten().long(), target.flatten().long()
    counts = t >= 0
    t = t.clamp(min=0)
    pairs = ((p == t) & counts, counts, counts)
    return torch.stack([_counted(kept, of, classes) for kept, of in zip(pairs, (t, p, t), strict=True)])


def region_counts(predicted: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """The same for overlapping regions: bool (M, K, ...) each, ``valid`` (M, ...) what counts -> (3, K) int64."""
    p, t = predicted.transpose(0, 1).flatten(1).bool(), target.transpose(0, 1).flatten(1).bool()
    if valid is not None:
        p, t = p & valid.flatten(), t & valid.flatten()
    return torch.stack([(p & t).sum(1), p.sum(1), t.sum(1)])


def dice(counts: Tensor) -> Tensor:
    """Dice of each class from `confusion_counts` (..., 3, K) -> (..., K); nan where both are empty.

    On the counts' device, float64 where it has that.
    """
    both, predicted, true = counts.to(torch.float32 if counts.device.type == "mps" else torch.float64).unbind(
        -2
    )
    return 2 * both / (predicted + true)


def score_name(score: str, kind: str) -> str:
    """The name of a class's own ``score`` among the values of a look.

    ``dice_low`` and ``dice_high`` are the ends of the interval, so classes that are called so go in quotes.
    """
    return f"{score}_'{kind}'" if kind in ("low", "high") else f"{score}_{kind}"


def confusion_matrix(predicted: ArrayLike, target: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Cases by true class (rows) and predicted class (columns): (classes, classes)."""
    pairs = np.asarray(target, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def accuracy(matrix: ArrayLike) -> float:
    """Share of cases on the diagonal of a confusion matrix; nan without cases."""
    matrix = np.asarray(matrix, np.float64)
    total = matrix.sum()
    return float(np.trace(matrix) / total) if total else float("nan")


def balanced_accuracy(matrix: ArrayLike) -> float:
    """Mean recall over the classes that have cases; nan without cases."""
    matrix = np.asarray(matrix, np.float64)
    cases = matrix.sum(1)
    recalls = np.diag(matrix)[cases > 0] / cases[cases > 0]
    return float(recalls.mean()) if len(recalls) else float("nan")


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Ranks from 1 upwards of (n,) numbers; equal numbers share their mean rank."""
    _, group, sizes = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    return (last - (sizes - 1) / 2)[group]


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Chance that a positive case scores above a negative one, ties count half; nan where either is missing.

    ``scores`` (n,), ``positive`` (n,) bool.
    """
    of = np.asarray(positive, bool)
    yes, no = int(of.sum()), int((~of).sum())
    if not yes or not no:
        return float("nan")
    return float((ranks(scores)[of].sum() - yes * (yes + 1) / 2) / (yes * no))


def auroc_per_class(
    probabilities: ArrayLike, target: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.float64]:
    """Each class against all others: ``probabilities`` (n, K), ``target`` (n,) -> (K,), nan where undefined."""
    columns = np.asarray(probabilities, np.float64).T
    return np.array([auroc(column, np.asarray(target) == k) for k, column in enumerate(columns)])


def diagnosis_scores(
    probabilities: ArrayLike, target: Sequence[int] | NDArray[np.int64]
) -> dict[str, float | list[float] | list[list[int]]]:
    """Everything a diagnosis is judged by, from ``probabilities`` (n, K) and ``target`` (n,), ready for JSON.

    ``accuracy``, ``balanced_accuracy``, ``auroc`` (mean over the classes where it is defined), ``auroc_per_class``
    and ``confusion`` (true class by predicted class).
    """
    values = np.asarray(probabilities, np.float64)
    matrix = confusion_matrix(values.argmax(1), target, values.shape[1])
    single = auroc_per_class(values, target)
    defined = single[~np.isnan(single)]
    return {
        "accuracy": accuracy(matrix),
        "balanced_accuracy": balanced_accuracy(matrix),
        "auroc": float(defined.mean()) if len(defined) else float("nan"),
        "auroc_per_class": single.tolist(),
        "confusion": matrix.tolist(),
    }
