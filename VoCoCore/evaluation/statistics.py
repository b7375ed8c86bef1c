"""Means and tests for scores of cases: Wilcoxon's signed ranks, Holm's correction; intervals come from `intervals.py`.

A table of scores is (cases, columns) with NaN where a case has no score in a column. A mean over columns is the mean of
the columns' means, so that a label counts alike however many cases have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from VoCoCore.training.intervals import bootstrap_interval, patient_numbers, summed

# Two-sided, the smallest p value of n pairs is 2 / 2^n: below six it cannot reach 0.05.
FEWEST_PAIRS = 6
FEW_PATIENTS = 10  # fewer make rough intervals
_MOST_EXACT = 50  # pairs; beyond, the normal approximation is good
_DIGITS = 9  # differences beyond are rounding, not results


def column_means(table: np.ndarray) -> np.ndarray:
    """Mean of each column (columns,) over the cases that have a score; NaN where none has."""
    known = np.isfinite(table)
    count = known.sum(axis=0)
    return np.where(known, table, 0).sum(axis=0) / np.where(count, count, nan)


def mean_of(values: np.ndarray) -> float:
    """Mean of what is known in ``values`` (n,), NaN where nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else nan


@dataclass(frozen=True)
class Paired:
    """What b scores beyond a on the same cases.

    ``pairs``: cases with both scores, of so many ``patients``; ``ties`` of these have no difference and take no part
    in the test. ``mean`` of the cases' differences and its 95 % interval, ``median`` of them; ``p``: two-sided, of the
    patients' mean differences, NaN where there are too few.
    """

    pairs: int
    patients: int
    ties: int
    mean: float
    low: float
    high: float
    median: float
    p: float


def paired(a: np.ndarray, b: np.ndarray, patients: Sequence[str] | None = None, seed: int = 0) -> Paired:
    """Compare scores (cases,) or (cases, columns) of the same cases in the same order.

    ``patients``: whose each case is, None where each is a patient of its own. Of tables, a case's difference is the
    mean over the columns that both have; its mean over a patient's cases is what is tested. The mean is the mean of the
    columns' mean differences. Raises ValueError for shapes that differ.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"scores of shape {np.shape(a)} and {np.shape(b)} are not of the same cases")
    table = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    table = table[:, None] if table.ndim == 1 else table
    numbers = patient_numbers(patients, len(table))[np.isfinite(table).any(axis=1)]
    cases = np.array([mean_of(row) for row in table if np.isfinite(row).any()])
    if not len(cases):
        return Paired(0, 0, 0, nan, nan, nan, nan, nan)
    low, high = bootstrap_interval(table, patients, seed=seed)
    sums = summed(np.stack([cases, np.ones(len(cases))], axis=1), numbers)
    each = np.round(sums[:, 0] / sums[:, 1], _DIGITS)
    return Paired(
        pairs=len(cases),
        patients=len(each),
        ties=int(np.count_nonzero(each == 0)),
        mean=mean_of(column_means(table)),
        low=low,
        high=high,
        median=float(np.median(np.round(cases, _DIGITS))),
        p=wilcoxon(each),
    )


def wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed ranks for ``differences`` (n,); NaN below six that are not 0.

    Differences of 0 are left out, equal sizes share their mean rank. Exact up to 50 differences, also with equal ones;
    beyond, by scipy's normal approximation.
    """
    from scipy import stats

    left = np.round(np.asarray(differences, dtype=float), _DIGITS)
    left = left[left != 0]
    if len(left) < FEWEST_PAIRS:
        return nan
    if len(left) > _MOST_EXACT:
        # By itself: the approximation's name is another one before scipy 1.14, which Slicer 5.10 does not have.
        return float(stats.wilcoxon(left, correction=True).pvalue)
    # Mean ranks are halves: doubled they are whole numbers, whose sums under random signs can be counted.
    ranks = np.rint(2 * stats.rankdata(np.abs(left))).astype(int)
    ways = np.zeros(ranks.sum() + 1)
    ways[0] = 1.0
    for rank in ranks:
        moved = np.zeros_like(ways)
        moved[rank:] = ways[: len(ways) - rank]
        ways = (ways + moved) / 2
    below = min(ranks[left > 0].sum(), ranks[left < 0].sum())
    return float(min(1.0, 2 * ways[: below + 1].sum()))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p values for being many; NaN (no test was made) stays and is not counted."""
    given = np.asarray(values, dtype=float)
    tested = np.flatnonzero(np.isfinite(given))
    order = tested[np.argsort(given[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected = np.full(len(given), nan)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * factors)) if len(order) else nan
    return corrected.tolist()
