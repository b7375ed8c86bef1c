"""Which values of an image become 0 and 1: CT window or percentiles, decided from the values; numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from VoCoCore.errors import DataError
from VoCoCore.settings import PrepareSettings

CT_WINDOW = (-175.0, 250.0)  # HU; soft tissue, as the publications use it
_AIR = (-1100.0, -200.0)  # HU; lung and the air around the patient
_FAT = -30.0  # HU; a CT cut out of the body's inside still holds fat
_LOWEST_CT = -3500.0  # some scanners fill the corners with values down to about -3000
# Beyond these, float32 loses the values.
LARGEST, SMALLEST_RANGE = 1e30, 1e-30
_HISTOGRAM = 1 << 20  # widest range of whole numbers that is counted rather than sorted


@dataclass(frozen=True)
class Intensity:
    """Linear map of one channel to [0, 1]: ``low`` becomes 0, ``high`` becomes 1, beyond is cut off."""

    kind: str
    low: float
    high: float
    reason: str

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Map float32 ``values`` in place and return them, in [0, 1]."""
        values -= np.float32(self.low)
        values /= np.float32(self.high - self.low)
        return np.clip(values, 0.0, 1.0, out=values)


def decide(channel: np.ndarray, prepare: PrepareSettings, window: tuple[float, float] | None) -> Intensity:
    """The intensity rule of one ``channel`` (X, Y, Z); ``window`` is what a CT gets (None: soft tissue).

    Raises DataError for values that are not finite or all the same.
    """
    _check_values(channel)
    kind, why = (prepare.intensity, "as set") if prepare.intensity != "auto" else recognise(channel)
    if kind == "ct":
        low, high = window or CT_WINDOW
        return Intensity(kind, low, high, f"CT, {why}: window {low:g} to {high:g} HU")
    if kind == "mr":
        first, last = prepare.percentiles
        low, high = _spread(channel, percentiles(channel, (first, last)))
        return Intensity(
            kind, low, high, f"MR, {why}: percentiles {first:g} and {last:g} are {low:.6g} and {high:.6g}"
        )
    low, high = float(channel.min()), float(channel.max())
    if low >= 0 and high <= 1:
        return Intensity(kind, 0.0, 1.0, "no change: values lie in 0 to 1 already")
    return Intensity(
        kind, low, high, f"no change of contrast: smallest {low:g} and largest value {high:g} become 0 and 1"
    )


def recognise(channel: np.ndarray) -> tuple[str, str]:
    """Tell CT from other images by the values: ('ct' or 'mr', why in words)."""
    values = _thinned(channel)
    air = float(np.mean((values >= _AIR[0]) & (values <= _AIR[1])))
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    whole = bool(np.all(values == np.rint(values)))
    if low < _LOWEST_CT:
        return "mr", f"decided because values reach down to {low:.0f}, below any Hounsfield unit"
    if air >= 0.001:
        return (
            "ct",
            f"decided because {_percent(air)} of the voxels lie between -1100 and -200 HU, as air does",
        )
    if low <= _FAT and high >= 20 and whole:
        return (
            "ct",
            f"decided because whole numbers from {low:.0f} to {high:.0f} look like fat and soft tissue",
        )
    return "mr", f"decided because values from {low:.4g} to {high:.4g} hold no air in Hounsfield units"


def percentiles(channel: np.ndarray, ranks: tuple[float, float]) -> tuple[float, float]:
    """Two percentiles of all voxels, exact, with linear interpolation between neighbours in order."""
    if channel.dtype.kind not in "iu" or int(channel.max()) - int(channel.min()) >= _HISTOGRAM:
        first, second = np.percentile(channel, ranks)
        return float(first), float(second)
    lowest = int(channel.min())
    counts = np.zeros(int(channel.max()) - lowest + 1, np.int64)
    for part in _slices(channel):
        counts += np.bincount(part.ravel(order="K").astype(np.int64) - lowest, minlength=len(counts))
    below = np.cumsum(counts)
    first, second = (_rank(below, (channel.size - 1) * rank / 100) + lowest for rank in ranks)
    return first, second


def _rank(below: np.ndarray, place: float) -> float:
    """Value (position in the cumulated histogram) at a fractional place in the sorted voxels."""
    low, high = np.searchsorted(below, [math.floor(place), math.ceil(place)], side="right")
    return float(low + (high - low) * (place - math.floor(place)))


def _spread(channel: np.ndarray, found: tuple[float, float]) -> tuple[float, float]:
    """The percentiles, or the whole range where both are the same (nearly all background)."""
    return found if found[1] > found[0] else (float(channel.min()), float(channel.max()))


def _check_values(channel: np.ndarray) -> None:
    if channel.dtype.kind == "f" and not all(np.isfinite(part).all() for part in _slices(channel)):
        raise DataError(
            "the image holds values that are not finite (NaN or infinite)", "export it again, or leave it out"
        )
    low, high = float(channel.min()), float(channel.max())
    if max(-low, high) > LARGEST:
        hint = "correct its scale, or leave it out"
        raise DataError(f"the image holds values as large as {max(-low, high):.3g}", hint)
    if high - low < SMALLEST_RANGE:
        raise DataError(f"all voxels have the same value, {low:g}", "export it again, or leave it out")


def _thinned(channel: np.ndarray) -> np.ndarray:
    """A regular sample of some hundred thousand voxels, float32."""
    step = max(1, round((channel.size / 3e5) ** (1 / 3)))
    return channel[::step, ::step, ::step].astype(np.float32).ravel()


def _slices(channel: np.ndarray) -> np.ndarray:
    """The array with its slowest axis in memory first, so that walking along it reads memory in order."""
    return channel.transpose(sorted(range(3), key=lambda axis: -abs(channel.strides[axis])))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1f} %"
