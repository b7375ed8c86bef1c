"""Losses of fine-tuning as plain functions on tensors: Dice, Tversky, cross-entropy and focal.

Axes: M crops, K classes (softmax) or overlapping regions (sigmoid). All arithmetic is float32 or wider, also under
autocast, and every value and gradient is finite for every finite input. What does not count (a negative class, or
False in ``valid``) changes neither values nor gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from VoCoCore.downstream.softmax_sums import softmax_sums
from VoCoCore.errors import SettingsError, nearest

KINDS = ("dice_ce", "dice_focal", "tversky_ce")
ACTIVATIONS = ("softmax", "sigmoid")
# The published fine-tuning's: nothing above the line of Dice, this below it.
SMOOTH_ABOVE, SMOOTH_BELOW = 0.0, 1e-6
# 1 - p never gets closer to 0 here: there a power below 1 has no finite slope.
SMALLEST_REST = 1e-7


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        hint = f"one of {', '.join(allowed)}"
        raise SettingsError(f"there is no {name} '{value}'.{nearest(value, allowed)}", hint)


class _Sums(NamedTuple):
    """Per crop and class: sum of p g, of p (or p^2), of g; per voxel: log p_t (0: does not count); how many count."""

    both: Tensor
    predicted: Tensor
    true: Tensor
    log_true: Tensor
    counts: Tensor


def _of_classes(logits: Tensor, target: Tensor, valid: Tensor | None, squared: bool) -> _Sums:
    """The sums of a softmax; ``log_true`` (M, N), ``counts`` (M, K)."""
    classes = target.flatten(1).long()
    classes = classes if valid is None else torch.where(valid.flatten(1), classes, -1)
    sums = softmax_sums(logits.flatten(2), classes, squared=squared)
    return _Sums(*sums, sums.true)


def _of_regions(logits: Tensor, target: Tensor, valid: Tensor | None, squared: bool) -> _Sums:
    """The sums of a sigmoid per region; ``log_true`` (M, K, N), ``counts`` (M, K)."""
    z = logits.flatten(2)
    z = z if z.dtype == torch.float64 else z.float()
    g = target.flatten(2).to(z.dtype)
    counts = torch.ones_like(g) if valid is None else valid.flatten(1).unsqueeze(1).to(z.dtype).expand_as(g)
    p = torch.sigmoid(z) * counts
    log_true = -counts * F.binary_cross_entropy_with_logits(z, g, reduction="none")
    g = g * counts
    return _Sums((p * g).sum(2), (p.square() if squared else p).sum(2), g.sum(2), log_true, counts.sum(2))


def _voxel_term(sums: _Sums, gamma: float, weights: Tensor | None, target: Tensor) -> Tensor:
    """Mean of -(1 - p_t)^gamma log p_t over voxels, then crops; with gamma 0 this is the cross-entropy."""
    terms, counts = -sums.log_true, sums.counts
    if gamma:
        terms = terms * (-torch.expm1(sums.log_true)).clamp(min=SMALLEST_REST) ** gamma
    least = torch.finfo(counts.dtype).tiny
    if weights is None:
        # Crop by crop, as Dice: where crops have gone outside by different shares, ranks would otherwise weigh them
        # in another way than one rank does.
        return (terms.flatten(1).sum(1) / counts.sum(1).clamp(min=least)).mean()
    weights, of_classes = weights.to(counts), terms.ndim == 2
    counts = counts * weights
    terms = terms * (weights[target.flatten(1).long().clamp(min=0)] if of_classes else weights[:, None])
    return terms.sum() / counts.sum().clamp(min=least)


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    *,
    kind: str = "dice_ce",
    activation: str = "softmax",
    background: bool = False,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
    squared: bool = True,
    smooth: tuple[float, float] = (SMOOTH_ABOVE, SMOOTH_BELOW),
    gamma: float = 2.0,
    alpha: float = 0.3,
    beta: float = 0.7,
) -> dict[str, Tensor]:
    """Named terms whose sum is the loss.

    ``logits`` (M, K, X, Y, Z). With ``softmax``, ``target`` (M, X, Y, Z) holds class numbers below K, and voxels with a
    negative one do not count; Dice and Tversky leave out class 0 unless ``background``. With ``sigmoid``, ``target``
    (M, K, X, Y, Z) says 0 or 1 per region. ``valid`` (M, X, Y, Z) bool: the voxels that count.

    With probabilities p, labels g in {0, 1}, sums over the voxels that count, means over crops and classes:
    ``dice`` = 1 - (2 sum(p g) + a) / (sum(p^2) + sum(g) + b), p instead of p^2 unless ``squared``, (a, b) = ``smooth``;
    ``tversky`` = 1 - (sum(p g) + a) / (sum(p g) + alpha sum(p (1 - g)) + beta sum((1 - p) g) + b);
    ``cross_entropy`` = mean of -log p_t over voxels (and regions), p_t the probability of what is true there;
    ``focal`` = mean of -(1 - p_t)^gamma log p_t. ``weights`` (K,) weight the voxels of a class (or a region) in the
    last two, which are then divided by the sum of weights in all crops. In ``dice``, a class that its crop lacks gives
    1 and, with a = 0, no gradient, as published. b must be above 0.

    ``kind``: `dice_ce`, `dice_focal`, `tversky_ce`. Returns scalars; raises SettingsError for unknown names.
    """
    _check("loss", kind, KINDS)
    _check("activation", activation, ACTIVATIONS)
    of_kind = _of_classes if activation == "softmax" else _of_regions
    with torch.autocast(logits.device.type, enabled=False):
        sums = of_kind(logits, target, valid, squared and kind != "tversky_ce")
        first = 1 if activation == "softmax" and not background else 0
        both, predicted, true = (part[:, first:] for part in sums[:3])
        if kind == "tversky_ce":
            fuzzy = both + alpha * (predicted - both) + beta * (true - both)
            terms = {"tversky": _one_minus(both, fuzzy, smooth)}
        else:
            terms = {"dice": _one_minus(2 * both, predicted + true, smooth)}
        focal = kind == "dice_focal"
        terms["focal" if focal else "cross_entropy"] = _voxel_term(
            sums, gamma if focal else 0.0, weights, target
        )
        return terms


def _one_minus(above: Tensor, below: Tensor, smooth: tuple[float, float]) -> Tensor:
    return (1 - (above + smooth[0]) / (below + smooth[1])).mean()


def deep_loss(
    logits: Sequence[Tensor], target: Tensor, *, valid: Tensor | None = None, **options: Any
) -> dict[str, Tensor]:
    """Deep supervision: `segmentation_loss` at several resolutions, weighted 1, 1/2, 1/4, ... of their sum.

    ``logits``: (M, K, X, Y, Z) first, then (M, K, X / s, Y / s, Z / s) with whole s; target and ``valid`` are thinned
    to each (every s-th voxel). Raises SettingsError where s is not whole.
    """
    parts = [2.0**-level for level in range(len(logits))]
    terms: dict[str, Tensor] = {}
    for part, level in zip(parts, logits, strict=True):
        near = thinned(target, level.shape[2:])
        kept = None if valid is None else thinned(valid, level.shape[2:])
        for name, term in segmentation_loss(level, near, valid=kept, **options).items():
            terms[name] = terms.get(name, 0) + term * (part / sum(parts))
    return terms


def thinned(labels: Tensor, shape: Sequence[int]) -> Tensor:
    """Every s-th voxel of (..., X, Y, Z), so that it has ``shape``; raises SettingsError where s is not whole."""
    steps = [full // part for full, part in zip(labels.shape[-3:], shape, strict=True)]
    if any(full != step * part for full, step, part in zip(labels.shape[-3:], steps, shape, strict=True)):
        sizes = f"{tuple(labels.shape[-3:])} is no whole multiple of {tuple(shape)}"
        raise SettingsError(f"deep supervision: {sizes}", "choose a window that the encoder can halve twice")
    return labels[..., :: steps[0], :: steps[1], :: steps[2]]


def classification_loss(
    logits: Tensor, target: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of a diagnosis: ``logits`` (M, K), ``target`` (M,) int64, ``weights`` (K,) of the classes.

    The true class' share is 1 - ``smoothing`` (in [0, 1)), the rest is spread over all K. Divided by the sum of the
    weights of the M targets. Returns a scalar.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    with torch.autocast(logits.device.type, enabled=False):
        kept = None if weights is None else weights.to(wide)
        return F.cross_entropy(wide, target.long(), weight=kept, label_smoothing=smoothing)
