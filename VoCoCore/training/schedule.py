"""Learning rate over the steps of a run."""

from __future__ import annotations

import math


def warmup_cosine(step: int, base: float, warmup: int, total: int) -> float:
    """Learning rate of 0-based ``step``: linear from 0 to ``base`` over ``warmup`` steps, then a half cosine to 0.

    ``base`` * step / warmup before the end of the warm-up, then base / 2 * (1 + cos(pi * progress)), where progress is
    (step - warmup) / (total - warmup). 0 from ``total`` on.
    """
    if step < warmup:
        return base * step / max(1, warmup)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return base * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
