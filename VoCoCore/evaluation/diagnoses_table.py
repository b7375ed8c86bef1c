"""diagnoses.csv: the class of every held-out case of a classification, and the probability of each class."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from VoCoCore.errors import DataError
from VoCoCore.evaluation.pages import write_whole
from VoCoCore.runs.cells import as_cell, from_cell

DIAGNOSES = "diagnoses.csv"
_HEAD = ("case", "truth", "predicted")
_PATIENT = "patient"
_MARK = "p:"  # before a class in the head, which may be called anything
_AGAIN = "finish the run again, or leave it out"


@dataclass(frozen=True)
class Diagnosis:
    """One case: the number of its true class, probabilities (K,), and the first case of the same patient ('': it)."""

    truth: int
    probabilities: np.ndarray
    patient: str = ""


def write_diagnoses(path: Path, classes: Sequence[str], seen: Mapping[str, Diagnosis]) -> Path:
    """Write what was found of each case. Raises EnvironmentFault where it cannot be written."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*_HEAD, *(_MARK + name for name in classes), _PATIENT])
    for case, one in seen.items():
        predicted = classes[int(np.argmax(one.probabilities))]
        names = map(as_cell, (case, classes[one.truth], predicted))
        shares = (f"{p:.9g}" for p in one.probabilities)
        table.writerow([*names, *shares, as_cell(one.patient or case)])
    return write_whole(path, text.getvalue().encode())


def read_diagnoses(path: Path) -> tuple[tuple[str, ...], dict[str, Diagnosis]]:
    """Names of the classes, in alphabetical order, and the cases. Raises DataError, naming the file."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
        columns = [name for name in rows[0] if name and name.startswith(_MARK)] if rows else []
        classes = tuple(sorted(name[len(_MARK) :] for name in columns))
        seen = {from_cell(row["case"]): _of_row(row, classes) for row in rows}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", "check the path") from error
    except (UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} is no table of diagnoses: {error}", _AGAIN) from error
    if not seen:
        raise DataError(f"{path} has no cases", _AGAIN)
    return classes, seen


def _of_row(row: Mapping[str, str], classes: Sequence[str]) -> Diagnosis:
    probabilities = np.array([float(row[_MARK + name]) for name in classes])
    if not np.isfinite(probabilities).all():
        raise ValueError(f"case {row['case']} has probabilities that are no numbers")
    patient = from_cell(row.get(_PATIENT) or row["case"])  # an older table does not say
    return Diagnosis(classes.index(from_cell(row["truth"])), probabilities, patient)
