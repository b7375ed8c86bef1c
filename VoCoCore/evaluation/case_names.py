"""How a run's tables name its cases, so that they name no patient and still pair cases over runs.

A case goes by the hash of its images, as in the weights' list of cases seen; what it is called lies under ``private/``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from VoCoCore.data.cases import Case
from VoCoCore.data.images import case_content, short_hash
from VoCoCore.data.patients import first_cases
from VoCoCore.data.splits import patient_of
from VoCoCore.runs.files import read_json, write_json

NAMES = "cases.json"


class CaseNames:
    """Public names of cases, and what the cases are called."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._owners: dict[str, str] = {}

    def of(self, case: Case) -> str:
        """The public name of ``case``; a copy of another case's images gets a number. Raises DataError."""
        plain = short_hash(case_content(case))
        name, number = plain, 1
        while self._known.get(name, case.id) != case.id:
            number += 1
            name = f"{plain}-{number}"
        self._known[name], self._owners[name] = case.id, patient_of(case)
        return name

    def patients(self) -> dict[str, str]:
        """Which of the named cases are one patient's."""
        return first_cases(self._owners.items())

    def write(self, private: Path) -> None:
        """Keep what the cases are called. Raises EnvironmentFault where it cannot be written."""
        write_json(private / NAMES, self._known)


def public_names(folders: Iterable[Path]) -> Mapping[str, str]:
    """Id -> public name, as far as the runs ``folders`` still know; without ids that stand for several cases."""
    known: dict[str, set[str]] = {}
    for folder in folders:
        found = read_json(folder / "private" / NAMES)
        for name, case in found.items() if isinstance(found, dict) else ():
            known.setdefault(str(case), set()).add(str(name))
    return {case: next(iter(names)) for case, names in known.items() if len(names) == 1}
