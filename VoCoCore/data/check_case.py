"""What can be wrong with one case: headers and geometry first, then voxels and labels.

Every finding says what, which file and what to do. A case with an error cannot be trained on; a warning is
worth a look. Rules: along each axis (as R, A, S) a base crop needs at least ``MIN_BASE_VOXELS`` voxels of
the original image, so a 4 x 4 x 1 grid takes images of 16 x 16 x 4 voxels and more, since preparing
enlarges small ones; voxels from 0.05 to 20 mm are usual; an affine sheared by more than half a degree is
told with its angle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from VoCoCore.data.cases import Case, Source
from VoCoCore.data.dicom_geometry import TILT_DEGREES, read_stack
from VoCoCore.data.images import ONE_GRID, grid_difference, read_header, read_images
from VoCoCore.data.intensity import LARGEST, SMALLEST_RANGE
from VoCoCore.data.label_maps import IGNORE, LARGEST_VALUE, map_along
from VoCoCore.data.volume import Header, ImageError, Volume
from VoCoCore.errors import DataError, counted
from VoCoCore.geometry import is_invertible, shear_of, spacing_of, to_ras, unusual_voxels

MIN_BASE_VOXELS = 4
_SLAB = 1 << 22  # voxels handled at a time


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: ``severity`` is error or warning, ``kind`` a word for programs."""

    case: str
    severity: str
    kind: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Rules:
    """What cases are held against: grid, channels, label values where declared, and the one that is ignored."""

    counts: tuple[int, int, int]
    channels: tuple[str, ...]
    label_values: frozenset[int] | None
    ignored: int | None = None


@dataclass
class Examined:
    """Findings of one case, and a digest of each image's decoded voxels where they could be read."""

    case: str
    findings: list[Finding] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)

    def add(self, severity: str, kind: str, message: str, hint: str = "") -> None:
        """Note a finding."""
        self.findings.append(Finding(self.case, severity, kind, message, hint))

    @property
    def usable(self) -> bool:
        """Whether no error was found so far."""
        return not any(finding.severity == "error" for finding in self.findings)


def examine(case: Case, rules: Rules) -> Examined:
    """Open everything that a case consists of. Never raises for what is wrong with a file."""
    result = Examined(case.id)
    _check_channels(case, rules, result)
    headers = [_check_header(source, rules, result) for source in case.images]
    first = headers[0]
    if first is not None:
        _check_same_grid(case, first, headers, result)
    if result.usable:
        _check_voxels(case, result)
    if case.label is not None and first is not None:
        _check_label(case.label, case.images[0], first, rules, result)
    return result


def _check_channels(case: Case, rules: Rules, result: Examined) -> None:
    if case.missing:
        message = f"no file for {', '.join(case.missing)} beside {case.images[0].path}"
        result.add("error", "missing_channel", message, "add the file, or leave the case out")
    elif len(case.images) != len(rules.channels):
        message = f"it has {counted(len(case.images), 'channel')}, the index has {len(rules.channels)}"
        result.add("error", "missing_channel", message, f"channels: {', '.join(rules.channels)}")


def _check_header(source: Source, rules: Rules, result: Examined) -> Header | None:
    """Geometry of one image; None where it cannot be opened at all."""
    try:
        header = read_header(source)
        stack = read_stack(source.paths)[1] if source.files else None
    except DataError as error:
        _add_error(result, error)
        return None
    if header.channels > 1 and source.volume is None:
        hint = (
            "'--volumes channels' when indexing if they are channels of one case, '--volumes 0' for the first"
        )
        result.add("error", "not_3d", f"{source.path} is 4D with {header.channels} volumes", hint)
    for note in header.notes:
        result.add(
            "warning", "orientation", f"{source.path}: {note}", "check its place, left and right in a viewer"
        )
    if stack is not None and (fault := stack.fault()):
        result.add(
            "error", "uneven_slices", f"{source.path}: {fault}", "send the series again, or resample it"
        )
    _check_affine(source, header, "gantry_tilt" if source.files else "sheared", result)
    if result.usable:
        _check_size(source, header, rules, result)
    return header


def _check_affine(source: Source, header: Header, sheared: str, result: Examined) -> None:
    if not is_invertible(header.affine):
        message = f"{source.path} has an affine that cannot be inverted"
        result.add("error", "singular_affine", message, "correct the header, or convert the original again")
        return
    angle = float(np.degrees(np.arcsin(min(shear_of(header.affine), 1.0))))
    if angle > TILT_DEGREES:
        what = "gantry tilt:" if sheared == "gantry_tilt" else "axes that are not at right angles:"
        message = f"{source.path} has {what} {angle:.1f} degrees"
        result.add("warning", sheared, message, "resample it to straight axes if shapes matter")
    if words := unusual_voxels(header.affine):
        result.add("warning", "voxel_size", f"{source.path} has {words}", "check the header's unit")


def _check_size(source: Source, header: Header, rules: Rules, result: Examined) -> None:
    order, _, _ = to_ras(header.shape, header.affine)
    shape = [header.shape[axis] for axis in order]
    needed = [MIN_BASE_VOXELS * count for count in rules.counts]
    if any(size < least for size, least in zip(shape, needed, strict=True)):
        have, want = (" x ".join(map(str, sizes)) for sizes in (shape, needed))
        message = f"{source.path} has {have} voxels (R x A x S), the grid needs at least {want}"
        result.add(
            "error", "too_small", message, "use fewer base crops (crops.counts), or leave the case out"
        )


def _check_same_grid(case: Case, first: Header, headers: Sequence[Header | None], result: Examined) -> None:
    for source, header in zip(case.images[1:], headers[1:], strict=True):
        if header is None:
            continue
        turned = header.along(first.affine)
        if difference := grid_difference(first.shape, first.affine, turned.shape, turned.affine):
            message = f"{source.path} and {case.images[0].path} are channels of one case, but {difference}"
            result.add("error", "channel_grid", message, ONE_GRID)


def _check_voxels(case: Case, result: Examined) -> None:
    try:
        volumes = read_images(case.images)
    except DataError as error:
        _add_error(result, error)
        return
    for source, volume in zip(case.images, volumes, strict=True):
        low, high = float(volume.array.min()), float(volume.array.max())
        if not np.isfinite([low, high]).all():
            bad = volume.array.size - int(np.isfinite(volume.array).sum())
            message = (
                f"{source.path} has {counted(bad, 'voxel', 'that is', 'that are')} not finite (NaN or Inf)"
            )
            result.add("error", "not_finite", message, "replace them, for example by the lowest value")
        elif max(-low, high) > LARGEST:
            message = f"{source.path} holds values as large as {max(-low, high):.3g}"
            result.add("error", "too_large", message, "correct its scale, or leave it out")
        elif low == high == 0:
            result.add(
                "error", "all_zero", f"all voxels of {source.path} are 0", "export it again, or leave it out"
            )
        elif high - low < SMALLEST_RANGE:
            message = f"all voxels of {source.path} have the value {low:g}"
            result.add("error", "constant", message, "export it again, or leave it out")
        if max(-low, high) <= LARGEST:
            result.digests.append(digest(volume))


def _check_label(label: Source, image: Source, first: Header, rules: Rules, result: Examined) -> None:
    try:
        volume = map_along(label, first.shape, first.affine)
    except DataError as error:
        _add_error(result, error, "label_")
        return
    if difference := grid_difference(first.shape, first.affine, volume.array.shape, volume.affine):
        message = f"{label.path} is not on the grid of {image.path}: {difference}"
        result.add("error", "label_grid", message, "resample the label onto its image, nearest neighbour")
    values = _values(volume.array)
    if values is None:
        message = f"{label.path} has values that are not whole numbers"
        result.add("error", "label_values", message, "give a label map, not an image or probabilities")
        return
    odd = [value for value in values if rules.label_values is not None and value not in rules.label_values]
    beyond = [value for value in values if not 0 <= value <= LARGEST_VALUE]
    if odd or beyond:
        shown = ", ".join(map(str, odd or beyond[:8]))
        declared = ", ".join(map(str, sorted(rules.label_values or ())))
        known = f"declared are {declared}" if odd else f"labels are whole numbers from 0 to {LARGEST_VALUE}"
        message = f"{label.path} has the values {shown}, {known}"
        result.add("error", "label_values", message, "correct the label, or the list of labels")
    elif values == [rules.ignored]:
        message = f"{label.path} says of no voxel what it is: all are '{IGNORE}'"
        result.add("error", "label_ignored", message, "leave the case out, or label some of it")
    elif values == [0]:
        result.add(
            "warning",
            "label_empty",
            f"{label.path} marks nothing: all its voxels are 0",
            "check that it is meant",
        )


def _values(array: np.ndarray) -> list[int] | None:
    """Sorted values of a label; None where they are not whole numbers."""
    found: set[int] = set()
    for slab in _slabs(array):
        if slab.dtype.kind == "f" and not (np.isfinite(slab).all() and np.array_equal(slab, np.rint(slab))):
            return None
        low = int(slab.min())
        if int(slab.max()) - low < _SLAB:
            # Counting is many times faster than sorting.
            # In 8 or 16 bits the difference may be too large.
            slab = slab.astype(np.int32) if slab.dtype.itemsize < 4 else slab
            found.update((np.flatnonzero(np.bincount((slab.ravel() - low).astype(np.intp))) + low).tolist())
        else:
            found.update(np.unique(slab).astype(np.int64).tolist())
    return sorted(found)


def digest(volume: Volume) -> str:
    """SHA-256 of shape, spacing and voxels as float32 in RAS order: the same for copies in other formats."""
    order, flips, affine = to_ras(volume.array.shape, volume.affine)
    array = np.flip(volume.array.transpose(order), flips)
    found = hashlib.sha256(f"{array.shape} {np.round(spacing_of(affine), 3).tolist()}".encode())
    for slab in _slabs(array):
        # Adding 0 turns -0.0 into 0.0.
        found.update((np.asfortranarray(slab, dtype=np.float32) + np.float32(0)).tobytes(order="F"))
    return found.hexdigest()


def _slabs(array: np.ndarray):
    """Parts along the last axis, small enough to convert."""
    thick = max(1, _SLAB // max(1, array.shape[0] * array.shape[1]))
    return (array[:, :, at : at + thick] for at in range(0, array.shape[2], thick))


def _add_error(result: Examined, error: DataError, prefix: str = "") -> None:
    kind = error.kind if isinstance(error, ImageError) else "unreadable"
    result.add("error", prefix + kind, error.message, error.hint)
