"""The equations of VoCo as plain functions on tensors, in three forms: `paper`, `v1`, `v2`.

Axes: V volumes (any number of leading axes, averaged), k random crops, n base crops, c channels. All arithmetic is
float32 or wider, also under autocast, and every value and gradient is finite for every finite input.

Where the published code (v1, v2) and the paper differ, the docstrings say so.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from VoCoCore.errors import SettingsError, nearest

RECIPES = ("paper", "v1", "v2")
# Below this u, -log(u) goes on as a straight line: with plain cosines u reaches -1.
PAPER_EPSILON = 1e-3
# Added to 1 - d by the published code, and to the two denominators.
PUBLISHED_EPSILON = 1e-6
# A vector whose largest entry is below this has no direction worth a gradient.
SHORTEST = 1e-12


def _check(recipe: str) -> None:
    if recipe not in RECIPES:
        raise SettingsError(
            f"there is no recipe '{recipe}'.{nearest(recipe, RECIPES)}", "one of paper, v1, v2"
        )


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def unit(x: Tensor) -> Tensor:
    """Vectors (..., c) of length 1; a vector of no length becomes 0 and gets no gradient."""
    x = _wide(x)
    # Scaled first, so that neither huge nor tiny vectors leave the number range when squared.
    scale = x.detach().abs().amax(dim=-1, keepdim=True)
    empty = scale < SHORTEST
    x = x / scale.masked_fill(empty, 1.0)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.where(empty, 0.0, x / length.masked_fill(empty, 1.0))


def cosines(p: Tensor, q: Tensor) -> Tensor:
    """Cosine of every pair: p (..., k, c), q (..., n, c) -> (..., k, n) in [-1, 1]."""
    with torch.autocast(p.device.type, enabled=False):
        return unit(p) @ unit(q).transpose(-1, -2)


def similarity(p: Tensor, q: Tensor, recipe: str, *, detach: bool | None = None) -> Tensor:
    """Logits l of random crops against base crops (Eq. 1).

    ``p`` (..., k, c) random crops, ``q`` (..., n, c) base crops -> (..., k, n). ``paper``: cos(p, q), no gradient to q.
    ``v1``, ``v2``: relu(cos(p, q)), whose base crops come from a teacher or carry gradient. ``detach`` overrides the
    recipe's choice. Raises SettingsError for an unknown recipe.
    """
    _check(recipe)
    detach = recipe == "paper" if detach is None else detach
    cos = cosines(p, q.detach() if detach else q)
    return cos if recipe == "paper" else F.relu(cos)


def guarded_neg_log(u: Tensor, epsilon: float) -> Tensor:
    """-log(u) for u >= epsilon, continued by its tangent below: -log(epsilon) + (epsilon - u) / epsilon.

    A clamp would stop the gradient exactly where the prediction is worst.
    """
    line = (epsilon - u) / epsilon - math.log(epsilon)
    return torch.where(u >= epsilon, -u.clamp(min=epsilon).log(), line)


def prediction_loss(logits: Tensor, labels: Tensor, recipe: str, *, epsilon: float | None = None) -> Tensor:
    """Prediction loss of each volume's block, averaged over the leading axes.

    ``logits`` l and ``labels`` y are (..., k, n) (or (n,)), y in [0, 1]; d = |y - l|.
    ``paper``: mean of -log(1 - d) over all entries (Eq. 2-3). ``v1``: sum of -y log(1 - d) over sum of y, plus the mean
    of l^2 over the entries with y = 0. ``v2``: the same first term, plus the mean of -log(1 - l) there. A block is one
    volume: the published code sums over its crops before it divides.
    ``epsilon`` is where the logarithm turns into its tangent (1e-3 for paper, 1e-6 for v1 and v2).
    Returns a scalar; raises SettingsError for an unknown recipe.
    """
    _check(recipe)
    kind = torch.promote_types(torch.promote_types(logits.dtype, labels.dtype), torch.float32)
    logits, labels = logits.to(kind), labels.detach().to(kind)
    distance = (labels - logits).abs()
    if recipe == "paper":
        return guarded_neg_log(1 - distance, PAPER_EPSILON if epsilon is None else epsilon).mean()
    small = PUBLISHED_EPSILON
    edge = small if epsilon is None else epsilon
    block = tuple(range(max(labels.ndim - 2, 0), labels.ndim))
    pull = labels * guarded_neg_log(1 - distance + small, edge)
    positive = pull.sum(block) / (labels.sum(block) + small)
    zero = (labels == 0).to(kind)
    push = logits.square() if recipe == "v1" else guarded_neg_log(1 - logits + small, edge)
    negative = (push * zero).sum(block) / (zero.sum(block) + small)
    return (positive + negative).mean()


def regularisation_loss(q: Tensor, recipe: str) -> Tensor:
    """Similarity of different base crops of one volume, averaged over the leading axes.

    ``q`` (..., n, c). ``paper``: mean |cos| over the n (n - 1) / 2 pairs (Eq. 4-5, whose factor 2 / (n (n - 1)) is a
    mean only over unordered pairs). ``v1``, ``v2``: mean of relu(cos)^2 over the pairs i < j, j without gradient.
    Returns a scalar, 0 for a single base crop; raises SettingsError for an unknown recipe.
    """
    _check(recipe)
    n = q.shape[-2]
    cos = cosines(q, q if recipe == "paper" else q.detach())
    terms = cos.abs() if recipe == "paper" else F.relu(cos).square()
    return terms.triu(1).sum((-2, -1)).mean() / max(n * (n - 1) // 2, 1)


def both_directions(
    student_p: Tensor, student_q: Tensor, teacher_p: Tensor, teacher_q: Tensor, recipe: str
) -> Tensor:
    """Mean of student-to-teacher and teacher-to-student logits (v1); shapes as in `similarity`."""
    forth = similarity(student_p, teacher_q, recipe, detach=False)
    back = similarity(teacher_p, student_q, recipe, detach=False)
    return (forth + back) / 2


def inter_volume_loss(
    student_p: Tensor, student_q: Tensor, teacher_p: Tensor, teacher_q: Tensor, recipe: str, **options: float
) -> Tensor:
    """v2's term between volumes: the student must agree with the teacher on the next volume's base crops.

    p are (V, k, c), q (V, n, c); volume v is compared with the base crops of volume (v + 1) mod V. The teacher's logits
    are constant labels. Returns a scalar.
    """
    predicted = similarity(student_p, student_q.roll(-1, 0), recipe, detach=False)
    with torch.no_grad():
        target = similarity(teacher_p, teacher_q.roll(-1, 0), recipe)
    return prediction_loss(predicted, target, recipe, **options)
