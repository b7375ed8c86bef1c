"""Find the cases of whatever a user names: a folder, DICOM, a dataset.json, a CSV or JSON list, an index."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from VoCoCore.data.cases import (
    FORMAT,
    Case,
    Index,
    Source,
    index_from_json,
    read_json_source,
    with_unique_ids,
)
from VoCoCore.data.images import is_image_name, read_header, strip_extension
from VoCoCore.data.segments import with_segments
from VoCoCore.data.sources_dataset import describes_dataset, read_dataset
from VoCoCore.data.sources_list import cases_of_rows, read_csv
from VoCoCore.data.sources_walk import Findings, Progress, is_of_a_job, look_through, scan_folder
from VoCoCore.data.volume import ImageError
from VoCoCore.errors import DataError, SettingsError, nearest

_TABLES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class _Options:
    channels: tuple[str, ...]
    labels: str
    columns: Mapping[str, str]
    progress: Progress


def index_source(
    source: str | Path,
    *,
    channels: Sequence[str] | None = None,
    labels: str | None = None,
    body_part: str | None = None,
    columns: Mapping[str, str] | None = None,
    volumes: str | int | None = None,
    patient: str | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Index:
    """Find all cases of ``source``; no voxels are read.

    ``channels`` and ``labels``: patterns of file names in folders (see `sources_names.arrange`).
    ``columns``: role to column of a CSV (see `sources_list`). ``volumes``: what 4D files are,
    ``"channels"`` of one case or the number of the volume to take; without it a 4D file stays as it is, and
    reading it says what to do. ``body_part``: of cases that do not say theirs. ``patient``: regular
    expression whose first group, searched in the path of a case's first image, is its patient. Raises
    DataError where there is nothing to use, SettingsError for a bad option.
    """
    path = Path(os.path.abspath(os.path.expanduser(source)))
    if not str(source).strip():
        raise DataError("no data are named", "give a folder, a list of cases or an image")
    if not os.path.exists(path):  # which, unlike Path.exists, answers for every name
        siblings = os.listdir(path.parent) if path.parent.is_dir() else []
        raise DataError(f"{path} is not there.{nearest(path.name, siblings)}", "check the path")
    if not os.path.isdir(path) and not os.path.isfile(path):
        raise DataError(f"{path} is a pipe or a device", "give the file itself")
    index = _read(path, _Options(tuple(channels or ()), labels or "", columns or {}, progress))
    wanted = _parsed_volumes(volumes)
    if wanted is not None:
        index = _with_volumes(index, wanted)
    cases = (_completed(case, body_part, _compiled(patient)) for case in index.cases)
    return with_segments(replace(index, cases=with_unique_ids(cases)))


def _read(path: Path, options: _Options) -> Index:
    ending = path.suffix.lower()
    if path.is_dir():
        return _read_folder(path, options)
    if ending in _TABLES:
        return _not_empty(read_csv(path, options.columns), path)
    if ending == ".json":
        return _not_empty(_read_json(path), path)
    if is_image_name(path.name):
        name = strip_extension(path.name)
        return Index((Case(name, (Source(str(path)),), patient=name),))
    raise DataError(
        f"{path} is no list of cases and no image that can be read",
        "give a folder (DICOM too), a .csv, a .json, or a .nii.gz, .nii, .nrrd, .mha or .mhd file",
    )


def _read_json(path: Path) -> Index:
    content = read_json_source(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return index_from_json(content, path)
    if describes_dataset(content):
        return read_dataset(path, content)
    rows = content.get("cases") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise DataError(
            f"{path} is no list of cases", "give a list of records with an 'image' each, or an index"
        )
    records = [{"image": row} if isinstance(row, str) else row for row in rows]
    if not all(isinstance(row, dict) for row in records):
        raise DataError(f"{path} is no list of cases", "each entry is a path or a record with an 'image'")
    return cases_of_rows(records, path, unit="entry")


def _read_folder(root: Path, options: _Options) -> Index:
    if is_of_a_job(root):
        raise DataError(f"{root} is a run or a store, which holds no cases", "give the folder of the images")
    datasets: dict[Path, Index] = {}

    def is_dataset(path: Path) -> bool:
        try:
            content = read_json_source(path)
        except DataError:
            return False
        if describes_dataset(content):
            datasets[path] = read_dataset(path, content)
        return path in datasets

    found = look_through(root, options.progress, is_dataset)
    scanned = scan_folder(root, found, options.channels, options.labels)
    parts = [*datasets.values(), *([scanned] if scanned.cases or scanned.skipped or not datasets else [])]
    index = parts[0] if len(parts) == 1 else _merged(parts)
    if not index.cases:
        raise _nothing_found(root, index, found)
    return index


def _merged(parts: Sequence[Index]) -> Index:
    """Several data sets under one folder: names of channels and labels are kept where all agree."""
    with_cases = [part for part in parts if part.cases]
    channels = max((part.channels for part in with_cases), key=len, default=("image",))
    if any(part.channels != channels for part in with_cases):
        channels = tuple(f"channel_{n}" for n in range(len(channels))) if len(channels) > 1 else ("image",)
    labelled = [part for part in with_cases if any(case.label for case in part.cases)]
    agreed = labelled and all(part.labels == labelled[0].labels for part in labelled)
    return Index(
        tuple(case for part in parts for case in part.cases),
        channels,
        labelled[0].labels if agreed else None,
        tuple(item for part in parts for item in part.skipped),
        labelled[0].regions if agreed else {},
    )


def _nothing_found(root: Path, index: Index, found: Findings) -> DataError:
    if index.skipped:
        common = Counter(item.reason for item in index.skipped).most_common(2)
        reasons = "; ".join(reason for reason, _ in common)
        return DataError(
            f"no usable image in {root}: {len(index.skipped)} skipped, {reasons}",
            "give the folder of the original images",
        )
    kinds = ", ".join(
        f"{count} {ending or 'without extension'}" for ending, count in found.others.most_common(4)
    )
    return DataError(
        f"no images in {root}: {f'it has other files ({kinds})' if kinds else 'it has no files'}",
        "give a folder with .nii.gz, .nii, .nrrd, .mha, .mhd or DICOM files",
    )


def _not_empty(index: Index, path: Path) -> Index:
    if not index.cases:
        why = f": {index.skipped[0].reason}" if index.skipped else ""
        raise DataError(f"{path} names no case{why}", "each row or entry needs an image")
    return index


def _completed(case: Case, body_part: str | None, patient: re.Pattern[str] | None) -> Case:
    changes: dict[str, str] = {}
    if case.body_part is None and body_part not in (None, "", "auto"):
        changes["body_part"] = str(body_part)
    if patient is not None and (found := patient.search(case.images[0].path.replace(os.sep, "/"))):
        changes["patient"] = found[1] if patient.groups else found[0]
    return replace(case, **changes) if changes else case  # type: ignore[arg-type]


def _compiled(expression: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(expression) if expression else None
    except re.error as error:
        raise SettingsError(
            f"'{expression}' is no regular expression: {error}", "for example (P[0-9]+)"
        ) from error


def _parsed_volumes(volumes: str | int | None) -> str | int | None:
    if volumes in (None, "", "channels"):
        return volumes or None
    if not re.fullmatch("[0-9]{1,9}", str(volumes)):
        raise SettingsError(f"volumes is '{volumes}'", "say 'channels', or the number of a volume from 0 on")
    return int(str(volumes))


def _with_volumes(index: Index, wanted: str | int) -> Index:
    """Choose among the volumes of 4D files, which takes a look at each header."""
    cases = tuple(_divided(case, wanted) for case in index.cases)
    if wanted != "channels":
        return replace(index, cases=cases)
    most = max((len(case.images) for case in cases), default=1)
    same = most == len(index.channels)
    return replace(
        index, cases=cases, channels=index.channels if same else tuple(f"volume_{n}" for n in range(most))
    )


def _divided(case: Case, wanted: str | int) -> Case:
    counts = [_count(image) for image in case.images]
    if max(counts) == 1:
        return case
    if isinstance(wanted, int):
        images = [
            image if count == 1 else replace(image, volume=wanted)
            for image, count in zip(case.images, counts, strict=True)
        ]
        return replace(case, images=tuple(images))
    volumes = [
        replace(image, volume=None if count == 1 else n)
        for image, count in zip(case.images, counts, strict=True)
        for n in range(count)
    ]
    return replace(case, images=tuple(volumes))


def _count(image: Source) -> int:
    """Volumes in a file that are not chosen from yet; 1 where it cannot be read, which the check will say."""
    if image.files or image.volume is not None:
        return 1
    try:
        return read_header(image).channels
    except ImageError:
        return 1
