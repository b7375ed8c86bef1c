"""comparison.md and comparison.csv of classifications."""

from __future__ import annotations

import csv
import io
from math import isfinite
from pathlib import Path

from VoCoCore.data.patients import cases_of
from VoCoCore.evaluation.compare_diagnoses import METRICS, DiagnosisComparison, Scored
from VoCoCore.evaluation.compare_output import MARKDOWN, TABLE
from VoCoCore.evaluation.pages import write_whole
from VoCoCore.evaluation.statistics import FEW_PATIENTS
from VoCoCore.evaluation.text_tables import cell, plain, text_grid
from VoCoCore.training.intervals import DRAWS

_COLUMNS = (
    *("method", "train_cases", "runs", "metric", "value", "low", "high"),
    *("baseline", "difference", "difference_low", "difference_high"),
)


def write_diagnosis_comparison(folder: Path, comparison: DiagnosisComparison) -> list[Path]:
    """Write the two files and return their paths. Raises EnvironmentFault where they cannot be written."""
    return [
        write_whole(folder / MARKDOWN, diagnosis_markdown(comparison).encode()),
        write_whole(folder / TABLE, diagnosis_table(comparison).encode()),
    ]


def diagnosis_markdown(comparison: DiagnosisComparison) -> str:
    """The comparison as text."""
    lines = [
        f"# Diagnosis of {', '.join(map(cell, comparison.classes))} [%], more is better",
        "",
        f"{cases_of(comparison.cases, comparison.patients)} that all runs have.",
        "",
        *text_grid(["method", *METRICS], [_row(group) for group in comparison.groups], left=1),
        "",
    ]
    compared = [group for group in comparison.groups if group.baseline is not None]
    if compared:
        rows = [_difference(group) for group in compared]
        lines += ["## Differences", "", *text_grid(["method", "baseline", *METRICS], rows, left=2), ""]
    notes = [*comparison.notes, *_method(comparison)]
    return "\n".join([*lines, "## How to read this", "", *(f"- {note}" for note in notes)]) + "\n"


def _row(group: Scored) -> list[str]:
    ends = zip(group.values, group.low, group.high, strict=True)
    return [cell(group.title), *(_figures(*three) for three in ends)]


def _difference(group: Scored) -> list[str]:
    assert (
        group.difference is not None
        and group.difference_low is not None
        and group.difference_high is not None
    )
    ends = zip(group.difference, group.difference_low, group.difference_high, strict=True)
    return [cell(group.title), cell(str(group.baseline)), *(_figures(*three, sign="+") for three in ends)]


def _figures(value: float, low: float, high: float, sign: str = "") -> str:
    if not isfinite(value):
        return "–"
    spread = f" ({low * 100:{sign}.2f} to {high * 100:{sign}.2f})" if isfinite(low) else ""
    return f"{value * 100:{sign}.2f}{spread}"


def _method(comparison: DiagnosisComparison) -> list[str]:
    whom = "case" if comparison.patients == comparison.cases else "patient"
    lines = [
        f"In brackets: bootstrap over {whom}s, {DRAWS} draws, percentiles 2.5 and 97.5; for a difference the same "
        f"{whom}s are drawn for both. An interval without 0 is what speaks for a difference.",
        "Balanced accuracy: mean recall over the classes. AUROC: mean over the classes, each against all others.",
    ]
    if several := [f"{group.title}: {group.runs} runs" for group in comparison.groups if group.runs > 1]:
        lines.append(
            f"Scores of several runs of a method are averaged: the intervals say how {whom}s vary, not how runs do. "
            + "; ".join(several)
        )
    if comparison.patients < FEW_PATIENTS:
        lines.append(f"With so few {whom}s the intervals are rough, and tend to be too narrow.")
    return lines


def diagnosis_table(comparison: DiagnosisComparison) -> str:
    """The comparison as CSV: a row for each method and metric, as shares, not in percent."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for group in comparison.groups:
        tables = (group.difference, group.difference_low, group.difference_high)
        for place, metric in enumerate(METRICS):
            own = [float(column[place]) for column in (group.values, group.low, group.high)]
            apart = ["" if column is None else float(column[place]) for column in tables]
            row = [group.name, group.train_cases, group.runs, metric, *own, group.baseline, *apart]
            writer.writerow([plain(value) for value in row])
    return text.getvalue()
