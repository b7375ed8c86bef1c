"""per_case.csv and summary.json: the scores of every case, and what they come to over all cases.

per_case.csv has one row for each case and label. A field is empty where a figure does not exist; ``note`` says why
(see `metrics`: absent, missed, invented). ``patient`` is the first case of the same patient.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np

from VoCoCore.data.patients import EACH_ITS_OWN, Patients, grouped
from VoCoCore.errors import DataError, nearest
from VoCoCore.evaluation.metrics import ABSENT, INVENTED, MISSED, LabelMetrics, Labels
from VoCoCore.evaluation.pages import write_whole
from VoCoCore.evaluation.statistics import column_means, mean_of
from VoCoCore.runs.cells import as_cell, from_cell
from VoCoCore.runs.files import write_json
from VoCoCore.training.intervals import bootstrap_interval

Scores = Mapping[str, Mapping[str, LabelMetrics]]  # case -> label -> what it scores
FORMAT, VERSION = "vococore-evaluation", 1
PER_CASE, SUMMARY = "per_case.csv", "summary.json"


@dataclass(frozen=True)
class Measure:
    """One figure of `LabelMetrics`: ``name`` there, ``column`` in the table, what a person reads, which way is better.

    ``scale`` and ``digits`` are those of tables for people; ``better`` is 1 where more is better, -1 where less is, 0
    where nearer to 0 is.
    """

    name: str
    column: str
    title: str
    unit: str
    better: int
    scale: float = 1.0
    digits: int = 2

    def text(self, value: float) -> str:
        """``value`` as tables for people show it."""
        shown = f"{value * self.scale:.{self.digits}f}" if isfinite(value) else "–"
        return shown.replace("-", "\N{MINUS SIGN}")


MEASURES = (
    Measure("dice", "dice", "Dice", "%", 1, 100.0, 1),
    Measure("iou", "iou", "IoU", "%", 1, 100.0, 1),
    Measure("surface_dice", "surface_dice", "surface Dice", "%", 1, 100.0, 1),
    Measure("hd95", "hd95_mm", "HD95", "mm", -1),
    Measure("asd", "asd_mm", "mean surface distance", "mm", -1),
    Measure("reference_ml", "reference_ml", "volume, reference", "ml", 0),
    Measure("predicted_ml", "predicted_ml", "volume, predicted", "ml", 0),
    Measure("volume_error_ml", "volume_error_ml", "volume error", "ml", 0),
    Measure("volume_error_percent", "volume_error_percent", "volume error", "%", 0, 1.0, 1),
)
BY_NAME = {measure.name: measure for measure in MEASURES}
_PATIENT = "patient"
_HEADER = ("case", "label", *(measure.column for measure in MEASURES), "note", _PATIENT)


def write_per_case(path: str | Path, scores: Scores, patients: Patients = EACH_ITS_OWN) -> Path:
    """Write the scores as a table; replaces an older one whole. Raises EnvironmentFault where it cannot be written."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_HEADER)
    for case, labels in scores.items():
        for label, found in labels.items():
            figures = (getattr(found, measure.name) for measure in MEASURES)
            texts = [f"{v:.7g}" if isfinite(v) else "" for v in figures]
            owner = as_cell(patients.get(case, case))
            table.writerow([as_cell(case), as_cell(label), *texts, found.state, owner])
    return write_whole(Path(path), text.getvalue().encode())


def read_per_case(path: str | Path, metric: str = "dice") -> dict[str, dict[str, float]]:
    """Case -> label -> the figure ``metric`` (a name of `MEASURES`, or any column), NaN where the field is empty.

    Raises DataError, naming the file, where it is no such table.
    """
    path = Path(path)
    column = BY_NAME[metric].column if metric in BY_NAME else metric
    scores: dict[str, dict[str, float]] = {}
    for number, row in enumerate(_rows(path, column), start=2):
        labels, label = scores.setdefault(from_cell(row["case"]), {}), from_cell(row["label"])
        if label in labels:
            raise DataError(
                f"{path} has case {row['case']}, label {row['label']} twice", "evaluate the predictions again"
            )
        try:
            labels[label] = float(row[column]) if row[column] else nan
        except ValueError:
            raise DataError(
                f"{path}, row {number}: '{row[column]}' is no number", "evaluate the predictions again"
            ) from None
    if not scores:
        raise DataError(f"{path} has no cases", "evaluate the predictions again")
    return scores


def read_patients(path: str | Path) -> dict[str, str]:
    """The patients of a table's cases, each its own in an older one. Raises DataError as `read_per_case`."""
    rows = _rows(Path(path), "case")
    return {from_cell(row["case"]): from_cell(row.get(_PATIENT) or row["case"]) for row in rows}


def _rows(path: Path, column: str) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        table = csv.DictReader(io.StringIO(text, newline=""))
        rows = list(table)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", "check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no table: {error}", "evaluate the predictions again") from error
    names = table.fieldnames or []
    for needed in ("case", "label"):
        if needed not in names:
            hint = "evaluate the predictions again: another program has changed its form"
            raise DataError(f"{path} has no column '{needed}'", hint)
    if column not in names:
        known = [measure.name for measure in MEASURES if measure.column in names]
        raise DataError(
            f"{path} has no column '{column}'.{nearest(column, names)}",
            f"its figures: {', '.join(known) or 'none'}",
        )
    short = next((number for number, row in enumerate(rows, 2) if None in row.values()), None)
    if short is not None:
        raise DataError(f"{path}, row {short} ends early", "evaluate the predictions again")
    return rows


def table_of(scores: Scores, labels: Sequence[str], name: str) -> np.ndarray:
    """The figure ``name`` of `LabelMetrics` as (cases, labels), NaN where a case lacks a label's score."""
    rows = [
        [getattr(found[label], name) if label in found else nan for label in labels]
        for found in scores.values()
    ]
    return np.array(rows, dtype=float).reshape(len(rows), len(labels))


def with_all_labels(scores: Scores, labels: Iterable[str]) -> dict[str, dict[str, LabelMetrics]]:
    """Every case with every label, in this order; a label that a case does not know is absent from it."""
    names = list(labels)
    return {case: {name: found.get(name, LabelMetrics()) for name in names} for case, found in scores.items()}


def summarise(scores: Scores, labels: Labels, patients: Patients = EACH_ITS_OWN) -> dict[str, Any]:
    """Mean, standard deviation, median, 95 % bootstrap interval by patient and number of cases, by label and over all.

    ``overall``: the mean over labels of the labels' means; its standard deviation and median are of the cases' means
    over their labels. None where a figure does not exist.
    """
    names, whose = list(labels), grouped(list(scores), patients)
    tables = {measure.name: table_of(scores, names, measure.name) for measure in MEASURES}
    by_label = {}
    for place, name in enumerate(names):
        states = [found[name].state for found in scores.values() if name in found]
        by_label[name] = {
            "values": list(labels[name]),
            **{state: states.count(state) for state in (ABSENT, MISSED, INVENTED)},
            **{key: spread(table[:, place], whose) for key, table in tables.items()},
        }
    whole = {key: spread(table, whose) for key, table in tables.items() if BY_NAME[key].better}
    return {"patients": len(set(whose)), "labels": by_label, "overall": whole}


def spread(values: np.ndarray, patients: Sequence[str]) -> dict[str, float | int | None]:
    """What the scores (cases,) or (cases, labels) of these ``patients`` come to; ``n``: cases that have one."""
    table = values[:, None] if values.ndim == 1 else values
    cases = np.array([mean_of(row) for row in table], dtype=float)
    cases = cases[np.isfinite(cases)]
    low, high = bootstrap_interval(table, patients)
    figures = {
        "mean": mean_of(column_means(table)),
        "sd": float(cases.std(ddof=1)) if len(cases) > 1 else nan,
        "median": float(np.median(cases)) if len(cases) else nan,
        "low": low,
        "high": high,
    }
    return {**{key: v if isfinite(v) else None for key, v in figures.items()}, "n": len(cases)}


def write_results(
    folder: str | Path, scores: Scores, summary: Mapping[str, Any], patients: Patients = EACH_ITS_OWN
) -> None:
    """Write per_case.csv and summary.json. Raises EnvironmentFault where they cannot be written."""
    write_per_case(Path(folder) / PER_CASE, scores, patients)
    write_json(Path(folder) / SUMMARY, {"format": FORMAT, "version": VERSION, **summary})
