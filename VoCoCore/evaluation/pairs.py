"""Which prediction belongs to which reference: by the name of the case, without the endings that tools add."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from VoCoCore.data.cases import SPLITS, Case, Index, Source
from VoCoCore.data.images import is_image_name, strip_extension
from VoCoCore.data.names import file_names
from VoCoCore.data.predicted import remembered
from VoCoCore.data.sources import index_source
from VoCoCore.data.sources_names import LABEL_WORDS
from VoCoCore.data.sources_walk import DATASET
from VoCoCore.data.splits import patient_of
from VoCoCore.errors import DataError, SettingsError
from VoCoCore.inference.results import LABELS, PROBABILITIES
from VoCoCore.runs.cells import readable

T = TypeVar("T")

# nnU-Net's number of the first channel, and what segmentations are called beside their image.
_ENDING = re.compile(rf"(?:_0000|[_.-](?:{'|'.join(LABEL_WORDS)}|pred|prediction))$", re.IGNORECASE)


@dataclass(frozen=True)
class Reference:
    """A case with the truth: its label map and, where known, the image of its first channel and whose it is."""

    case: str
    label: Source
    image: Source | None = None
    patient: str = ""


@dataclass(frozen=True)
class Pair:
    """A reference and the prediction of the same case."""

    reference: Reference
    prediction: Source

    @property
    def case(self) -> str:
        """The case's name."""
        return self.reference.case


@dataclass(frozen=True)
class Pairing:
    """``pairs``, references without a prediction, and predictions (file names) without a reference."""

    pairs: tuple[Pair, ...]
    unpredicted: tuple[str, ...]
    unreferenced: tuple[str, ...]


def find_references(source: str | Path, split: str = "") -> tuple[tuple[Reference, ...], Index | None]:
    """Cases with a label map in an index, dataset.json, folder of cases, or folder of label maps alone.

    ``split``: only cases of train, val or test. Also returns the index, where there is one: it knows labels' names.
    Raises DataError where there is no reference, SettingsError for a split that is none.
    """
    if split and split not in SPLITS:
        raise SettingsError(f"there is no split '{split}'", f"splits are {', '.join(SPLITS)}")
    path = Path(os.path.abspath(os.path.expanduser(source)))
    index = _index_of(path)
    cases = [case for case in index.cases if case.label is not None] if index is not None else []
    if cases and split and not any(case.split == split for case in cases):
        raise DataError(
            f"{path} has no case with a reference in split '{split}'", "leave --split away, or name another"
        )
    if cases:
        return tuple(_reference(case) for case in cases if split in ("", case.split)), index
    if not path.is_dir():
        raise DataError(
            f"{path} names no case with a label", "give the list, or the folder, of the true label maps"
        )
    if split:
        raise DataError(
            f"{path} is a folder of label maps, which have no split", "give --references an index.json"
        )
    found = tuple(Reference(_stem(file), Source(str(file))) for file in _label_maps(path, "reference"))
    return _with_images(found, path)


def _index_of(path: Path) -> Index | None:
    """The index of a list or folder of cases; None for a folder of which no index can be made."""
    if not path.is_dir():
        return index_source(path)
    try:
        return index_source(path)
    except DataError:
        if (path / DATASET).is_file():
            raise
        return None


def _reference(case: Case) -> Reference:
    assert case.label is not None
    return Reference(case.id, case.label, case.images[0], patient_of(case))


def _with_images(found: tuple[Reference, ...], folder: Path) -> tuple[tuple[Reference, ...], Index | None]:
    """Images and labels' names from a dataset.json in the folder above, as for labelsTr of a known data set."""
    above = folder.parent / DATASET
    if not above.is_file():
        return found, None
    try:
        index = index_source(above)
    except DataError:
        return found, None  # the label maps do without
    known = {case.label.path: _reference(case) for case in index.cases if case.label is not None}
    if not any(reference.label.path in known for reference in found):
        return found, None  # a list of other files
    # The files' own names and sources: the list may call a case otherwise.
    return tuple(
        replace(known.get(one.label.path, one), case=one.case, label=one.label) for one in found
    ), index


def find_predictions(folder: str | Path) -> tuple[Path, ...]:
    """All label maps below ``folder``, without the probabilities that `voco predict` wrote beside its own.

    Raises DataError where there is none, or where two have one name.
    """
    return _label_maps(Path(os.path.abspath(os.path.expanduser(folder))), "prediction")


def _label_maps(folder: Path, what: str) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of {what}s", "give a folder with a label map for each case")
    found = tuple(sorted(_files(folder)))
    if not found:
        raise DataError(
            f"{folder} has no {what}", "give a folder with .nii.gz, .nii, .nrrd or .mha label maps"
        )
    names: dict[str, Path] = {}
    for file in found:
        if _stem(file) in names:
            raise DataError(
                f"{names[_stem(file)]} and {file} are {what}s of one name", "keep the one that counts"
            )
        names[_stem(file)] = file
    return found


def _files(folder: Path) -> Iterator[Path]:
    """All images below ``folder``; raises OSError for a folder that cannot be opened, whose cases would be missing."""

    def closed(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=closed):
        beside = {PROBABILITIES} if LABELS in names else set()
        folders[:] = [name for name in folders if not name.startswith(".") and name not in beside]
        yield from (Path(place, name) for name in names if is_image_name(name) and not name.startswith("."))


def make_pairs(references: Sequence[Reference], predictions: Sequence[Path]) -> Pairing:
    """Pair by name: the case's name, then its files' names, then these without endings such as _seg and _0000.

    A prediction of `voco predict` is first called as the case that it was made for: its file's name may lack letters
    that file systems do not take. A name that stands for several references or predictions pairs nothing. Raises
    DataError where nothing pairs.
    """
    pairs: dict[str, Path] = {}
    cases = _cases_of(predictions)
    alike = _alike(cases)
    for ending in (None, "", _ENDING):
        taken = set(pairs.values())
        free = [path for path in predictions if path not in taken]
        if ending is None:
            named = _unique((cases[path], path) for path in free if path in cases)
        else:
            named = _unique((_name(path, ending), path) for path in free if path not in alike)
        names = {r.case: _names(r, ending or "") for r in references if r.case not in pairs}
        owned = _unique((name, case) for case, of_case in names.items() for name in of_case)
        for case, of_case in names.items():
            found = next((named[name] for name in of_case if name in named and name in owned), None)
            if found is not None:
                pairs[case] = found
    if not pairs:
        raise DataError(
            f"no prediction is named like a reference: there are {_some(_stem(path) for path in predictions)}, "
            f"wanted are {_some(reference.case for reference in references)}",
            "name predictions as their cases",
        )
    known = {reference.case: reference for reference in references}
    return Pairing(
        tuple(Pair(known[case], Source(str(path))) for case, path in sorted(pairs.items())),
        tuple(case for case in known if case not in pairs),
        tuple(path.name for path in predictions if path not in pairs.values()),
    )


def _cases_of(predictions: Sequence[Path]) -> dict[Path, str]:
    """The cases that `voco predict` has made files for, by these."""
    wanted = set(predictions)
    found = {}
    for folder in {path.parent for path in predictions}:
        for facts in remembered(folder):
            path = folder / str(facts.get("file", ""))
            if path in wanted and isinstance(facts.get("case"), str):
                found[path] = facts["case"]
    return found


def _alike(cases: Mapping[Path, str]) -> set[Path]:
    """Files of cases such as "a 1" and "a_1": one's file has the other's name."""
    names = {path: file_names([case])[0].lower() for path, case in cases.items()}
    count = Counter(names.values())
    return {path for path, name in names.items() if count[name] > 1}


def _name(path: Path, ending: str | re.Pattern[str]) -> str:
    """What a prediction is called, less ``ending``."""
    return re.sub(ending, "", _stem(path))


def _names(reference: Reference, ending: str | re.Pattern[str]) -> list[str]:
    """What a prediction of this case may be called: as the case, its label map or its image, less ``ending``."""
    sources = [reference.label, *([reference.image] if reference.image else [])]
    names = [reference.case, *(_stem(Path(source.path)) for source in sources)]
    return list(dict.fromkeys(re.sub(ending, "", name) for name in names))


def _unique(entries: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Name -> what alone has it."""
    found: dict[str, set[T]] = {}
    for name, owner in entries:
        found.setdefault(name, set()).add(owner)
    return {name: next(iter(owners)) for name, owners in found.items() if len(owners) == 1}


def _stem(path: Path) -> str:
    """A file's name without the extension of an image, ``.seg.nrrd`` being one."""
    return re.sub(r"\.seg$", "", strip_extension(readable(path.name)), flags=re.IGNORECASE)


def _some(names: Iterable[str], most: int = 3) -> str:
    listed = sorted(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
