"""Do classifications differ? Accuracy, balanced accuracy and AUROC; intervals draw the same patients for both.

Runs of one method (one name) on the same number of training cases are draws: their scores are averaged. A case that
several folds have seen gets the mean of their probabilities.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from VoCoCore.data.patients import grouped, merged
from VoCoCore.errors import DataError, SettingsError, counted, nearest
from VoCoCore.evaluation.compare_read import WHERE, facts_of_run, folds_of, named_places
from VoCoCore.evaluation.compare_settings import settings_notes
from VoCoCore.evaluation.diagnoses_table import DIAGNOSES, Diagnosis, read_diagnoses
from VoCoCore.training.intervals import DRAWS, patient_numbers

METRICS = ("accuracy", "balanced accuracy", "AUROC")
_AT_ONCE = 1 << 22  # numbers


@dataclass(frozen=True)
class DiagnosisRun:
    """One run: its method, number of training cases (None: not known), what its cases are of, and the cases."""

    path: Path
    name: str
    train_cases: int | None
    source: str
    classes: tuple[str, ...]
    cases: Mapping[str, Diagnosis]


@dataclass(frozen=True)
class Scored:
    """A method on one number of training cases: ``values`` (3,) of METRICS, their ``low`` and ``high`` (3,); the same
    of the difference from ``baseline`` (None: it is the baseline's own, or there is none to compare with).
    """

    name: str
    train_cases: int | None
    runs: int
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    baseline: str | None = None
    difference: np.ndarray | None = None
    difference_low: np.ndarray | None = None
    difference_high: np.ndarray | None = None

    @property
    def title(self) -> str:
        """Name, with the number of training cases where it is known."""
        many = self.train_cases
        return self.name if many is None else f"{self.name}, {counted(many, 'training case')}"


@dataclass(frozen=True)
class DiagnosisComparison:
    """All that is to be told."""

    cases: int
    patients: int
    classes: tuple[str, ...]
    groups: tuple[Scored, ...]
    notes: tuple[str, ...]


def are_diagnoses(paths: Sequence[str | Path]) -> bool:
    """Whether these are runs of classifications; DataError where some are and some are not."""
    found = {str(path): bool(_tables(Path(os.path.expanduser(path)))) for path in paths}
    if any(found.values()) and not all(found.values()):
        one, other = (
            next(path for path, is_one in found.items() if is_one == wanted) for wanted in (True, False)
        )
        raise DataError(f"{one} holds diagnoses, {other} does not", "compare runs of one task")
    return all(found.values())


def _tables(place: Path) -> list[Path]:
    folds = folds_of(place, DIAGNOSES) or [place]
    found = [next((f / w / DIAGNOSES for w in WHERE if (f / w / DIAGNOSES).is_file()), None) for f in folds]
    return [path for path in found if path is not None]


def read_diagnosis_runs(paths: Sequence[str | Path], names: Mapping[str, str]) -> list[DiagnosisRun]:
    """The runs at ``paths``; see `compare_read.read_runs`."""
    return [_read(place, name) for place, name in named_places(paths, names)]


def _read(place: Path, name: str) -> DiagnosisRun:
    tables = _tables(place)
    parts = [read_diagnoses(path) for path in tables]
    if len({classes for classes, _ in parts}) > 1:
        raise DataError(
            f"the folds of {place} know different classes", "train them on the same list of cases"
        )
    patients = merged(_patients(cases) for _, cases in parts)
    pooled: dict[str, list[Diagnosis]] = {}
    for _, cases in parts:
        for case, one in cases.items():
            pooled.setdefault(case, []).append(one)
    averaged = {
        case: Diagnosis(
            several[0].truth, np.mean([one.probabilities for one in several], axis=0), patients[case]
        )
        for case, several in pooled.items()
    }
    home = tables[0].parent if tables[0].parent.name not in WHERE else tables[0].parent.parent
    source = WHERE.get(tables[0].parent.name, WHERE[""]) + (
        f" of {len(tables)} folds" if len(tables) > 1 else ""
    )
    count = facts_of_run(home).get("train_cases")
    return DiagnosisRun(place, name, count if isinstance(count, int) else None, source, parts[0][0], averaged)


def compare_diagnoses(runs: Sequence[DiagnosisRun], baseline: str = "") -> DiagnosisComparison:
    """Compare ``runs`` on the cases that all have with the method ``baseline`` (default: the first run's).

    Raises SettingsError for fewer than two methods or a baseline that is none, DataError where no case is in all runs,
    or classes differ, or the true class of a case.
    """
    chosen, names = baseline or runs[0].name, list(dict.fromkeys(run.name for run in runs))
    if chosen not in names:
        raise SettingsError(
            f"there is no run called '{chosen}'.{nearest(chosen, names)}",
            f"they are called {', '.join(names)}",
        )
    cases, truth = _common(runs)
    members: dict[tuple[str, int | None], list[np.ndarray]] = {}
    for run in runs:
        table = np.array([run.cases[case].probabilities for case in cases])
        members.setdefault((run.name, run.train_cases), []).append(table)
    if len(members) < 2:
        raise SettingsError(
            f"all {len(runs)} runs are called '{runs[0].name}': there is nothing to compare",
            "give methods names of their own with --name FOLDER=NAME",
        )
    whose = grouped(cases, merged(_patients(run.cases) for run in runs))
    drawn = {key: _drawn(tables, truth, whose) for key, tables in members.items()}
    groups = [_scored(key, len(members[key]), drawn, chosen) for key in members]
    everything = set().union(*(run.cases for run in runs))
    notes = []
    if len(everything) > len(cases):
        lost = counted(len(everything) - len(cases), "case", "is", "are")
        notes.append(f"{lost} not in all runs and left out")
    if len({run.source for run in runs}) > 1:
        notes.append("not all of one kind: " + "; ".join(f"{run.name}: {run.source}" for run in runs))
    notes += settings_notes([(run.name, run.path) for run in runs])
    return DiagnosisComparison(len(cases), len(set(whose)), runs[0].classes, tuple(groups), tuple(notes))


def _common(runs: Sequence[DiagnosisRun]) -> tuple[list[str], np.ndarray]:
    """Cases that all runs have, and the number of the true class of each (cases,)."""
    for run in runs[1:]:
        if run.classes != runs[0].classes:
            told = f"{runs[0].path} knows {', '.join(runs[0].classes)}, {run.path} {', '.join(run.classes)}"
            raise DataError(f"the classes differ: {told}", "compare runs of the same classes")
    cases = [case for case in runs[0].cases if all(case in run.cases for run in runs[1:])]
    if not cases:
        raise DataError("no case is in all runs", "compare runs that were scored on the same cases")
    for case in cases:
        if len({run.cases[case].truth for run in runs}) > 1:
            raise DataError(
                f"the runs do not agree on the true class of case {case}", "correct a list of cases"
            )
    return cases, np.array([runs[0].cases[case].truth for case in cases])


def _patients(cases: Mapping[str, Diagnosis]) -> dict[str, str]:
    return {case: one.patient or case for case, one in cases.items()}


def _drawn(tables: Sequence[np.ndarray], truth: np.ndarray, whose: Sequence[str]) -> np.ndarray:
    """METRICS (1 + DRAWS, 3), averaged over the runs: of the cases as they are, then of patients drawn anew; the draws
    are the same for all methods, which is what makes the difference one of pairs."""
    numbers = patient_numbers(whose, len(truth))
    count = int(numbers.max()) + 1
    rng = np.random.Generator(np.random.Philox(key=0))
    size, found = max(1, _AT_ONCE // len(truth)), []
    for at in range(0, DRAWS, size):
        often = rng.multinomial(count, np.full(count, 1 / count), size=min(size, DRAWS - at)).astype(float)
        often = often[:, numbers]
        often = np.concatenate([np.ones((1, len(truth))), often]) if at == 0 else often
        found.append(np.mean([weighted_scores(table, truth, often) for table in tables], axis=0))
    return np.concatenate(found)


def weighted_scores(probabilities: np.ndarray, truth: np.ndarray, often: np.ndarray) -> np.ndarray:
    """METRICS (draws, 3) of ``probabilities`` (n, K) and ``truth`` (n,) with each case ``often`` (draws, n) there.

    As `scores.diagnosis_scores` has them: classes without cases are left out of the means.
    """
    right = (probabilities.argmax(axis=1) == truth).astype(float)
    recalls, areas = [], []
    with np.errstate(invalid="ignore", divide="ignore"):
        for kind in range(probabilities.shape[1]):
            own, scores = truth == kind, probabilities[:, kind]
            yes, no = often[:, own], often[:, ~own]
            recalls.append(yes @ right[own] / yes.sum(axis=1))
            above = scores[own][:, None] - scores[~own][None]
            wins = (above > 0) + 0.5 * (above == 0)
            areas.append(((yes @ wins) * no).sum(axis=1) / (yes.sum(axis=1) * no.sum(axis=1)))
        means = [_known_mean(np.stack(columns, axis=1)) for columns in (recalls, areas)]
        return np.stack([often @ right / often.sum(axis=1), *means], axis=1)


def _known_mean(table: np.ndarray) -> np.ndarray:
    known = np.isfinite(table)
    return np.where(known, table, 0).sum(axis=1) / known.sum(axis=1)


def _scored(
    key: tuple[str, int | None], runs: int, drawn: Mapping[tuple[str, int | None], np.ndarray], chosen: str
) -> Scored:
    own = drawn[key]
    made = Scored(*key, runs, own[0], *_ends(own[1:]))
    references = {size: table for (name, size), table in drawn.items() if name == chosen}
    size = key[1] if key[1] in references else next(iter(references)) if len(references) == 1 else None
    if key[0] == chosen or size not in references:
        return made
    apart = own - references[size]
    low, high = _ends(apart[1:])
    title = replace(made, name=chosen, train_cases=size).title
    return replace(made, baseline=title, difference=apart[0], difference_low=low, difference_high=high)


def _ends(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return low, high
