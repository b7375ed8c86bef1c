"""How far a mean over cases, or volumes, may be off: the one interval of all looks, tests and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np

DRAWS = 10_000
_AT_ONCE = 1 << 22  # numbers


def bootstrap_interval(
    values: np.ndarray,
    patients: Sequence[str] | None = None,
    share: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean of ``values``, (cases,) or (cases, columns), when patients are drawn anew.

    ``patients``: whose each case is (cases,), None where each is a patient of its own; a patient is drawn with all of
    his cases. Of a table it is the interval of the mean of its columns' means. NaN is no score; in a draw without any
    score of a column, that column counts its mean over all cases. Always the same for the same arguments; (NaN, NaN)
    below two patients, of whom nothing can be said.
    """
    table = np.asarray(values, dtype=float)
    table = table[:, None] if table.ndim == 1 else table
    there = np.isfinite(table).any(axis=1)
    numbers = patient_numbers(patients, len(table))[there]
    scores, known = (summed(part[there], numbers) for part in (np.nan_to_num(table), np.isfinite(table)))
    if len(scores) < 2:
        return nan, nan
    rng = np.random.Generator(np.random.Philox(key=seed))
    size = max(1, _AT_ONCE // len(scores))
    means = [_drawn_means(scores, known, min(size, draws - at), rng) for at in range(0, draws, size)]
    low, high = np.quantile(np.concatenate(means), [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def counts_of(patients: Sequence[str], what: str = "cases") -> dict[str, int]:
    """How many cases, or ``what`` they are called; and of how many patients where some have several."""
    count = len(set(patients))
    return {what: len(patients)} | ({"patients": count} if count < len(patients) else {})


def patient_numbers(patients: Sequence[str] | None, cases: int) -> np.ndarray:
    """The patients of so many cases as whole numbers (cases,), in the order in which they first come."""
    if patients is None:
        return np.arange(cases)
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(patient, len(numbers)) for patient in patients], dtype=int)


def summed(table: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Sums (patients, columns) of the rows of ``table`` (cases, columns) of each patient that has one, in order."""
    _, places = np.unique(numbers, return_inverse=True)
    sums = np.zeros((places.max(initial=-1) + 1, table.shape[1]))
    np.add.at(sums, places, table)
    return sums


def _drawn_means(scores: np.ndarray, known: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Means (draws,) over patients drawn anew, of their sums of ``scores`` and numbers of ``known`` scores, both
    (patients, columns); each has a score somewhere.
    """
    patients = len(scores)
    often = rng.multinomial(patients, np.full(patients, 1 / patients), size=draws).astype(float)
    count, all_known = often @ known, known.sum(axis=0)
    columns = often @ scores / np.where(count, count, nan)
    # Without its column a draw would be of something else than the mean over all columns.
    own = scores.sum(axis=0) / np.where(all_known, all_known, nan)
    return np.nansum(np.where(count, columns, own), axis=1) / np.count_nonzero(np.isfinite(own))
