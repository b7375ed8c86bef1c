"""One list of cases from the scene's own and from cohorts on disk: names of labels agree, ids are unique."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from VoCoCore.data.cases import Case, Index, load_index, save_index, with_unique_ids
from VoCoCore.data.names import BACKGROUND, same_name
from VoCoCore.errors import DataError
from VoCoCore.runs.files import move, patiently, read_json
from VoCoSlicerLib.channels import differ


def cohortLabels(cohorts: Sequence[tuple[str, Index]]) -> dict[str, int]:
    """Name -> value over all cohorts that have labels. Raises DataError where two of them differ."""
    found: dict[str, int] = {}
    owners: dict[str, str] = {}
    for path, index in cohorts:
        for name, value in _declared(index).items():
            known = next((other for other in found if same_name(other) == same_name(name)), name)
            clash = next((other for other, taken in found.items() if taken == value and other != known), None)
            if found.get(known, value) != value or clash is not None:
                raise DataError(
                    f"{path} and {owners[clash or known]} give the labels {clash or known} and {name} different values",
                    "train on one of them, or convert one to the other's values",
                )
            found[known], owners[known] = value, path
    return found


def _declared(index: Index) -> dict[str, int]:
    return {name: value for name, value in (index.labels or {}).items() if value != 0}


def labelValues(names: Iterable[str], declared: dict[str, int]) -> dict[str, int]:
    """Name -> value: the cohorts' own first, then new values for the names of segments that they lack."""
    values = dict(declared)
    known = {same_name(name) for name in values} | {same_name(BACKGROUND)}
    free = (number for number in range(1, 1 << 15) if number not in set(declared.values()))
    for name in names:
        if same_name(name) not in known:
            known.add(same_name(name))
            values[name] = next(free)
    return values


def checkCohorts(cohorts: Sequence[tuple[str, Index]], channels: Sequence[str], labelled: bool) -> None:
    """Raise DataError for a cohort that cannot be trained on together with the scene's cases.

    ``channels``: names of the images of each case of the scene (none: the scene gives no case); ``labelled``: the scene
    gives segmentations.
    """
    counts = {len(channels), *(len(index.channels) for _, index in cohorts)} - {0}
    if len(counts) > 1:
        raise DataError(
            f"cases with {' and '.join(map(str, sorted(counts)))} images are chosen together",
            "choose cases with the same number of channels",
        )
    groups = [("the scene", tuple(channels)), *((path, index.channels) for path, index in cohorts)]
    groups = [(place, names) for place, names in groups if len(names) > 1]
    for place, names in groups[1:]:
        if differ(groups[0][1], names):
            raise DataError(
                f"the channels of {groups[0][0]} are {', '.join(groups[0][1])}, those of {place} {', '.join(names)}",
                "choose cases with the same channels, in the same order",
            )
    named = labelled or any(index.labels is not None for _, index in cohorts)
    for path, index in cohorts:
        if named and index.labels is None and any(case.label for case in index.cases):
            raise DataError(
                f"{path} has labels without names, so they cannot be told from those that have names",
                "add a dataset.json with the names of its labels, or choose the folder alone",
            )


def readCohorts(paths: Iterable[str | Path], labels: bool = True) -> list[tuple[str, Index]]:
    """The indexes at ``paths``, with or without their ``labels``. Raises DataError, naming the file."""
    found = [(str(path), load_index(path)) for path in paths]
    return found if labels else [(path, _unlabelled(index)) for path, index in found]


def _unlabelled(index: Index) -> Index:
    cases = tuple(replace(case, label=None) for case in index.cases)
    return replace(index, cases=cases, labels=None, regions={})


def joined(
    cases: Sequence[Case],
    channels: Sequence[str],
    values: dict[str, int],
    cohorts: Sequence[tuple[str, Index]],
) -> Index:
    """The index of all: the scene's cases first. ``values``: name -> value of all labels (empty: none is known)."""
    everything = [*cases, *(case for _, index in cohorts for case in index.cases)]
    regions = {name: region for _, index in cohorts for name, region in index.regions.items()}
    skipped = tuple(item for _, index in cohorts for item in index.skipped)
    names = tuple(channels) or (cohorts[0][1].channels if cohorts else ("image",))
    labels = {BACKGROUND: 0, **values} if values else None
    unique = with_unique_ids(everything)
    return Index(unique, names, labels, skipped, regions)


def saveBeside(index: Index, folder: Path) -> Path:
    """Write the index as index.json, index-2.json, ...: never over another one, which a run may still need.

    The same list is not written twice.
    """
    beside = folder / f".index-{os.getpid()}.json"
    save_index(index, beside)
    content = read_json(beside)
    number = 1
    while True:
        path = folder / ("index.json" if number == 1 else f"index-{number}.json")
        if not path.exists():
            move(beside, path)
            return path
        if read_json(path) == content:
            patiently(beside.unlink)
            return path
        number += 1


def withPatient(case: Case, patient: str) -> Case:
    """The case as one of a patient; where none is known, it is a patient of its own."""
    return replace(case, patient=patient or case.id)
