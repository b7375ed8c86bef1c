"""Folders, recursively: image files by name, DICOM by content, data sets by their dataset.json.

Hidden files, macOS' ``._`` companions, runs and stores of prepared volumes are passed over; a folder that is reached
twice through links is read once.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from VoCoCore.data.cases import Case, Index, Skipped, Source
from VoCoCore.data.dicom import find_series
from VoCoCore.data.dicom_geometry import Slice, read_slice
from VoCoCore.data.images import is_image_name
from VoCoCore.data.predicted import MEMORY, predicted_files
from VoCoCore.data.sources_names import Group, arrange
from VoCoCore.errors import counted
from VoCoCore.runs.directory import is_run
from VoCoCore.runs.space import STORE, STORE_MARKER, kind_of

Progress = Callable[[int, int, str], None]

DATASET = "dataset.json"
_FOREIGN = (
    ".mgz",
    ".mgh",
    ".hdr",
    ".img",
    ".img.gz",
    ".nhdr",
    ".mnc",
    ".par",
    ".vtk",
    ".nii.bz2",
    ".nii.zst",
)
# Opening every file to look for DICOM is slow on network drives: these never are.
_NEVER_DICOM = {
    ".json",
    ".csv",
    ".tsv",
    ".txt",
    ".md",
    ".py",
    ".log",
    ".xml",
    ".html",
    ".pdf",
    ".yaml",
    ".yml",
}
_NEVER_DICOM |= {
    ".png",
    ".jpg",
    ".jpeg",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".svg",
    ".npz",
    ".npy",
    ".pt",
    ".pth",
}
_NEVER_DICOM |= {
    ".zip",
    ".gz",
    ".tar",
    ".7z",
    ".bz2",
    ".raw",
    ".zraw",
    ".h5",
    ".xlsx",
    ".docx",
    ".safetensors",
}
# A folder of a job has one of these.
_MARKS = {"settings.json", STORE_MARKER}
_SUBJECT = re.compile(r"(?:^|/)(sub-[A-Za-z0-9]+)")


@dataclass
class Findings:
    """What lies in a folder: image files (relative paths with /) and those among them that `voco predict` made, DICOM
    slices, data sets, other files.
    """

    images: list[str] = field(default_factory=list)
    predicted: set[str] = field(default_factory=set)
    slices: list[Slice] = field(default_factory=list)
    datasets: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def look_through(root: Path, progress: Progress, is_dataset: Callable[[Path], bool]) -> Findings:
    """Walk through ``root``; folders whose dataset.json says what is in them are not entered."""
    found = Findings()
    seen = 0
    for folder, names in _walk(str(root), found, is_dataset):
        for name in names:
            seen += 1
            if seen % 200 == 0:
                progress(seen, seen, f"{counted(seen, 'file')} seen")
            _sort_in(os.path.join(folder, name), name, root, found)
    return found


def is_of_a_job(folder: Path) -> bool:
    """Whether ``folder`` is a run or a store: it holds no case, and a job that opens the file of its lock loses it."""
    return is_run(folder) or kind_of(folder) == STORE


def series_below(folder: str) -> tuple[list[Case], list[Skipped]]:
    """DICOM series in a folder, recursively."""
    found = look_through(Path(folder), lambda *_: None, lambda _: False)
    return find_series(found.slices)


def scan_folder(root: Path, found: Findings, channels: Sequence[str] = (), labels: str = "") -> Index:
    """Make cases of what `look_through` found: image files sorted by `arrange`, and DICOM series."""
    arranged = arrange(found.images, channels, labels, found.predicted, root.absolute().name)
    names = Counter(group.name for group in arranged.groups)
    cases = [_case(group, root, arranged.channels, names[group.name] > 1) for group in arranged.groups]
    skipped = [Skipped(str(root / path), reason) for path, reason in arranged.unused]
    series, not_series = find_series(found.slices)
    return Index((*cases, *series), arranged.channels, None, (*found.skipped, *skipped, *not_series))


def patient_of(path: str, otherwise: str) -> str:
    """The patient that a path names in BIDS' way (sub-...), or ``otherwise``."""
    subject = _SUBJECT.search(path)
    return subject[1] if subject else otherwise


def _walk(root: str, found: Findings, is_dataset: Callable[[Path], bool]) -> Iterator[tuple[str, list[str]]]:
    """Yield (folder, file names) in sorted order, each real folder once."""

    def note(error: OSError) -> None:
        why = f"folder that cannot be opened: {error.strerror or error}"
        found.skipped.append(Skipped(error.filename, why))

    visited: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=note):
        status = os.stat(folder)
        described = DATASET in names and is_dataset(Path(folder, DATASET))
        if described:
            found.datasets.append(Path(folder, DATASET))
        of_a_job = not _MARKS.isdisjoint(names) and is_of_a_job(Path(folder))
        if described or of_a_job or (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        if MEMORY in names:
            made = (os.path.join(folder, name) for name in predicted_files(Path(folder)))
            found.predicted.update(_relative(path, root) for path in made)
        folders[:] = sorted(name for name in folders if _is_shown(name))
        yield folder, sorted(name for name in names if _is_shown(name))


def _relative(path: str, root: str | Path) -> str:
    return os.path.relpath(path, root).replace(os.sep, "/")


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _sort_in(path: str, name: str, root: Path, found: Findings) -> None:
    ending = os.path.splitext(name)[1].lower()
    if is_image_name(name):
        found.images.append(_relative(path, root))
    elif name.lower().endswith(_FOREIGN):
        found.skipped.append(Skipped(path, f"image format {ending} is not read: convert it to .nii.gz"))
    elif ending in _NEVER_DICOM or name.upper() == "DICOMDIR" or not os.path.isfile(path):
        found.others[ending] += 1
    else:
        try:
            one = read_slice(path)
        except OSError as error:
            found.skipped.append(Skipped(path, f"file that cannot be opened: {error.strerror or error}"))
            return
        if one is None:
            found.others[ending] += 1
        else:
            found.slices.append(one)


def _case(group: Group, root: Path, channels: Sequence[str], ambiguous: bool) -> Case:
    """One case; channels that others have and it lacks are named as missing."""
    order = [channel for channel in channels if channel in group.files] or list(group.files)
    name = (group.key.replace("/", "_") if ambiguous else group.name) or root.name
    return Case(
        name,
        tuple(Source(str(root / group.files[channel])) for channel in order),
        None if group.label is None else Source(str(root / group.label)),
        patient_of(group.key, name),
        missing=tuple(channel for channel in channels if channel not in group.files),
    )
