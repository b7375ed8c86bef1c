"""What all benchmarks share: ours and a baseline measured in turn, and the rows that `run.py bench` collects.

Times are CPU seconds of this process (all its threads), because other work on the machine disturbs them least; where
children or waiting belong to what is measured, a benchmark says so in its unit. A ratio is the median of the rounds'
ratios, baseline / ours: higher is better. The spread is the distance of the largest from the smallest of them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

Work = Callable[[], Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """Medians of ours and the baseline, the median of the rounds' ratios and the spread of these."""

    ours: float
    baseline: float
    ratio: float
    spread: float


def cpu_seconds(work: Work) -> float:
    """CPU time of one call."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def wall_seconds(work: Work) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def in_turn(
    ours: Work, baseline: Work, rounds: int = 5, warm: int = 1, clock: Callable[[Work], float] = cpu_seconds
) -> Pair:
    """Both ``rounds`` times, one after the other, so that a busy machine disturbs both alike; first ``warm`` unseen."""
    times = [(clock(ours), clock(baseline)) for _ in range(warm + rounds)][warm:]
    return paired(*zip(*times, strict=True))


def paired(ours: Iterable[float], baseline: Iterable[float]) -> Pair:
    """The pair that figures of several rounds make."""
    mine, theirs = list(ours), list(baseline)
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    return Pair(
        statistics.median(mine),
        statistics.median(theirs),
        statistics.median(ratios),
        max(ratios) - min(ratios),
    )


def several(work: Work, rounds: int = 5, warm: int = 1, clock: Callable[[Work], float] = cpu_seconds) -> Pair:
    """The same for what has no baseline: ``ours`` is a median, ``spread`` that of the times."""
    times = [clock(work) for _ in range(warm + rounds)][warm:]
    return Pair(statistics.median(times), float("nan"), float("nan"), max(times) - min(times))


def row(name: str, unit: str, found: Pair, goal: str, *, scale: float = 1.0, **more: Any) -> Row:
    """One line of the table; ``scale`` brings the figures to ``unit``. What does not exist is None."""
    alone = found.ratio != found.ratio
    return {
        "name": name,
        "unit": unit,
        "ours": found.ours * scale,
        "baseline": None if alone else found.baseline * scale,
        "ratio": None if alone else found.ratio,
        "goal": goal,
        "spread": found.spread * (scale if alone else 1.0),
        "device": f"CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}",
        **more,
    }


def figure(name: str, unit: str, ours: float, goal: str, baseline: float | None = None, **more: Any) -> Row:
    """A line of something counted rather than timed: one figure, no spread."""
    nan = float("nan")
    known = nan if baseline is None else baseline
    return row(name, unit, Pair(ours, known, known / ours if ours else nan, 0.0), goal, **more)


def peak_mb() -> float:
    """The most resident memory that this process ever had, in MB of 10^6 bytes."""
    with suppress(OSError), open("/proc/self/status", encoding="utf-8") as status:
        # Linux's getrusage knows no less than the parent's peak.
        return next(int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def options(what: str | None) -> argparse.ArgumentParser:
    """A parser of a benchmark's command line: ``--full`` asks for the sizes of the project's goals."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the sizes of the goals: minutes to hours")
    return parser


def full(what: str | None) -> bool:
    """Whether the command line asks for the sizes of the project's goals rather than the short form."""
    return options(what).parse_args().full


def tell(rows: Iterable[Row]) -> None:
    """Print each row as a line of JSON as soon as it is known: what comes before a failure is then not lost."""
    for each in rows:
        print(json.dumps(each), flush=True)
