"""Splits and folds: by patient, seeded, whatever the order of the cases, and true to what a source says."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from VoCoCore.data.cases import Case, Index, Source
from VoCoCore.data.splits import assign_splits, count_folds, use_fold
from VoCoCore.errors import DataError, SettingsError

IMAGE = (Source("/x.nii"),)


def index_of(patients: int, each: int = 1, **given: object) -> Index:
    return Index(
        tuple(
            replace(Case(f"c{p}-{n}", IMAGE, patient=f"p{p}"), **given)  # type: ignore[arg-type]
            for p in range(patients)
            for n in range(each)
        )
    )


def joined(*parts: Index) -> Index:
    """Cases of several indices, their patients kept apart."""
    return Index(
        tuple(
            replace(case, id=f"{number}{case.id}", patient=f"{number}{case.patient}")
            for number, part in enumerate(parts)
            for case in part.cases
        )
    )


def counts(index: Index) -> Counter[str | None]:
    return Counter(case.split for case in index.cases)


@settings(deadline=None)
@given(st.integers(3, 40), st.integers(1, 3), st.floats(0.01, 0.45), st.floats(0, 0.45), st.integers(0, 99))
def test_patients_never_part_and_shares_are_kept(
    patients: int, each: int, val: float, test: float, seed: int
) -> None:
    index = index_of(patients, each)
    divided = assign_splits(index, val, test, seed=seed)
    by_patient: dict[str, set[str | None]] = {}
    for case in divided.cases:
        by_patient.setdefault(case.patient, set()).add(case.split)
    assert all(len(splits) == 1 for splits in by_patient.values())
    found = {name: number / each for name, number in counts(divided).items()}
    assert found["val"] >= 1 and found["train"] >= 1 and ("test" in found) == (test > 0)
    for name, share in (("val", val), ("test", test)):
        assert abs(found.get(name, 0) - max(share * patients, share > 0)) <= 1
    shuffled = list(index.cases)
    random.Random(seed).shuffle(shuffled)
    again = assign_splits(replace(index, cases=tuple(shuffled)), val, test, seed=seed)
    assert {c.id: c.split for c in again.cases} == {c.id: c.split for c in divided.cases}


def test_the_seed_decides() -> None:
    draws = {tuple(c.split for c in assign_splits(index_of(30), 0.3, seed=seed).cases) for seed in range(5)}
    assert len(draws) == 5


def test_given_splits_are_kept() -> None:
    index = joined(index_of(3, split="test"), index_of(2, split="train"), index_of(10))
    divided = assign_splits(index, val=0.2, test=0.5)
    assert counts(divided) == {"test": 3, "train": 2 + 8, "val": 2}
    assert [c.split for c in divided.cases[:5]] == ["test"] * 3 + ["train"] * 2
    with_val = assign_splits(joined(index_of(2, split="val"), index_of(10)), val=0.5)
    assert counts(with_val) == {"val": 2, "train": 10}


def test_cases_of_a_patient_follow_a_given_split() -> None:
    index = Index(
        (Case("a", IMAGE, patient="p", split="val"), Case("b", IMAGE, patient="p"), Case("c", IMAGE))
    )
    assert [case.split for case in assign_splits(index).cases] == ["val", "val", "train"]


def test_one_patient_in_two_splits_is_refused() -> None:
    cases = (Case("a", IMAGE, patient="p", split="val"), Case("b", IMAGE, patient="p", split="train"))
    with pytest.raises(DataError, match="a and b are of one patient, but split says val and train"):
        assign_splits(Index(cases))


@pytest.mark.parametrize(
    ("index", "options"),
    [
        (index_of(1, 5), {"val": 0.1}),
        (index_of(2), {"val": 0.1, "test": 0.1}),
        (index_of(4, split="train"), {"val": 0.1}),
        (index_of(3), {"folds": 4}),
        (index_of(9), {"folds": 1}),
        (index_of(9), {"val": 0.6, "test": 0.4}),
        (index_of(9), {"val": -0.1}),
    ],
)
def test_impossible_wishes(index: Index, options: dict) -> None:
    with pytest.raises(SettingsError) as error:
        assign_splits(index, **options)
    assert error.value.hint


def test_what_is_just_possible() -> None:
    assert counts(assign_splits(index_of(2), val=0.9)) == {"val": 1, "train": 1}
    assert counts(assign_splits(index_of(3), val=0.1, test=0.1)) == {"val": 1, "test": 1, "train": 1}
    assert counts(assign_splits(index_of(1), val=0)) == {"train": 1}


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(6, 30), st.integers(0, 9))
def test_folds_are_even_and_each_patient_is_held_out_once(folds: int, patients: int, seed: int) -> None:
    index = assign_splits(joined(index_of(patients, 2), index_of(1, split="test")), folds=folds, seed=seed)
    sizes = Counter(case.fold for case in index.cases if case.split is None)
    assert set(sizes) == set(range(folds)) and max(sizes.values()) - min(sizes.values()) <= 2
    held_out: Counter[str] = Counter()
    for fold in range(folds):
        chosen = use_fold(index, fold)
        assert counts(chosen)["test"] == 1
        held_out.update({case.patient for case in chosen.cases if case.split == "val"})
        assert not held_out.keys() & {c.patient for c in chosen.cases if c.split == "test"}
    assert set(held_out.values()) == {1} and len(held_out) == patients


def test_given_folds_are_kept_and_filled_up() -> None:
    index = assign_splits(joined(index_of(3, fold=0), index_of(3)), folds=2)
    assert [case.fold for case in index.cases[:3]] == [0, 0, 0]
    assert Counter(case.fold for case in index.cases) == {0: 3, 1: 3}
    with pytest.raises(SettingsError, match="no fold 7"):
        use_fold(index, 7)


def test_folds_are_made_of_what_a_source_has_divided_into_training_and_validation() -> None:
    source = joined(index_of(8, split="train"), index_of(2, split="val"), index_of(2, split="test"))
    index = assign_splits(source, folds=5)
    assert Counter(case.fold for case in index.cases) == {None: 2, 0: 2, 1: 2, 2: 2, 3: 2, 4: 2}
    for fold in range(5):
        chosen = use_fold(index, fold)
        assert counts(chosen) == {"train": 8, "val": 2, "test": 2}
        assert {case.split for case in chosen.cases[-2:]} == {"test"}
    with pytest.raises(SettingsError, match="10 patients do not make 11 folds"):
        assign_splits(source, folds=11)


def test_beside_open_patients_a_given_split_stays_in_all_folds() -> None:
    source = joined(index_of(3, split="train"), index_of(1, split="val"), index_of(4))
    index = assign_splits(source, folds=2)
    assert all(counts(use_fold(index, fold)) == {"train": 5, "val": 3} for fold in range(2))
    assert [case.fold for case in index.cases[:4]] == [None] * 4
    with pytest.raises(SettingsError, match="4 open patients do not make 5 folds"):
        assign_splits(source, folds=5)


def test_a_source_that_numbers_its_folds_says_how_many_there_are() -> None:
    three = joined(index_of(2, fold=0), index_of(1, fold=1), index_of(1, fold=2), index_of(1, split="test"))
    assert count_folds(three, 5) == 3 == count_folds(three, 2)
    assert count_folds(joined(three, index_of(2)), 5) == 5 and count_folds(joined(three, index_of(2)), 2) == 3
    assert count_folds(index_of(9), 5) == 5
    for lacking in (joined(three, index_of(1)), joined(index_of(2, fold=1), index_of(2, fold=2))):
        with pytest.raises(SettingsError, match="folds empty"):
            count_folds(lacking, 5)
