"""What preparing does to a volume, decided from its header, its values and the settings; numpy only.

Order of work: orientation, spacing, intensity, foreground box, padding (recipe v2), resizing, padding to the
volume size. A plan is made without doing any of it: even the foreground box of a resampled volume is found
from a few planes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from VoCoCore.data.intensity import CT_WINDOW, Intensity, decide
from VoCoCore.data.resample import Points, plane_at, spaced_size
from VoCoCore.errors import DataError
from VoCoCore.geometry import cropped_affine, resized_affine, spacing_of, to_ras
from VoCoCore.settings import PrepareSettings

Size = tuple[int, int, int]
FIRST_PAD = 64  # voxels; recipe v2 pads to this before it may resize


@dataclass(frozen=True)
class BodyRule:
    """Recipe v2's rule for one body part: spacing in mm, CT window in HU, and whether it resizes."""

    spacing: tuple[float, float, float]
    window: tuple[float, float]
    resize: bool


BODY_RULES = {
    "abdomen": BodyRule((1.5, 1.5, 1.5), CT_WINDOW, False),
    "abdomen_without_label": BodyRule((1.5, 1.5, 1.5), CT_WINDOW, True),
    "chest": BodyRule((1.25, 1.25, 5.0), (-1000.0, 500.0), False),
    "headneck": BodyRule((1.5, 1.5, 1.5), CT_WINDOW, True),
}
_OTHER_WORDS = {
    "thorax": "chest",
    "lung": "chest",
    "lungs": "chest",
    "headandneck": "headneck",
    "head": "headneck",
    "neck": "headneck",
}


@dataclass(frozen=True)
class Plan:
    """Everything to do to one case, and why. Sizes are voxels along R, A, S.

    ``step``: source voxels per sampled voxel (1: no resampling); ``start`` and ``size``: the foreground box
    after that; ``padded``, ``resized``, ``shape``: sizes after the three steps that follow (equal where one
    does nothing).
    """

    source_shape: Size
    source_affine: np.ndarray
    order: Size
    flips: tuple[int, ...]
    oriented_affine: np.ndarray
    step: tuple[float, float, float]
    intensities: tuple[Intensity, ...]
    start: Size
    size: Size
    padded: Size
    resized: Size
    shape: Size
    body_part: str | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def affine(self) -> np.ndarray:
        """Affine (4, 4): index of the prepared volume to RAS mm."""
        spaced = self.oriented_affine.copy()
        spaced[:3, :3] *= self.step
        boxed = cropped_affine(spaced, np.subtract(self.start, pad_before(self.size, self.padded)))
        fitted = resized_affine(boxed, self.padded, self.resized) if self.resized != self.padded else boxed
        return cropped_affine(fitted, np.negative(pad_before(self.resized, self.shape)))

    def box_points(self) -> Points:
        """Source coordinates, along R, A, S, of the voxels of the foreground box."""
        x, y, z = (
            np.arange(start, start + size) * step
            for start, size, step in zip(self.start, self.size, self.step, strict=True)
        )
        return x, y, z

    def oriented(self, channel: np.ndarray) -> np.ndarray:
        """A view of one channel (source_shape) with its axes along R, A, S."""
        return np.flip(channel.transpose(self.order), self.flips)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: no path, no name."""
        values = asdict(self)
        for name in ("source_affine", "oriented_affine"):
            values[name] = values[name].tolist()
        return values


def plan_case(
    array: np.ndarray,
    affine: np.ndarray,
    prepare: PrepareSettings,
    volume_size: Sequence[int],
    body_part: str | None = None,
) -> Plan:
    """Decide how to prepare ``array`` (C, X, Y, Z) with ``affine`` (4, 4) for volumes of ``volume_size``.

    ``body_part`` matters only with ``prepare.by_body_part``. Raises DataError for values that cannot be used.
    """
    if array.ndim != 4 or min(array.shape) < 1:
        raise DataError(f"a case needs channels and three axes, not an array of {array.shape}")
    rule, said = _body_rule(prepare, body_part)
    order, flips, oriented = to_ras(array.shape[1:], affine)
    channels = [np.flip(channel.transpose(order), flips) for channel in array]
    window = prepare.window or (rule.window if rule else None)
    intensities = tuple(decide(channel, prepare, window) for channel in channels)
    step, points, spaced = _spaced(channels[0].shape, oriented, prepare, rule)
    box, lost = _foreground(channels, points, intensities, prepare.foreground)
    size = _size(box[1] - box[0])
    padded, resized, shape = _fitted(size, prepare, rule, _size(volume_size))
    return Plan(
        source_shape=_size(array.shape[1:]),
        source_affine=np.asarray(affine, dtype=float),
        order=_size(order),
        flips=flips,
        oriented_affine=oriented,
        step=step,
        intensities=intensities,
        start=_size(box[0]),
        size=size,
        padded=padded,
        resized=resized,
        shape=shape,
        body_part=planned_body_part(prepare, body_part),
        notes=(*said, spaced, *dict.fromkeys(i.reason for i in intensities)),
        warnings=lost,
    )


def largest_shape(
    shape: Sequence[int],
    affine: np.ndarray,
    prepare: PrepareSettings,
    volume_size: Sequence[int],
    body_part: str | None = None,
) -> Size:
    """The largest shape that a prepared volume can have, from the header alone (no foreground cut away)."""
    rule, _ = _body_rule(prepare, body_part)
    order, _, oriented = to_ras(shape, affine)
    _, points, _ = _spaced([shape[axis] for axis in order], oriented, prepare, rule)
    return _fitted(_size([len(p) for p in points]), prepare, rule, _size(volume_size))[2]


def planned_body_part(prepare: PrepareSettings, word: str | None) -> str | None:
    """The body part whose rule applies to a case said to show ``word``; None where no rule is asked for."""
    if not prepare.by_body_part:
        return None
    plain = re.sub(r"[^a-z]", "", (word or "").lower())
    known = {name.replace("_", ""): name for name in BODY_RULES} | _OTHER_WORDS
    return known.get(plain, "abdomen")


def pad_before(size: Sequence[int], padded: Sequence[int]) -> np.ndarray:
    """Voxels (3,) added before an array of ``size`` to make it ``padded``; what remains comes after."""
    return np.subtract(padded, size) // 2


def _body_rule(prepare: PrepareSettings, word: str | None) -> tuple[BodyRule | None, tuple[str, ...]]:
    part = planned_body_part(prepare, word)
    if part is None:
        return None, ()
    given = word not in (None, "", "auto")
    said = f"body part '{word}': rule for {part}" if given else f"no body part is given: rule for {part}"
    return BODY_RULES[part], (said,)


def _spaced(
    shape: Sequence[int], affine: np.ndarray, prepare: PrepareSettings, rule: BodyRule | None
) -> tuple[tuple[float, float, float], Points, str]:
    """Source voxels per new voxel, the new voxels' source coordinates, and what is done in words."""
    old = spacing_of(affine)
    new = prepare.spacing or (rule.spacing if rule else None)
    if new is None or np.allclose(old, new, rtol=1e-6, atol=0):
        x, y, z = (np.arange(n, dtype=float) for n in shape)
        return (1.0, 1.0, 1.0), (x, y, z), f"spacing kept at {_mm(old)}"
    step = np.asarray(new) / old
    sizes = [spaced_size(n, a, b) for n, a, b in zip(shape, old, new, strict=True)]
    x, y, z = (np.arange(n) * s for n, s in zip(sizes, step, strict=True))
    words = f"spacing changed from {_mm(old)} to {_mm(new)}"
    return (float(step[0]), float(step[1]), float(step[2])), (x, y, z), words


def _fitted(
    size: Size, prepare: PrepareSettings, rule: BodyRule | None, volume: Size
) -> tuple[Size, Size, Size]:
    """Sizes after the first padding (recipe v2), after resizing, and after the last padding."""
    padded = _size(np.maximum(size, np.minimum(FIRST_PAD, volume))) if rule else size
    resize = prepare.fit == "resize" or (rule is not None and rule.resize)
    resized = volume if resize else padded
    return padded, resized, _size(np.maximum(resized, volume))


def _foreground(
    channels: list[np.ndarray], points: Points, intensities: Sequence[Intensity], threshold: float
) -> tuple[np.ndarray, tuple[str, ...]]:
    """First and end index (2, 3), on the grid of ``points``, of what exceeds the threshold in any channel."""
    boxes = [
        found
        for channel, rule in zip(channels, intensities, strict=True)
        if (found := foreground_box(channel, points, rule.low + threshold * (rule.high - rule.low)))
        is not None
    ]
    if not boxes:
        whole = np.array([[0, 0, 0], [len(p) for p in points]])
        return whole, (
            f"nothing lies above the foreground threshold {threshold:g}: the whole volume is kept",
        )
    return np.stack([np.min([b[0] for b in boxes], axis=0), np.max([b[1] for b in boxes], axis=0)]), ()


def foreground_box(volume: np.ndarray, points: Points, level: float) -> np.ndarray | None:
    """First and end index (2, 3), on the grid of ``points``, of sampled values above ``level``, or None.

    Interpolated values exceed ``level`` only next to voxels that do. So the search starts at the box of those
    voxels and walks inwards plane by plane; nothing else is resampled.
    """
    source = _source_box(volume, level)
    if source is None or all(
        np.array_equal(p, np.arange(n)) for p, n in zip(points, volume.shape, strict=True)
    ):
        return source
    inside = [np.clip(p, 0, n - 1) for p, n in zip(points, volume.shape, strict=True)]
    near = [np.flatnonzero((p > low - 1) & (p < end)) for p, low, end in zip(inside, *source, strict=True)]
    if not all(len(places) for places in near):
        return None
    part = (inside[0][near[0]], inside[1][near[1]], inside[2][near[2]])
    box = np.empty((2, 3), int)
    for axis in range(3):
        first, last = (_walk(volume, part, axis, level, way) for way in (1, -1))
        if first is None or last is None:
            return None
        box[:, axis] = near[axis][first], near[axis][last] + 1
    return box


def _source_box(volume: np.ndarray, level: float) -> np.ndarray | None:
    """First and end voxel (2, 3) of the values above ``level``, from one walk through memory."""
    order = sorted(range(3), key=lambda axis: -abs(volume.strides[axis]))
    slices = volume.transpose(order)
    highest, profile = slices[0].copy(), []
    for part in slices:
        np.maximum(highest, part, out=highest)
        profile.append(part.max())
    above = [np.flatnonzero(p > level) for p in (np.array(profile), highest.max(axis=1), highest.max(axis=0))]
    if any(len(a) == 0 for a in above):
        return None
    box = np.empty((2, 3), int)
    box[:, order] = [[a[0] for a in above], [a[-1] + 1 for a in above]]
    return box


def _walk(volume: np.ndarray, points: Points, axis: int, level: float, way: int) -> int | None:
    """Index along ``axis`` of the first plane above ``level``, from the front (way 1) or the back (-1)."""
    for place in range(len(points[axis]))[::way]:
        at = list(points)
        at[axis] = points[axis][place : place + 1]
        if plane_at(volume, axis, (at[0], at[1], at[2])).max() > level:
            return place
    return None


def _size(values: Sequence[int] | np.ndarray) -> Size:
    return int(values[0]), int(values[1]), int(values[2])


def _mm(spacing: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{v:.4g}" for v in spacing) + " mm"
