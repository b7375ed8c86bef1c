"""comparison.md, comparison.csv and comparison.png: a comparison as a table of method x class, in full, and drawn."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from VoCoCore.data.patients import cases_of
from VoCoCore.evaluation.cases_table import BY_NAME, Measure
from VoCoCore.evaluation.compare import MEAN, Comparison, Difference, Group
from VoCoCore.evaluation.pages import COLOURS, INK, png_bytes, styled, write_whole
from VoCoCore.evaluation.statistics import FEW_PATIENTS, FEWEST_PAIRS
from VoCoCore.evaluation.text_tables import cell, plain, text_grid
from VoCoCore.training.intervals import DRAWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKDOWN, TABLE, FIGURE = "comparison.md", "comparison.csv", "comparison.png"
DIGITS = 2  # as published tables have it, for percent and millimetres alike
_COLUMNS = (
    *("method", "train_cases", "runs", "runs_sd", "label", "mean", "low", "high"),
    *("baseline", "difference", "difference_low", "difference_high"),
    *("pairs", "ties", "p", "p_holm", "patients"),
)


def write_comparison(folder: Path, comparison: Comparison) -> list[Path]:
    """Write the three files and return their paths. Raises EnvironmentFault where they cannot be written."""
    return [
        write_whole(folder / MARKDOWN, markdown(comparison).encode()),
        write_whole(folder / TABLE, table(comparison).encode()),
        write_whole(folder / FIGURE, png_bytes(comparison_figure(comparison))),
    ]


def markdown(comparison: Comparison) -> str:
    """The comparison as text: means by method and class, differences from the baseline, how they were computed."""
    measure = BY_NAME[comparison.metric]
    way = "more" if measure.better > 0 else "less"
    lines = [
        f"# {measure.title} [{measure.unit}], {way} is better",
        "",
        f"{cases_of(len(comparison.cases), comparison.patients)} that all runs have.",
        "",
        *_means(comparison, measure),
        "",
    ]
    if comparison.differences:
        baseline = comparison.differences[0].baseline.name
        lines += [f"## Differences from {cell(baseline)}", "", *_tests(comparison.differences, measure), ""]
    lines += ["## How to read this", "", *(f"- {note}" for note in (*comparison.notes, *_method(comparison)))]
    return "\n".join(lines) + "\n"


def _means(comparison: Comparison, measure: Measure) -> list[str]:
    """A row a method, a column a class; the best of each column is bold."""
    sizes = any(group.train_cases is not None for group in comparison.groups)
    head = ["method", *(["training cases"] if sizes else []), *comparison.labels, MEAN, "95 %"]
    columns = np.array([[*group.means, group.mean] for group in comparison.groups])
    best = _best(columns, measure)
    rows = []
    for group, values, bold in zip(comparison.groups, columns, best, strict=True):
        cells = [
            f"**{_figure(v, measure)}**" if b else _figure(v, measure)
            for v, b in zip(values, bold, strict=True)
        ]
        size = ["–" if group.train_cases is None else str(group.train_cases)] if sizes else []
        rows.append([cell(group.name), *size, *cells, _interval(group.low, group.high, measure)])
    return text_grid([cell(word) for word in head], rows, left=1)


def _best(columns: np.ndarray, measure: Measure) -> np.ndarray:
    """Which figures are the best of their column, as printed."""
    shown = np.round(columns * measure.scale, DIGITS)
    worst = -np.inf if measure.better > 0 else np.inf
    known = np.where(np.isfinite(shown), shown, worst)
    top = known.max(axis=0) if measure.better > 0 else known.min(axis=0)
    return np.isfinite(shown) & (known == top)


def _tests(differences: Sequence[Difference], measure: Measure) -> list[str]:
    head = ["method", "class", "pairs", "difference", "95 %", "p", "p (Holm)"]
    rows = []
    for one in differences:
        found = one.found
        p = [_p(found.p), _p(one.corrected)] if isfinite(found.p) else [_untested(one), "–"]
        spread = _interval(found.low, found.high, measure, signed=True)
        shift = _figure(found.mean, measure, signed=True)
        rows.append([cell(one.group.title), cell(one.label), str(found.pairs), shift, spread, *p])
    return text_grid(head, rows, left=2)


def _untested(one: Difference) -> str:
    """Why there is no p."""
    found = one.found
    differing, what = found.patients - found.ties, "pair" if found.patients == found.pairs else "patient"
    if not differing and found.pairs:
        return f"no {what} differs"
    return f"too few: {differing} {what}s that differ, {FEWEST_PAIRS} needed"


def _method(comparison: Comparison) -> list[str]:
    """How intervals and p values came about."""
    means = sum(one.label == MEAN for one in comparison.differences)
    singles = len(comparison.differences) - means
    apart = comparison.patients == len(comparison.cases)
    whom, pairs = ("case", "Pair") if apart else ("patient", "Patient")
    together = "" if apart else "; a patient is drawn with all of the cases"
    lines = [
        f"Intervals: bootstrap over {whom}s, {DRAWS} draws, percentiles 2.5 and 97.5{together}. "
        "The mean is that of the classes' means.",
        f"p: Wilcoxon's signed ranks, two-sided, on each {whom}'s difference (for the mean: averaged over classes). "
        f"{pairs}s without a difference are left out; equal ones share their rank; exact up to 50 {pairs.lower()}s.",
        f"Holm's correction is made over the {means} means that are compared, and over the {singles} single classes.",
    ]
    several = [
        f"{group.title}: {group.runs} runs, standard deviation of their means "
        f"{_figure(group.runs_sd, BY_NAME[comparison.metric])}"
        for group in comparison.groups
        if group.runs > 1
    ]
    if several:
        lines.append(
            f"Several runs of a method are averaged case by case: the intervals say how {whom}s vary, not how runs do. "
            + "; ".join(several)
        )
    if comparison.patients < FEW_PATIENTS:
        lines.append(f"With so few {whom}s the intervals are rough, and tend to be too narrow.")
    return lines


def table(comparison: Comparison) -> str:
    """The comparison as CSV: a row for each method and class, in the unit of per_case.csv, not in percent."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    tested = {(id(one.group), one.label): one for one in comparison.differences}
    for group in comparison.groups:
        for label, mean in zip((*comparison.labels, MEAN), (*group.means, group.mean), strict=True):
            ends = [group.low, group.high] if label == MEAN else ["", ""]
            row = [group.name, group.train_cases, group.runs, group.runs_sd, label, mean, *ends]
            writer.writerow([plain(value) for value in [*row, *_difference(tested.get((id(group), label)))]])
    return text.getvalue()


def _difference(one: Difference | None) -> list[object]:
    if one is None:
        return [""] * 9
    found = one.found
    return [
        one.baseline.title,
        found.mean,
        found.low,
        found.high,
        found.pairs,
        found.ties,
        found.p,
        one.corrected,
        found.patients,
    ]


def comparison_figure(comparison: Comparison) -> Figure:
    """Learning curves, or means where there is one number of training cases; beside them the paired differences."""
    from matplotlib.figure import Figure

    rows = max(len(comparison.differences), len(comparison.groups), 3)
    sizes = {group.train_cases for group in comparison.groups if group.train_cases is not None}
    measure = BY_NAME[comparison.metric]
    with styled():
        figure = Figure(figsize=(11, min(30.0, 1.3 + 0.27 * rows)), layout="constrained")
        left, right = figure.subplots(1, 2)
        if len(sizes) > 1:
            _draw_curves(left, comparison.groups, measure)
        else:
            _draw_means(left, comparison.groups, measure)
        _draw_differences(right, comparison, measure)
    return figure


def _draw_curves(axes: Axes, groups: Sequence[Group], measure: Measure) -> None:
    known = [group for group in groups if group.train_cases is not None]
    for place, name in enumerate(dict.fromkeys(group.name for group in known)):
        own = sorted((g for g in known if g.name == name), key=lambda g: g.train_cases or 0)
        x = (
            np.array([float(group.train_cases or 0) for group in own]) * 1.015**place
        )  # bars must not hide each other
        y, low, high = (
            np.array([getattr(g, n) for g in own]) * measure.scale for n in ("mean", "low", "high")
        )
        colour = _colour(place)
        axes.plot(x, y, "o-", color=colour, ms=4, label=name)
        axes.vlines(x, low, high, color=colour, lw=1)
    ticks = sorted({group.train_cases for group in known if group.train_cases})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("training cases")
    axes.set_title(f"mean {measure.title} [{measure.unit}], 95 % intervals")
    axes.grid(True, axis="y")
    axes.legend()


def _draw_means(axes: Axes, groups: Sequence[Group], measure: Measure) -> None:
    for place, group in enumerate(groups):
        colour = _colour(place)
        axes.hlines(place, group.low * measure.scale, group.high * measure.scale, color=colour, lw=1.5)
        axes.plot(group.mean * measure.scale, place, "o", color=colour, ms=5)
    axes.set_yticks(range(len(groups)), [group.title for group in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_title(f"mean {measure.title} [{measure.unit}], 95 % intervals")
    axes.grid(True, axis="x")


def _draw_differences(axes: Axes, comparison: Comparison, measure: Measure) -> None:
    titles = list(dict.fromkeys(group.name for group in comparison.groups))
    for place, one in enumerate(comparison.differences):
        colour, found = _colour(titles.index(one.group.name)), one.found
        axes.hlines(place, found.low * measure.scale, found.high * measure.scale, color=colour, lw=1.5)
        axes.plot(found.mean * measure.scale, place, "D" if one.label == MEAN else "o", color=colour, ms=5)
    axes.axvline(0, color=INK, lw=0.8)
    names = [f"{one.group.title}: mean" if one.label == MEAN else one.label for one in comparison.differences]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    better = "right" if measure.better > 0 else "left"
    axes.set_title(f"difference from the baseline [{measure.unit}], better to the {better}")
    axes.grid(True, axis="x")


def _colour(place: int) -> str:
    return COLOURS[(place + 1) % len(COLOURS)]


def _figure(value: float, measure: Measure, signed: bool = False) -> str:
    if not isfinite(value):
        return "–"
    return f"{value * measure.scale:{'+' if signed else ''}.{DIGITS}f}"


def _interval(low: float, high: float, measure: Measure, signed: bool = False) -> str:
    if not isfinite(low):
        return "–"
    return f"{_figure(low, measure, signed)} to {_figure(high, measure, signed)}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
