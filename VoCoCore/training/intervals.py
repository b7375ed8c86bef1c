"""How far a mean over cases, or volumes, may be off: the one interval of all looks, tests and comparisons."""

from __future__ import annotations

from math import nan

import numpy as np

DRAWS = 10_000
_AT_ONCE = 1 << 22  # numbers


def bootstrap_interval(
    values: np.ndarray, share: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of ``values``, (cases,) or (cases, columns), when cases are drawn anew.

    Of a table it is the interval of the mean of its columns' means. NaN is no score; in a draw without any score of a
    column, that column counts its mean over all cases. Always the same for the same arguments; (NaN, NaN) below two
    cases, of which nothing can be said.
    """
    table = np.asarray(values, dtype=float)
    table = table[:, None] if table.ndim == 1 else table
    table = table[np.isfinite(table).any(axis=1)]
    if len(table) < 2:
        return nan, nan
    rng = np.random.Generator(np.random.Philox(key=seed))
    size = max(1, _AT_ONCE // len(table))
    means = [_drawn_means(table, min(size, draws - at), rng) for at in range(0, draws, size)]
    low, high = np.quantile(np.concatenate(means), [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def _drawn_means(table: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Means (draws,) of ``table`` (cases, columns) with its cases drawn anew; each case has a score somewhere."""
    cases = len(table)
    often = rng.multinomial(cases, np.full(cases, 1 / cases), size=draws).astype(float)
    scores, known = np.nan_to_num(table), np.isfinite(table).astype(float)
    count = often @ known
    columns = often @ scores / np.where(count, count, nan)
    # Without its column a draw would be of something else than the mean over all columns.
    own = scores.sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), nan)
    return np.nansum(np.where(count, columns, own), axis=1) / np.count_nonzero(np.isfinite(own))
