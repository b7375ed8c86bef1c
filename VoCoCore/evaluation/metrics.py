"""How well a segmentation agrees with a reference: overlap, distances between surfaces, volumes, label by label.

Rules where a mask is empty, the same everywhere:

- Neither has the label ("absent"): there is nothing to score, every score is NaN and the case does not count for it.
- Only the reference has it ("missed") or only the prediction ("invented"): Dice, IoU and surface Dice are 0 and count;
  distances do not exist, are NaN and do not count, so a mean distance must be read beside the number of such cases.
- A relative error of the volume needs a volume in the reference; else it is NaN.
- Where a label runs into voxels that do not count, it has no surface. If one mask has no other, distances are NaN and
  surface Dice is 0; if neither has, both are NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import nan

import numpy as np

from VoCoCore.errors import DataError, SettingsError
from VoCoCore.evaluation.surfaces import counted, distances, surface_points

TOLERANCE = 1.0  # mm
LARGEST_VALUE = 65535
BOTH, ABSENT, MISSED, INVENTED = "", "absent", "missed", "invented"
# Headers hold spacings in single precision: a voxel of "1 mm" must count as within 1 mm.
_SLACK = 1e-4

Labels = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class LabelMetrics:
    """What one label of one case scores.

    ``dice``, ``iou``, ``surface_dice`` in [0, 1]. ``hd95``: the larger of the two directions' 95th percentiles of the
    surface distances, mm; ``asd``: the mean over the distances of both directions, mm. ``reference_ml``,
    ``predicted_ml``: volumes; ``volume_error_ml`` is predicted less reference, ``volume_error_percent`` its share of
    the reference.
    ``state``: "" where both have the label, else absent, missed or invented. NaN where a figure does not exist.
    """

    dice: float = nan
    iou: float = nan
    surface_dice: float = nan
    hd95: float = nan
    asd: float = nan
    reference_ml: float = 0.0
    predicted_ml: float = 0.0
    volume_error_ml: float = 0.0
    volume_error_percent: float = nan
    state: str = ABSENT


def case_metrics(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: Sequence[float] | np.ndarray,
    labels: Labels,
    tolerance: float = TOLERANCE,
    ignored: np.ndarray | None = None,
) -> dict[str, LabelMetrics]:
    """Scores of each name in ``labels`` (name -> the voxel values it stands for) on two label maps.

    ``reference`` and ``prediction``: (X, Y, Z) whole numbers or bool, on one grid, 0 is background; values that no name
    has count as background. ``spacing`` in mm along the axes: (3,), or of a sheared grid (3, 3), see `steps_of`.
    ``tolerance`` in mm: how far apart surfaces may lie and still agree in the surface Dice.
    ``ignored``: bool (X, Y, Z), voxels that do not count and are background in both maps; a face that is turned to one
    of them is no surface.
    Raises DataError for maps that do not fit each other or hold other values than whole numbers from 0 to 65535,
    SettingsError for labels, spacing or tolerance that cannot be.
    """
    step = check_rules(labels, tolerance, spacing)
    if reference.shape != prediction.shape or reference.ndim != 3:
        raise DataError(
            f"a reference of {reference.shape} and a prediction of {prediction.shape} voxels cannot be compared",
            "both need three axes of the same lengths",
        )
    order = _memory_order(reference)
    ours, theirs, step = (
        whole(reference).transpose(order),
        whole(prediction).transpose(order),
        step[..., order],
    )
    cut = None if ignored is None else np.pad(ignored.transpose(order), 1)
    ours, theirs, cut = _cropped(ours, theirs, cut)
    found: dict[str, LabelMetrics] = {}
    for names in layers(labels):
        values = [labels[name] for name in names]
        maps = _numbered(ours, values), _numbered(theirs, values)
        scores = _score(*maps, cut, step, len(names), tolerance)
        found |= zip(names, scores, strict=True)
    return {name: found[name] for name in labels}


def check_rules(
    labels: Labels, tolerance: float, spacing: Sequence[float] | np.ndarray = (1, 1, 1)
) -> np.ndarray:
    """The spacing as an array, (3,) or (3, 3). Raises SettingsError where one of the three makes no sense."""
    step = np.asarray(spacing, dtype=float)
    known = step.shape in ((3,), (3, 3)) and np.isfinite(step).all()
    if not known or (step.min() if step.ndim == 1 else _volume(step)) <= 0:
        raise SettingsError(
            f"a spacing needs three lengths above 0 mm, not {tuple(np.ravel(step).tolist())}",
            "give the voxel's size along each axis of the arrays",
        )
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise SettingsError(
            f"the tolerance of the surface Dice cannot be {tolerance:g} mm", "give 0 mm or more, such as 1"
        )
    if not labels:
        raise SettingsError("there is no label to score", "name at least one, such as liver=1")
    for name, values in labels.items():
        if not values or not all(0 < value <= LARGEST_VALUE for value in values):
            raise SettingsError(
                f"label '{name}' cannot have the values {list(values)}",
                f"values are whole numbers from 1 to {LARGEST_VALUE}; 0 is the background",
            )
    return step


def whole(array: np.ndarray) -> np.ndarray:
    """A label map as uint8 or uint16. Raises DataError for other values than whole numbers from 0 to 65535."""
    if array.dtype in (np.uint8, np.uint16):
        return array
    if array.dtype == bool:
        return array.view(np.uint8)
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if not (low >= 0 and high <= LARGEST_VALUE):  # also where one is not a number
        raise DataError(
            f"its values reach from {low:g} to {high:g}",
            f"a label map holds whole numbers from 0 to {LARGEST_VALUE}",
        )
    found = array.astype(np.uint8 if high < 256 else np.uint16)
    if array.dtype.kind == "f" and not np.array_equal(found, array):
        raise DataError("its values are not whole numbers", "give a label map, not an image or probabilities")
    return found


def layers(labels: Labels) -> list[list[str]]:
    """The names in as few groups as a first fit finds, no value twice in a group: regions may overlap."""
    found: list[tuple[list[str], set[int]]] = []
    for name, values in labels.items():
        for names, taken in found:
            if not taken & set(values):
                names.append(name)
                taken.update(values)
                break
        else:
            found.append(([name], set(values)))
    return [names for names, _ in found]


def _memory_order(array: np.ndarray) -> list[int]:
    """The axes in the order in which they lie in memory, which is much faster to walk."""
    return sorted(range(3), key=lambda axis: -abs(array.strides[axis]))


def _cropped(
    reference: np.ndarray, prediction: np.ndarray, cut: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Both maps (A, B, C), cut to the smallest box that holds whatever one of them marks; contiguous.

    ``cut``, a voxel wider on each side, stays so.
    """
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        marked = np.flatnonzero(reference.any(axis=others) | prediction.any(axis=others))
        first, last = (marked[0], marked[-1] + 1) if len(marked) else (0, 0)
        box = (slice(None),) * axis + (slice(first, last),)
        reference, prediction = reference[box], prediction[box]
        cut = None if cut is None else cut[(slice(None),) * axis + (slice(first, last + 2),)]
    return np.ascontiguousarray(reference), np.ascontiguousarray(prediction), cut


def _numbered(array: np.ndarray, values: Sequence[tuple[int, ...]]) -> np.ndarray:
    """The map with the n-th of ``values`` as n + 1, and 0 for all others."""
    kind = np.uint8 if len(values) < 256 else np.uint16
    table = np.zeros(int(np.iinfo(array.dtype).max) + 1, kind)
    for number, ones in enumerate(values, start=1):
        table[[value for value in ones if value < len(table)]] = number
    plain = np.arange(len(table))
    present = int(array.max(initial=0)) + 1
    if array.dtype == kind and np.array_equal(table[:present], plain[:present]):
        return array
    return table[array]


def _score(
    reference: np.ndarray,
    prediction: np.ndarray,
    cut: np.ndarray | None,
    spacing: np.ndarray,
    names: int,
    tolerance: float,
) -> list[LabelMetrics]:
    """Scores of the labels 1 to ``names`` of two contiguous maps in which nothing else occurs."""
    counts = counted(reference, prediction, names + 1)
    ours, theirs = (_by_label(array, cut, spacing, names) for array in (reference, prediction))
    ml = _volume(spacing) / 1000  # of a voxel
    scores = []
    for number in range(1, names + 1):
        in_reference, in_prediction, in_both = (int(count) for count in counts[:, number])
        found = _overlap(in_reference, in_prediction, in_both, ml)
        if found.state == BOTH:
            found = _with_distances(found, *distances(ours[number], theirs[number]), tolerance)
        scores.append(found)
    return scores


def _by_label(array: np.ndarray, cut: np.ndarray | None, spacing: np.ndarray, names: int) -> list[np.ndarray]:
    """Surface points in mm of each label from 0 (none) to ``names``."""
    points, values = surface_points(array, cut)
    ends = np.searchsorted(values, np.arange(names + 2))
    return [_in_mm(points[a:b], spacing) for a, b in pairwise(ends)]


def _in_mm(points: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Voxels (n, 3) as points between which distances are those in the patient."""
    return points * spacing if spacing.ndim == 1 else points @ spacing.T


def _volume(spacing: np.ndarray) -> float:
    """Of a voxel, in mm^3."""
    return float(np.prod(spacing)) if spacing.ndim == 1 else abs(float(np.linalg.det(spacing)))


def _overlap(reference: int, predicted: int, both: int, ml: float) -> LabelMetrics:
    """What counts of voxels say; ``ml`` is the volume of one."""
    if not reference and not predicted:
        return LabelMetrics()
    error = predicted - reference
    state = BOTH if reference and predicted else MISSED if reference else INVENTED
    return LabelMetrics(
        dice=2 * both / (reference + predicted),
        iou=both / (reference + predicted - both),
        surface_dice=nan if state == BOTH else 0.0,
        reference_ml=reference * ml,
        predicted_ml=predicted * ml,
        volume_error_ml=error * ml,
        volume_error_percent=100 * error / reference if reference else nan,
        state=state,
    )


def _with_distances(
    found: LabelMetrics, there: np.ndarray, back: np.ndarray, tolerance: float
) -> LabelMetrics:
    """``found`` with what the distances of both directions, (n,) and (m,) in mm, say."""
    within = sum(int(np.count_nonzero(way <= tolerance + _SLACK)) for way in (there, back))
    if not (len(there) and len(back)):
        return replace(found, surface_dice=0.0 if len(there) or len(back) else nan)
    return replace(
        found,
        surface_dice=within / (len(there) + len(back)),
        hd95=max(float(np.percentile(way, 95)) for way in (there, back)),
        asd=float((there.sum() + back.sum()) / (len(there) + len(back))),
    )
