"""DICOM series: which files belong to one volume, and reading that volume.

Files of many patients and series may be mixed and called anything. What is no volume is skipped with its
reason. Ids are made of hashes, so that neither names nor numbers of patients get into an index.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from VoCoCore.data.cases import Case, Skipped, Source
from VoCoCore.data.dicom_geometry import Slice, read_stack
from VoCoCore.data.images_itk import read_dicom_slice
from VoCoCore.data.volume import Header, ImageError, Volume

# Closer than this, in mm along the normal, two slices are at one position.
SAME_POSITION_MM = 0.01
_BODY_PARTS = {
    "CHEST": "chest",
    "THORAX": "chest",
    "LUNG": "chest",
    "ABDOMEN": "abdomen",
    "LIVER": "abdomen",
    "HEAD": "headneck",
    "NECK": "headneck",
    "HEADNECK": "headneck",
}


def find_series(slices: Iterable[Slice]) -> tuple[list[Case], list[Skipped]]:
    """Sort DICOM files into volumes: one case per volume, and what was left out with the reason."""
    usable: list[Slice] = []
    refused: dict[tuple[str, str, str], list[str]] = {}
    for one in slices:
        if one.refusal:
            refused.setdefault((one.refusal, one.series, os.path.dirname(one.path)), []).append(one.path)
        else:
            usable.append(one)
    cases = []
    skipped = [Skipped(min(paths), key[0], len(paths)) for key, paths in refused.items()]
    for group in _groups(usable):
        group, copies = _without_copies(group)
        if copies:
            skipped.append(Skipped(copies[0].path, "copy of a DICOM slice that is used already", len(copies)))
        volumes = _volumes(group)
        cases += [_case(volume) for volume in volumes if len(volume) > 1]
        skipped += [_why_skipped(volume) for volume in volumes if len(volume) == 1]
        if not volumes:
            skipped.append(_repeated(group))
    return sorted(cases, key=lambda case: (case.images[0].path, case.images[0].files)), skipped


def read_series(source: Source) -> Volume:
    """Read a series. Raises ImageError where slices are unreadable or make no regular volume."""
    paths = source.paths
    slices, stack = read_stack(paths)
    if fault := stack.fault():
        raise ImageError(f"{source.path}: {fault}", "send the series again, or resample it", "slices")
    array = np.empty((0, 0, 0))
    for number, (path, one) in enumerate(zip(paths, slices, strict=True)):
        pixels = read_dicom_slice(path)
        if pixels.shape != slices[0].size:
            raise ImageError(
                f"{path} has another size than the series' first slice", "make the index again", "slices"
            )
        if number == 0:
            array = np.empty((*one.size, len(paths)), pixels.dtype, order="F")
        # Slices of PET are scaled one by one, and may come as different types.
        array = array.astype(np.result_type(array, pixels), copy=False)
        array[:, :, number] = pixels
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    return Volume(array, stack.affine)


def read_series_header(source: Source) -> Header:
    """Geometry of a series from its first and last file. Raises ImageError."""
    paths = source.paths
    slices, stack = read_stack([paths[0], paths[-1]] if len(paths) > 1 else paths)
    affine = stack.affine.copy()
    affine[:3, 2] /= len(paths) - 1
    return Header((*slices[0].size, len(paths)), affine)


def _groups(slices: Sequence[Slice]) -> Iterator[list[Slice]]:
    """Slices of one series, size, pixel size and orientation, sorted along their normal."""
    by_series: dict[tuple, list[list[Slice]]] = {}
    for one in sorted(slices, key=lambda s: s.path):
        # Anonymised files may lack all identifiers; then their folder is the series.
        series = one.series or os.path.dirname(one.path)
        groups = by_series.setdefault((one.patient, one.study, series, one.modality, one.size), [])
        for group in groups:
            if _parallel(one, group[0]):
                group.append(one)
                break
        else:
            groups.append([one])
    for groups in by_series.values():
        for group in groups:
            normal = group[0].normal
            yield sorted(group, key=lambda s: float(np.dot(s.position, normal)))


def _parallel(one: Slice, other: Slice) -> bool:
    turned = max(abs(a - b) for a, b in zip(one.orientation, other.orientation, strict=True))
    return turned < 1e-3 and max(abs(a - b) for a, b in zip(one.spacing, other.spacing, strict=True)) < 1e-4


def _without_copies(group: list[Slice]) -> tuple[list[Slice], list[Slice]]:
    seen: set[tuple[str, tuple[float, ...]]] = set()
    kept: list[Slice] = []
    copies: list[Slice] = []
    for one in group:
        # Their places too: some anonymisers give all slices one number.
        what = (one.uid, one.position)
        (copies if one.uid and what in seen else kept).append(one)
        seen.add(what)
    return kept, copies


def _volumes(group: list[Slice]) -> list[list[Slice]]:
    """Divide a series with several slices at one position by a tag that tells them apart; else []."""
    if not _repeats(group):
        return _woven(group) or [group]
    keys = [lambda s, n=n: s.parts[n] for n in range(len(group[0].parts))]
    for key in [*keys, lambda s: s.parts]:
        parts: dict[object, list[Slice]] = {}
        for one in group:
            parts.setdefault(key(one), []).append(one)
        if not any(_repeats(part) for part in parts.values()):
            return list(parts.values())
    return []


def _woven(group: list[Slice]) -> list[list[Slice]]:
    """The volumes of a series that lie between each other's slices, as two phases half a slice apart do; else [].

    Echo time, b-value and time are of one volume each, the number of the acquisition only in CT: MRs take every other
    slice in an acquisition of its own.
    """
    for n in range(4 if group[0].modality == "CT" else 3):
        parts: dict[float | str, list[Slice]] = {}
        for one in group:
            parts.setdefault(_as_number(one.parts[n]), []).append(one)
        changes = sum(_as_number(a.parts[n]) != _as_number(b.parts[n]) for a, b in itertools.pairwise(group))
        if changes >= len(parts) > 1 and all(map(_is_even, parts.values())):
            return list(parts.values())
    return []


def _as_number(text: str) -> float | str:
    """What a tag says, where 90 and 90.0 are the same."""
    try:
        return float(text)
    except ValueError:
        return text


def _is_even(group: list[Slice]) -> bool:
    """Whether three slices or more lie equally far from each other, to a twentieth."""
    steps = np.diff(np.array([one.position for one in group]) @ group[0].normal)
    return len(steps) > 1 and float(np.ptp(steps)) < 0.05 * float(steps.mean())


def _repeats(group: list[Slice]) -> int:
    """How many slices lie where the one before lies."""
    along = np.array([one.position for one in group]) @ group[0].normal
    return int(np.sum(np.diff(along) < SAME_POSITION_MM))


def _case(slices: list[Slice]) -> Case:
    first = slices[0]
    folder = os.path.commonpath([os.path.dirname(one.path) for one in slices])
    files = tuple(os.path.relpath(one.path, folder) for one in slices)
    patient = _hash(first.patient or first.study or os.path.basename(folder))
    # What tells several volumes of a series apart belongs to the id of each.
    series = _hash(
        "|".join((first.series or os.path.basename(folder), *map(str, first.orientation), *first.parts))
    )
    body_part = _BODY_PARTS.get(first.body_part.upper().replace(" ", ""))
    name = f"{(first.modality or 'dicom').lower()}-{patient}-{series[:6]}"
    return Case(name, (Source(folder, files),), patient=f"dicom-{patient}", body_part=body_part)


def _why_skipped(slices: list[Slice]) -> Skipped:
    return Skipped(slices[0].path, "DICOM series of a single slice")


def _repeated(group: list[Slice]) -> Skipped:
    reason = f"DICOM series with {_repeats(group)} slices where others lie, and no tag that tells them apart"
    return Skipped(group[0].path, reason, len(group))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:10]
