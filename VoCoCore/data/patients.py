"""Which cases are one patient's, where nothing may name the patient: each goes by the first of his cases.

Two scans of one patient tell less than scans of two: they are drawn together where an interval draws anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from VoCoCore.errors import counted

# Name of a case -> of its patient's first case; one that is not there is the only one.
Patients = Mapping[str, str]
EACH_ITS_OWN: Patients = {}


def first_cases(owners: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Patients of (case, whose it is), in this order; '' is a patient of his own."""
    first: dict[str, str] = {}
    return {case: first.setdefault(owner, case) if owner else case for case, owner in owners}


def grouped(cases: Sequence[str], patients: Patients) -> list[str]:
    """Whose each of ``cases`` is, in their order."""
    return [patients.get(case, case) for case in cases]


def cases_of(cases: int, patients: int, what: str = "case") -> str:
    """How many cases, or ``what`` they are called, in words; and of how many patients where some have several."""
    return counted(cases, what) + (f" of {counted(patients, 'patient')}" if patients < cases else "")


def merged(several: Iterable[Patients]) -> dict[str, str]:
    """What ``several`` tables say together: cases are one patient's that any of them, or a chain of them, says are."""
    same: dict[str, str] = {}

    def first_of(case: str) -> str:
        while same.setdefault(case, case) != case:
            case = same[case]
        return case

    for patients in several:
        for case, first in patients.items():
            same[first_of(case)] = first_of(first)
    return {case: first_of(case) for case in same}
