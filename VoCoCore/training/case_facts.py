"""What is known of the training cases before anything is chosen: voxel sizes, extents, the kind of image, values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from VoCoCore.data.cases import Case, Index
from VoCoCore.data.images import read_case, read_header
from VoCoCore.data.intensity import recognise
from VoCoCore.data.label_maps import ignored_value, map_along
from VoCoCore.data.resample import spaced_size
from VoCoCore.errors import DataError
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.geometry import spacing_of, to_ras

SAMPLED = 12  # cases whose voxels are looked at
MEASURED = 300  # cases whose headers are looked at


@dataclass(frozen=True)
class Facts:
    """What is known of the training cases: median spacing (3,) in mm and size (3,) in mm along R, A, S; the kind of
    image ("ct", "mr", or "auto" where they differ); range of values under the labels, where there are labels.
    """

    spacing: np.ndarray
    extent: np.ndarray
    kind: str
    under_labels: tuple[float, float] | None
    cases: int

    def voxels(self, spacing: Sequence[float] | None) -> list[int]:
        """Size (3,) of a median case at voxels of ``spacing`` (3,) in mm, None: its own."""
        new = self.spacing if spacing is None else spacing
        sizes = zip(self.extent, self.spacing, new, strict=True)
        return [spaced_size(max(1, round(mm / a)), a, b) for mm, a, b in sizes]


def facts_of(index: Index, settings: FinetuneSettings) -> Facts:
    """Look at the headers of the training cases and at the voxels of some. Raises DataError for files of no use."""
    # All folds look at the same cases: networks of different plans could not predict together.
    folded, bad = settings.data.fold is not None, settings.data.skip_bad
    looked_at = [case for case in index.cases if case.split == "train" or (folded and case.split == "val")]
    sizes = _usable(_measured, _some(looked_at, MEASURED), bad)
    # Only auto chooses by values, and reading whole cases takes its time.
    valued = _some(looked_at, SAMPLED if settings.protocol == "auto" else 0)
    seen = _usable(partial(_values_in, task=settings.task, ignored=ignored_value(index.labels)), valued, bad)
    if not sizes or (valued and not seen):
        raise DataError("no case can be used", "'voco data check' says what is wrong with each")
    spacings, extents = zip(*sizes, strict=True)
    kinds, ranges = {kind for kind, _ in seen}, [found for _, found in seen if found is not None]
    low, high = np.median(ranges, axis=0).tolist() if ranges else (0.0, 0.0)
    return Facts(
        np.median(spacings, axis=0),
        np.median(extents, axis=0),
        kinds.pop() if len(kinds) == 1 else "auto",
        (low, high) if ranges else None,
        sum(case.split == "train" for case in index.cases),
    )


def _some(cases: Sequence[Case], most: int) -> list[Case]:
    return [cases[int(place)] for place in np.linspace(0, len(cases) - 1, min(most, len(cases)))]


def _usable(look: Callable[[Case], Any], cases: Sequence[Case], skip_bad: bool) -> list[Any]:
    """What ``look`` finds of each case; bad ones are left out, or raise DataError as they do later."""
    found = []
    for case in cases:
        try:
            found.append(look(case))
        except DataError:
            if not skip_bad:
                raise
    return found


def _measured(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Voxel size (3,) and size (3,) in mm along R, A, S."""
    header = read_header(case.images[0])
    order, _, affine = to_ras(header.shape, header.affine)
    return spacing_of(affine), spacing_of(affine) * [header.shape[axis] for axis in order]


def _values_in(case: Case, task: str, ignored: int | None) -> tuple[str, np.ndarray | None]:
    """The kind of image, and the range (2,) of nearly all values under its label."""
    array, affine = read_case(case)
    inside = _under_label(array[0], affine, case, ignored) if task == "segmentation" else None
    return recognise(array[0])[0], None if inside is None else np.percentile(inside, (0.5, 99.5))


def _under_label(
    channel: np.ndarray, affine: np.ndarray, case: Case, ignored: int | None
) -> np.ndarray | None:
    assert case.label is not None
    label = map_along(case.label, channel.shape, affine).array
    inside = channel[(label > 0) & (label != ignored)] if label.shape == channel.shape else np.empty(0)
    inside = inside[np.isfinite(inside)]
    return inside if len(inside) else None
