"""The same images under several names: such cases count as one patient, so that no division parts them."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace

from VoCoCore.data.cases import Case, Index
from VoCoCore.data.images import case_content
from VoCoCore.data.splits import patient_of
from VoCoCore.errors import VocoError

_GLANCE = 1 << 16  # bytes from the middle of a file that nearly always tell it from others of its size


def with_twins_joined(index: Index) -> Index:
    """The index in which cases with the same images, byte for byte, are of one patient.

    Only where the source has not put them into different splits or folds. Files are read whole only where their sizes
    and a part of them are the same; what cannot be read is left as it is.
    """
    patients = _Patients(index.cases)
    for group in twins(index.cases):
        for case in group[1:]:
            patients.join(patient_of(group[0]), patient_of(case))
    cases = tuple(
        replace(case, patient=joined)
        if (joined := patients.of(patient_of(case))) != patient_of(case)
        else case
        for case in index.cases
    )
    return index if cases == index.cases else replace(index, cases=cases)


def twins(cases: Sequence[Case]) -> list[list[Case]]:
    """Groups of two or more cases of several patients that have the same images."""
    groups = [list(cases)]
    for sign in (_sizes, _glance, case_content):
        groups = [part for group in groups for part in _alike(group, sign)]
    return groups


def parted(held: Iterable[tuple[str, str, str]]) -> list[list[str]]:
    """Ids of cases with one content in several splits; ``held``: split, id and content of each case."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for split, name, content in held:
        found[content].append((split, name))
    several = (group for group in found.values() if len({split for split, _ in group}) > 1)
    return [[f"{name} ({split})" for split, name in group] for group in several]


def _alike(cases: Iterable[Case], sign: Callable[[Case], Hashable]) -> Iterator[list[Case]]:
    """Those of one sign, where they are of several patients."""
    groups: dict[Hashable, list[Case]] = defaultdict(list)
    for case in cases:
        try:
            groups[sign(case)].append(case)
        except (OSError, ValueError, VocoError):
            continue  # preparing says what is wrong with it
    for group in groups.values():
        if len({patient_of(case) for case in group}) > 1:
            yield group


def _sizes(case: Case) -> Hashable:
    return tuple((s.volume, *(os.stat(path).st_size for path in s.paths)) for s in case.images)


def _glance(case: Case) -> Hashable:
    digest = hashlib.sha256()
    for source in case.images:
        with open(source.paths[0], "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _GLANCE) // 2)
            digest.update(file.read(_GLANCE))
    return digest.hexdigest()


class _Patients:
    """Which patients are one."""

    def __init__(self, cases: Iterable[Case]) -> None:
        self._same: dict[str, str] = {}
        self._given: dict[str, set[tuple[str, str | int]]] = defaultdict(set)
        for case in cases:
            given = (("split", case.split), ("fold", case.fold))
            self._given[patient_of(case)] |= {(kind, value) for kind, value in given if value is not None}

    def of(self, patient: str) -> str:
        """The one that stands for ``patient``."""
        while patient in self._same:
            patient = self._same[patient]
        return patient

    def join(self, one: str, other: str) -> None:
        """Make them one, unless the source has given them different splits or folds."""
        first, second = sorted((self.of(one), self.of(other)))
        given = self._given[first] | self._given[second]
        if first != second and len({kind for kind, _ in given}) == len(given):
            self._same[second], self._given[first] = first, given
