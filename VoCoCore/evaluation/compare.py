"""Do runs differ? Means with intervals, and paired differences from a baseline with a test, on the same cases.

Runs of one method (one name) on the same number of training cases are draws: their scores are averaged case by case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import nan

import numpy as np

from VoCoCore.data.patients import grouped, merged
from VoCoCore.errors import DataError, SettingsError, counted, nearest
from VoCoCore.evaluation.compare_read import RunScores, averaged
from VoCoCore.evaluation.compare_settings import settings_notes
from VoCoCore.evaluation.statistics import Paired, column_means, holm, mean_of, paired
from VoCoCore.training.intervals import bootstrap_interval

MEAN = "mean"  # over the labels


@dataclass(frozen=True)
class Group:
    """Runs of one method on one number of training cases; ``table`` (cases, labels) holds their averaged scores.

    ``means``: of each label and over labels; ``low``, ``high``: 95 % interval of the latter by patient; ``runs_sd``:
    standard deviation of the runs' own means, NaN for one run.
    """

    name: str
    train_cases: int | None
    runs: int
    runs_sd: float
    init: str
    table: np.ndarray
    means: tuple[float, ...]
    mean: float
    low: float
    high: float

    @property
    def title(self) -> str:
        """Name, with the number of training cases where it is known."""
        many = self.train_cases
        return self.name if many is None else f"{self.name}, {counted(many, 'training case')}"


@dataclass(frozen=True)
class Difference:
    """``group`` less ``baseline`` on one label, or on MEAN; ``corrected``: Holm's p."""

    group: Group
    baseline: Group
    label: str
    found: Paired
    corrected: float = nan


@dataclass(frozen=True)
class Comparison:
    """All that is to be told: the groups, their differences from the baseline, on which cases of how many patients, and
    notes.
    """

    metric: str
    labels: tuple[str, ...]
    cases: tuple[str, ...]
    patients: int
    groups: tuple[Group, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def compare(runs: Sequence[RunScores], metric: str, baseline: str = "") -> Comparison:
    """Compare ``runs``, on the cases that all of them have, with the method ``baseline`` (default: the first run's).

    Raises SettingsError for fewer than two methods or a baseline that is none, DataError where no case is in all runs
    or where the surface Dice was computed with several tolerances.
    """
    _check(runs, metric)
    chosen = baseline or runs[0].name
    names = list(dict.fromkeys(run.name for run in runs))
    if chosen not in names:
        raise SettingsError(
            f"there is no run called '{chosen}'.{nearest(chosen, names)}",
            f"they are called {', '.join(names)}",
        )
    cases = _common_cases(runs)
    labels = _all_labels(runs)
    by_group: dict[tuple[str, int | None], list[RunScores]] = {}
    for run in runs:
        by_group.setdefault((run.name, run.train_cases), []).append(run)
    if len(by_group) < 2:
        raise SettingsError(
            f"all {len(runs)} runs are called '{runs[0].name}': there is nothing to compare",
            "give methods names of their own with --name FOLDER=NAME",
        )
    whose = grouped(cases, merged(run.patients for run in runs))
    groups = [_group(key, members, cases, whose, labels) for key, members in by_group.items()]
    differences, notes = _differences(groups, chosen, whose, labels)
    return Comparison(
        metric,
        labels,
        cases,
        len(set(whose)),
        tuple(groups),
        tuple(differences),
        (*_notes(runs, cases, labels), *_unlike(groups, cases, labels), *notes),
    )


def _check(runs: Sequence[RunScores], metric: str) -> None:
    if len(runs) < 2:
        raise SettingsError("a comparison needs two runs", "name the baseline first, then the others")
    tolerances = {run.tolerance for run in runs if run.tolerance is not None}
    if metric == "surface_dice" and len(tolerances) > 1:
        shown = " and ".join(f"{value:g}" for value in sorted(tolerances))
        raise DataError(
            f"the surface Dice was computed with tolerances of {shown} mm",
            "evaluate all with the same --tolerance",
        )


def _common_cases(runs: Sequence[RunScores]) -> tuple[str, ...]:
    cases = tuple(case for case in runs[0].scores if all(case in run.scores for run in runs[1:]))
    if not cases:
        other = next((run for run in runs if not set(run.scores) & set(runs[0].scores)), runs[-1])
        raise DataError(
            f"no case is in all runs: {runs[0].path} has {_some(runs[0].scores)}, "
            f"{other.path} has {_some(other.scores)}",
            "compare runs that were evaluated on the same cases",
        )
    return cases


def _all_labels(runs: Sequence[RunScores]) -> tuple[str, ...]:
    """The labels of all runs. Means over none in common say nothing of each other: DataError then."""
    each = [list(dict.fromkeys(label for found in run.scores.values() for label in found)) for run in runs]
    other = next((place for place, found in enumerate(each) if not set(found) & set(each[0])), None)
    if other is not None:
        raise DataError(
            f"{runs[0].path} and {runs[other].path} have no label in common: "
            f"{_some(each[0])}, and {_some(each[other])}",
            "evaluate both with the same --labels",
        )
    return tuple(dict.fromkeys(label for found in each for label in found))


def _some(found: Iterable[str]) -> str:
    names = list(found)
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _array(run: RunScores, cases: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    return np.array([[run.scores[case].get(label, nan) for label in labels] for case in cases], dtype=float)


def _group(
    key: tuple[str, int | None],
    members: Sequence[RunScores],
    cases: Sequence[str],
    whose: Sequence[str],
    labels: Sequence[str],
) -> Group:
    merged = replace(members[0], scores=averaged([run.scores for run in members]))
    table = _array(merged, cases, labels)
    own = [mean_of(column_means(_array(run, cases, labels))) for run in members]
    means = column_means(table)
    low, high = bootstrap_interval(table, whose)
    return Group(
        name=key[0],
        train_cases=key[1],
        runs=len(members),
        runs_sd=float(np.std(own, ddof=1)) if len(own) > 1 else nan,
        init=" / ".join(dict.fromkeys(run.init for run in members if run.init)),
        table=table,
        means=tuple(means.tolist()),
        mean=mean_of(means),
        low=low,
        high=high,
    )


def _differences(
    groups: Sequence[Group], baseline: str, whose: Sequence[str], labels: Sequence[str]
) -> tuple[list[Difference], list[str]]:
    """Every other method against the baseline on as many training cases, corrected for how many there are."""
    references = {group.train_cases: group for group in groups if group.name == baseline}
    found: list[Difference] = []
    notes = []
    for group in groups:
        if group.name == baseline:
            continue
        reference = references.get(group.train_cases)
        if reference is None and len(references) == 1:
            reference = next(iter(references.values()))
            notes.append(
                f"{group.title} is compared with {reference.title}: the training cases differ in number"
            )
        if reference is None:
            notes.append(f"{group.title} has no '{baseline}' on as many training cases beside it: not tested")
            continue
        found.append(Difference(group, reference, MEAN, paired(reference.table, group.table, whose)))
        for place, label in enumerate(labels):
            column = paired(reference.table[:, place], group.table[:, place], whose)
            found.append(Difference(group, reference, label, column))
    return _corrected(found), notes


def _corrected(found: Sequence[Difference]) -> list[Difference]:
    """Holm's p: the means are one family, the single labels another."""
    values: dict[int, float] = {}
    for family in (True, False):
        members = [place for place, one in enumerate(found) if (one.label == MEAN) == family]
        values |= zip(members, holm([found[place].found.p for place in members]), strict=True)
    return [replace(one, corrected=values[place]) for place, one in enumerate(found)]


def _notes(runs: Sequence[RunScores], cases: Sequence[str], labels: Sequence[str]) -> list[str]:
    """What a reader must know of where the scores come from."""
    notes = []
    everything = set().union(*(run.scores for run in runs))
    if len(everything) > len(cases):
        lost = counted(len(everything) - len(cases), "case", "is", "are")
        notes.append(f"{lost} not in all runs and left out")
    if len({run.source for run in runs}) > 1:
        told = "; ".join(f"{run.name}: {run.source}" for run in runs)
        notes.append(f"the scores are not all of one kind: {told}")
    for label in labels:
        without = sorted(
            {run.name for run in runs if not any(label in found for found in run.scores.values())}
        )
        if without:
            notes.append(f"{', '.join(without)} has no label '{label}': it counts in the others' means only")
    return notes + settings_notes([(run.name, run.path) for run in runs])


def _unlike(groups: Sequence[Group], cases: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Labels whose means are over easier cases, perhaps, for one method than for another."""
    notes = []
    for place, label in enumerate(labels):
        known = [np.isfinite(group.table[:, place]) for group in groups]
        if all(np.array_equal(one, known[0]) for one in known) or not all(one.any() for one in known):
            continue
        told = ", ".join(f"{g.title} {int(one.sum())}" for g, one in zip(groups, known, strict=True))
        notes.append(
            f"means of '{label}' are not over the same cases ({told}, of {len(cases)}): it has no score where it was "
            "absent, and no distance where it was missed or invented; differences are of pairs with both scores"
        )
    return notes
