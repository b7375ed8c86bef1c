"""Read a reference and its prediction as label maps on one grid, and score them: what one worker does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from VoCoCore.data.cases import Source
from VoCoCore.data.images import grid_difference
from VoCoCore.data.images_itk import is_segmentation
from VoCoCore.data.label_maps import read_map
from VoCoCore.data.segments import laid_together
from VoCoCore.data.volume import Volume
from VoCoCore.errors import DataError
from VoCoCore.evaluation.metrics import LabelMetrics, Labels, case_metrics, whole
from VoCoCore.evaluation.pairs import Pair
from VoCoCore.geometry import is_invertible, steps_of


@dataclass(frozen=True)
class Rules:
    """How pairs are scored.

    ``labels``: name -> values; empty: each value that occurs, as "label 3". ``declared``: values that may occur, 0
    among them; empty: all. ``tolerance`` in mm. ``resample``: put predictions on another grid onto the reference's.
    ``ignored``: where the reference has this value, nothing counts.
    """

    labels: Labels
    declared: frozenset[int]
    tolerance: float
    resample: bool
    ignored: int | None = None


@dataclass(frozen=True)
class Scored:
    """What came of one pair: its scores, or why there are none; ``notes`` are worth knowing."""

    case: str
    scores: dict[str, LabelMetrics] = field(default_factory=dict)
    fault: str = ""
    hint: str = ""
    notes: tuple[str, ...] = ()


def score_pair(pair: Pair, rules: Rules) -> Scored:
    """Score one pair; whatever is wrong with its files comes back as a fault, never as an exception."""
    try:
        return _score(pair, rules)
    except DataError as error:
        return Scored(pair.case, fault=error.message, hint=error.hint)
    except MemoryError:
        message = f"{pair.reference.label.path} does not fit into memory"
        return Scored(pair.case, fault=message, hint="use fewer workers, or a machine with more memory")
    except Exception as error:
        message = f"{pair.prediction.path} cannot be scored: {type(error).__name__}: {error}"
        return Scored(pair.case, fault=message, hint="look at it in a viewer and save it again")


def _score(pair: Pair, rules: Rules) -> Scored:
    reference, prediction, notes = read_pair(pair, rules.resample)
    for source, volume in ((pair.reference.label, reference), (pair.prediction, prediction)):
        _refuse_undeclared(source, volume.array, rules.declared)
    ours, theirs, away = without(rules.ignored, reference.array, prediction.array)
    labels = dict(rules.labels) or {
        f"label {value}": (value,) for value in sorted(_values(ours) | _values(theirs)) if value
    }
    if not labels:
        return Scored(pair.case, notes=(*notes, "neither the reference nor the prediction marks anything"))
    scores = case_metrics(ours, theirs, steps_of(reference.affine), labels, rules.tolerance, away)
    return Scored(pair.case, scores, notes=notes)


def without(
    ignored: int | None, reference: np.ndarray, prediction: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Both label maps, background where the reference has the value ``ignored``, and where that is; None: nowhere."""
    away = reference == ignored if ignored is not None else np.zeros((), bool)
    if not away.any():
        return reference, prediction, None
    return np.where(away, 0, reference), np.where(away, 0, prediction), away


def read_pair(pair: Pair, resample: bool) -> tuple[Volume, Volume, tuple[str, ...]]:
    """Both label maps on the reference's grid, its axes along R, A, S, and what had to be done for that.

    Segmentations of 3D Slicer may be cropped or reach beyond it: the grid is then what holds both.

    Raises DataError for a file that is no label map, and for a prediction on another grid unless ``resample``.
    """
    reference = _read(pair.reference.label, np.eye(4))
    # Which axis is called R hangs on a header's rounding where axes lie between two: so not asked a second time.
    prediction = _read(pair.prediction, reference.affine)
    if any(is_segmentation(source.path) for source in (pair.reference.label, pair.prediction)):
        reference, prediction = laid_together(reference, prediction)
    difference = grid_difference(
        reference.array.shape, reference.affine, prediction.array.shape, prediction.affine
    )
    if not difference:
        return reference, replace(prediction, affine=reference.affine), ()
    if not resample:
        raise DataError(
            f"{pair.prediction.path} is not on the grid of {pair.reference.label.path}: {difference}",
            "predict on the original image, or add --resample to bring it there by nearest neighbour",
        )
    moved = resampled(prediction, reference)
    return reference, moved, (f"prediction brought onto the reference's grid, {difference}",)


def _read(source: Source, along: np.ndarray) -> Volume:
    """A label map with its axes closest to those of the affine ``along``: whole numbers, as uint8 or uint16."""
    volume = read_map(source)
    if not is_invertible(volume.affine):
        raise DataError(f"{source.path} has an affine that cannot be inverted", "correct its header")
    try:
        array = whole(volume.array)
    except DataError as error:
        raise DataError(f"{source.path} is no label map: {error.message}", error.hint) from None
    return Volume(array, volume.affine).along(along)


def resampled(prediction: Volume, reference: Volume) -> Volume:
    """``prediction`` on the reference's grid, each voxel taking the value of the nearest; 0 beyond its border."""
    from scipy.ndimage import affine_transform

    between = np.linalg.inv(prediction.affine) @ reference.affine
    array = affine_transform(
        prediction.array,
        between[:3, :3],
        between[:3, 3],
        output_shape=reference.array.shape,
        order=0,
        mode="grid-constant",
    )
    return Volume(array, reference.affine)


def _values(array: np.ndarray) -> set[int]:
    """The values in a map of uint8 or uint16."""
    counts = np.zeros(int(np.iinfo(array.dtype).max) + 1, np.int64)
    slowest = int(np.argmax(np.abs(array.strides)))
    for plane in np.moveaxis(array, slowest, 0):
        marked = plane[plane != 0]
        counts += np.bincount(marked, minlength=len(counts))
        counts[0] += plane.size - marked.size
    return set(np.flatnonzero(counts).tolist())


def _refuse_undeclared(source: Source, array: np.ndarray, declared: frozenset[int]) -> None:
    odd = sorted(_values(array) - declared) if declared else []
    if odd:
        shown = ", ".join(map(str, odd[:8])) + (" and more" if len(odd) > 8 else "")
        raise DataError(
            f"{source.path} has the values {shown}, declared are {', '.join(map(str, sorted(declared)))}",
            "correct the file or the list of labels, or say what to score with --labels NAME=VALUE",
        )
