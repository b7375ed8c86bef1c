"""Scores of the runs to be compared: from evaluations, fine-tuning runs and folders of folds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from VoCoCore.data.patients import Patients, merged
from VoCoCore.errors import DataError, SettingsError, counted, nearest
from VoCoCore.evaluation.case_names import public_names
from VoCoCore.evaluation.cases_table import PER_CASE, SUMMARY, read_patients, read_per_case
from VoCoCore.evaluation.statistics import mean_of
from VoCoCore.runs.files import read_json

CaseScores = Mapping[str, Mapping[str, float]]  # case -> label -> figure
WHERE = {"": "an evaluation", "test": "its test cases", "validation": "its validation cases"}


@dataclass(frozen=True)
class RunScores:
    """One run: ``name`` of its method, number of cases that it was trained on (None: not known), where it began
    (``init``), what its scores are of, the scores, and which cases are one patient's."""

    path: Path
    name: str
    train_cases: int | None
    init: str
    source: str
    scores: CaseScores
    tolerance: float | None
    patients: Patients = field(default_factory=dict)


def read_runs(paths: Sequence[str | Path], metric: str, names: Mapping[str, str]) -> list[RunScores]:
    """The runs at ``paths``, in this order.

    ``names``: path as given -> name of its method; others are called as their folder. Raises DataError for a path that
    holds no scores, SettingsError for one that is named twice and for a name of a path that is not compared.
    """
    found = named_places(paths, names)
    runs = [_read(place, metric, name) for place, name in found]
    # Evaluations know cases by their names, runs by their content: they meet where a run knows both.
    hashes = public_names(folder for place, _ in found for folder in (place, *folds_of(place)))
    return [
        replace(
            run,
            scores={hashes.get(c, c): found for c, found in run.scores.items()},
            patients={hashes.get(c, c): hashes.get(first, first) for c, first in run.patients.items()},
        )
        for run in runs
    ]


def named_places(paths: Sequence[str | Path], names: Mapping[str, str]) -> list[tuple[Path, str]]:
    """The folders ``paths`` with the names of their methods; SettingsError as `read_runs` has it."""
    places = [Path(os.path.abspath(os.path.expanduser(path))) for path in paths]
    given = {Path(os.path.abspath(os.path.expanduser(path))): name for path, name in names.items()}
    for path in given:
        if path not in places:
            known = [str(place) for place in places]
            raise SettingsError(
                f"--name {path}: this is none of what is compared.{nearest(str(path), known)}",
                "write --name FOLDER=NAME with the FOLDER as it is compared",
            )
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise SettingsError(f"{twice} is named twice", "compare each run once")
    return [(place, given.get(place) or _folder_name(place, places)) for place in places]


def _folder_name(place: Path, places: Sequence[Path]) -> str:
    """The folder's name, with its parent's where another folder is called alike."""
    alike = sum(other.name == place.name for other in places) > 1
    return f"{place.parent.name}/{place.name}" if alike else place.name


def _read(place: Path, metric: str, name: str) -> RunScores:
    folds = folds_of(place)
    tables = [(_table_in(fold), fold) for fold in folds] if folds else [(_table_in(place), place)]
    parts = [read_per_case(table, metric) for table, _ in tables]
    facts = facts_of_run(tables[0][1])
    tolerances = {_tolerance(table) for table, _ in tables}
    kinds = {table.parent.relative_to(folder).as_posix().strip(".") for table, folder in tables}
    words = " and ".join(WHERE.get(kind, kind) for kind in sorted(kinds))
    return RunScores(
        path=place,
        name=name,
        train_cases=facts.get("train_cases") if isinstance(facts.get("train_cases"), int) else None,
        init=str(facts.get("init", "")),
        source=words + (f" of {counted(len(folds), 'fold')}" if folds else ""),
        scores=parts[0] if len(parts) == 1 else averaged(parts),
        tolerance=tolerances.pop() if len(tolerances) == 1 else None,
        patients=merged(map(read_patients, (table for table, _ in tables))),
    )


def folds_of(place: Path, table: str = PER_CASE) -> list[Path]:
    """The runs ``fold-0``, ``fold-1``, ... of a cross-validation; none where ``place`` has a ``table`` of its own."""
    if not place.is_dir() or any((place / where / table).is_file() for where in WHERE):
        return []
    return sorted(path for path in place.glob("fold-*") if path.is_dir())


def _table_in(place: Path) -> Path:
    found = next((place / where / PER_CASE for where in WHERE if (place / where / PER_CASE).is_file()), None)
    if found is None:
        there = "is not there" if not place.exists() else "is no evaluation"
        raise DataError(
            f"{place} {there}: no {PER_CASE} in it, in test/ or in validation/",
            "give the folder that 'voco evaluate -o' wrote, or a finished fine-tuning run",
        )
    return found


def facts_of_run(folder: Path) -> Mapping[str, Any]:
    """What the fine-tuning that made a run's weights says of itself; empty for an evaluation."""
    environment = read_json(folder / "environment.json")
    facts = environment.get("finetune") if isinstance(environment, dict) else None
    return facts if isinstance(facts, dict) else {}


def _tolerance(table: Path) -> float | None:
    summary = read_json(table.with_name(SUMMARY))
    found = summary.get("tolerance_mm") if isinstance(summary, dict) else None
    return float(found) if isinstance(found, int | float) else None


def averaged(parts: Sequence[CaseScores]) -> dict[str, dict[str, float]]:
    """One table of several: a case that several have gets the mean of what is known."""
    found: dict[str, dict[str, list[float]]] = {}
    for part in parts:
        for case, labels in part.items():
            for label, value in labels.items():
                found.setdefault(case, {}).setdefault(label, []).append(value)
    return {
        case: {label: mean_of(np.array(values)) for label, values in labels.items()}
        for case, labels in found.items()
    }
