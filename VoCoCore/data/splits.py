"""Training, validation and test cases, and k folds: by patient, seeded, whatever the order of the cases.

Splits and folds that a source gives are kept. A patient's cases never part: that would let a score on
held-out cases flatter the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from VoCoCore.data.cases import Case, Index
from VoCoCore.errors import DataError, SettingsError, counted


def assign_splits(index: Index, val: float = 0.1, test: float = 0.0, folds: int = 0, seed: int = 0) -> Index:
    """Give every case a split, or with ``folds`` a fold number (then ``val`` is not used).

    ``val`` and ``test`` are shares of the patients that the source leaves open; at least one patient each
    where they are above 0. Where the source names validation (or test) cases itself, no more are drawn.
    Folds are made of the patients left open; of a source that has divided all into training and validation,
    and gives no folds, they are made of these.
    Raises SettingsError where there are too few patients, DataError where the source puts one patient into
    several splits or folds.
    """
    if not 0 <= seed < 2**63:
        raise SettingsError(f"the seed of the division cannot be {seed}", "give a whole number of 0 or more")
    # "not" also catches what is not a number.
    if not (val >= 0 and test >= 0 and val + test < 1) or folds < 0 or folds == 1:
        raise SettingsError(
            f"no split has val={val}, test={test}, folds={folds}",
            "shares are 0 or more and leave some for training; folds is 0, or 2 and more",
        )
    splits: dict[str, Any] = _by_patient(index.cases, "split")
    given = set(splits.values())
    opened = _shuffled((patient for patient, split in splits.items() if split is None), seed)
    draw_test, draw_val = test > 0 and "test" not in given, val > 0 and "val" not in given and not folds
    patients, for_training = len(opened), int("train" not in given)
    if draw_test:
        count = _drawn("test", test * patients, len(opened), for_training + draw_val)
        splits.update(dict.fromkeys(opened[:count], "test"))
        opened = opened[count:]
    if folds:
        return _with_folds(index, splits, opened, folds, seed)
    if draw_val:
        count = _drawn("val", val * patients, len(opened), for_training)
        splits.update(dict.fromkeys(opened[:count], "val"))
        opened = opened[count:]
    splits.update(dict.fromkeys(opened, "train"))
    return replace(index, cases=tuple(replace(case, split=splits[patient_of(case)]) for case in index.cases))


def use_fold(index: Index, fold: int) -> Index:
    """Hold one fold out: its cases become ``val``, other cases without a given split ``train``.

    Raises SettingsError where no case has that fold.
    """
    folds = sorted({case.fold for case in index.cases if case.fold is not None})
    if fold not in folds:
        raise SettingsError(f"there is no fold {fold}", f"folds here: {', '.join(map(str, folds)) or 'none'}")

    def split(case: Case) -> str | None:
        if case.fold is None or case.split in ("val", "test"):
            return case.split or "train"
        return "val" if case.fold == fold else "train"

    return replace(index, cases=tuple(replace(case, split=split(case)) for case in index.cases))


def count_folds(index: Index, folds: int) -> int:
    """How many folds the cases have: as many as the source numbers, or ``folds`` where it leaves patients open.

    Raises SettingsError where one of them would have no patient.
    """
    splits, given = _by_patient(index.cases, "split"), _by_patient(index.cases, "fold")
    folded = [given[patient] for patient, split in splits.items() if split in (None, "train")]
    listed = {fold for fold in folded if fold is not None}
    if not listed:
        return folds
    opened = sum(split is None and given[patient] is None for patient, split in splits.items())
    count = max(max(listed) + 1, folds if opened else 0)
    if count - len(listed) > opened:
        numbers = ", ".join(map(str, sorted(listed)))
        raise SettingsError(
            f"the cases are in folds {numbers}, which leaves others of {count} folds empty",
            "number the folds of the list 0, 1, ... without a gap, or give each of them a patient",
        )
    return count


def _with_folds(index: Index, splits: dict[str, Any], opened: Sequence[str], folds: int, seed: int) -> Index:
    given = {patient: fold for patient, fold in _by_patient(index.cases, "fold").items() if fold is not None}
    free = [patient for patient in opened if patient not in given]
    staying = {p for p, split in splits.items() if split in ("train", "val")} - given.keys()
    if not free and not given:
        # One held-out part is what folds replace. Beside open patients, a split says where a patient stays.
        free, staying = _shuffled(staying, seed), set()
        splits = {**splits, **dict.fromkeys(free)}
    if (count := len({*free, *given})) < folds:
        raise SettingsError(
            f"{counted(count, 'open patient' if staying else 'patient', 'does', 'do')} not make {folds} folds",
            f"ask for fewer folds, or {'leave the split of more patients open' if staying else 'add patients'}",
        )
    # The emptiest fold takes the next patient, so that given folds are filled up evenly.
    sizes = [list(given.values()).count(fold) for fold in range(folds)]
    for patient in free:
        fold = sizes.index(min(sizes))
        sizes[fold] += 1
        given[patient] = fold
    return replace(
        index,
        cases=tuple(
            replace(case, split=splits[patient_of(case)], fold=given.get(patient_of(case)))
            for case in index.cases
        ),
    )


def patient_of(case: Case) -> str:
    """Whose case it is; where no patient is named, it is one of its own."""
    return case.patient or case.id


def parted(cases: Iterable[Case], field: str) -> Iterator[tuple[Case, Case]]:
    """Cases whose split or fold is not that of their patient's first case that has one; each behind that one."""
    first: dict[str, Case] = {}
    for case in cases:
        if (value := getattr(case, field)) is None:
            continue
        known = first.setdefault(patient_of(case), case)
        if getattr(known, field) != value:
            yield known, case


def parted_words(first: Case, case: Case, field: str) -> tuple[str, str]:
    """What is wrong with two cases that `parted` gave, and how to mend it."""
    return (
        f"cases {first.id} and {case.id} are of one patient, but {field} says "
        f"{getattr(first, field)} and {getattr(case, field)}",
        f"give all cases of a patient one {field}",
    )


def _by_patient(cases: Sequence[Case], field: str) -> dict[str, Any]:
    """The split or fold that the source gives each patient; None where it gives none."""
    for first, case in parted(cases, field):
        raise DataError(*parted_words(first, case, field))
    found: dict[str, Any] = {}
    for case in cases:
        if found.get(patient_of(case)) is None:
            found[patient_of(case)] = getattr(case, field)
    return found


def _shuffled(patients: Iterable[str], seed: int) -> list[str]:
    ordered = sorted(patients)
    return [ordered[n] for n in np.random.Generator(np.random.Philox(seed)).permutation(len(ordered))]


def _drawn(name: str, wished: float, patients: int, kept: int) -> int:
    """How many patients to draw for a split: at least one, and ``kept`` stay for the others."""
    if patients <= kept:
        raise SettingsError(
            f"no {name} cases can be drawn: {counted(patients, 'patient')} without a given split",
            f"set the share for {name} to 0, add patients, or leave the split of some cases open",
        )
    return min(max(1, round(wished)), patients - kept)
