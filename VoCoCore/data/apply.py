"""Carries a plan out on an array: sampling, window, padding, quantisation in as few passes as they allow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from VoCoCore.data.plan import Plan, pad_before
from VoCoCore.data.resample import SliceStep, resize_points, sample

LEVELS = {"uint8": 255, "int16": 32767}  # value = stored / level
LARGEST_ERROR = 0.5 / LEVELS["uint8"]


def apply_plan(
    array: np.ndarray,
    plan: Plan,
    dtype: type[np.uint8] | type[np.int16] | type[np.float32] = np.uint8,
    turned: bool = True,
) -> np.ndarray:
    """Prepare ``array`` (C, X, Y, Z) as planned: (C, *plan.shape), ``turned`` into C order.

    Turning takes five times as long as scaling; a GPU, which cuts windows from either order, does without.

    float32 holds values in [0, 1]; whole numbers hold them times LEVELS, rounded, wrong by at most half a level
    (uint8: LARGEST_ERROR).
    """
    levels = LEVELS.get(np.dtype(dtype).name)
    finish = None if levels is None else partial(quantise, levels=levels)
    # Channels are filled in the image's memory order, where slices are whole, and turned once at the end.
    result = np.zeros((len(array), *plan.shape), dtype) if turned else _in_file_order(len(array), plan, dtype)
    for channel, target, rule in zip(array, result, plan.intensities, strict=True):
        filled = np.zeros(plan.shape[::-1], dtype).T if turned else target
        inner = _within(filled, pad_before(plan.resized, plan.shape), plan.resized)
        _fill(plan.oriented(channel), plan, rule.apply, finish, inner)
        if turned:
            _turn(filled, target)
    return result


def _in_file_order(channels: int, plan: Plan, dtype: type) -> np.ndarray:
    """Zeros (channels, *plan.shape) whose first axis lies fastest in memory within each channel."""
    return np.zeros((channels, *plan.shape[::-1]), dtype).transpose(0, 3, 2, 1)


def quantise(values: np.ndarray, levels: int = LEVELS["uint8"]) -> np.ndarray:
    """Scale float32 ``values`` in [0, 1] to whole numbers up to ``levels``, in place."""
    values *= levels
    return np.rint(values, out=values)


def _fill(
    volume: np.ndarray, plan: Plan, window: SliceStep, finish: SliceStep | None, out: np.ndarray
) -> None:
    """Fill ``out`` (plan.resized) from an oriented channel."""
    if plan.resized == plan.padded:
        inner = _within(out, pad_before(plan.size, plan.padded), plan.size)
        sample(volume, plan.box_points(), inner, after=_chain(window, finish))
    elif plan.step == (1.0, 1.0, 1.0) and plan.padded == plan.size:
        # With no interpolation before it, the window acts on source voxels: crop and resize in one go.
        resize = resize_points(plan.size, plan.resized)
        x, y, z = (first + points for first, points in zip(plan.start, resize, strict=True))
        sample(volume, (x, y, z), out, before=window, after=finish)
    else:
        middle = np.zeros(plan.padded[::-1], np.float32).T
        inner = _within(middle, pad_before(plan.size, plan.padded), plan.size)
        sample(volume, plan.box_points(), inner, after=window)
        sample(middle, resize_points(plan.padded, plan.resized), out, after=finish)


def _within(array: np.ndarray, start: Sequence[int] | np.ndarray, size: Sequence[int]) -> np.ndarray:
    x, y, z = (slice(int(first), int(first) + length) for first, length in zip(start, size, strict=True))
    return array[x, y, z]


def _chain(first: SliceStep, second: SliceStep | None) -> SliceStep:
    return first if second is None else lambda plane: second(first(plane))


def _turn(source: np.ndarray, target: np.ndarray) -> None:
    """Copy between memory orders in blocks that stay in the cache: twice as fast as one assignment."""
    for i in range(0, source.shape[0], 48):
        for k in range(0, source.shape[2], 16):
            target[i : i + 48, :, k : k + 16] = source[i : i + 48, :, k : k + 16]
