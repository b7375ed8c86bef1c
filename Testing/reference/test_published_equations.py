"""Labels (A), losses (B), regulariser (C), logits (D), schedule (G) and the paper's formulas (P) against the reference.

The keys of the reference are read from its files, so that further seeds of the same kind are checked as they come.
Tolerances: float64 1e-6 relative, because the published count of zero labels is a float32; float32 1e-5.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from VoCoCore.geometry import Box, Grid
from VoCoCore.pretext import voco_losses as vl
from VoCoCore.training.schedule import warmup_cosine

CONFIGURATIONS = {
    "g4_b96_r96": (4, 96, 96), "g4_b96_r64": (4, 96, 64), "g2_b96_r96": (2, 96, 96), "g3_b64_r64": (3, 64, 64),
    "g5_b96_r96": (5, 96, 96), "g4_b64_r64": (4, 64, 64), "g4_b96_r128": (4, 96, 128), "g4_b96_r95_odd": (4, 96, 95),
    "g2_b64_r64_uncovered": (2, 64, 64),
    "g3_r64": (3, 64, 64), "g2_r64": (2, 64, 64), "g5_r64": (5, 64, 64), "g4_r64": (4, 64, 64), "g3_r48": (3, 48, 48),
}  # fmt: skip


@pytest.fixture(scope="module", params=["v1", "v2", "paper"])
def reference(request, shared_data):
    files = sorted((shared_data / "reference").glob(f"*_{request.param}.npz"))
    return request.param, [np.load(path, allow_pickle=False) for path in files]


def keys(reference, pattern):
    """(arrays, key prefix) of every key that matches ``pattern`` up to its first group's end."""
    _, files = reference
    return [(arrays, m.group(1)) for arrays in files for k in arrays.files if (m := re.fullmatch(pattern, k))]


def close(ours, theirs, tolerance):
    ours = ours.detach().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def test_labels(reference):
    for arrays, prefix in keys(reference, r"(A\..*)\.y"):
        name = prefix.split(".")[-1]
        cells, base, crop = CONFIGURATIONS[name]
        grid = Grid((cells * base, cells * base, base), (cells, cells, 1))
        half, extent = crop // 2, crop // 2 * 2
        for centre, y in zip(arrays[prefix + ".centres"], arrays[prefix + ".y"], strict=True):
            box = Box((centre[0] - half, centre[1] - half, 0), (extent, extent, min(base, extent)))
            # For an odd crop the published label covers a voxel less than it divides by; ours are exact.
            close(grid.overlap_labels(box) * (extent / crop) ** 2, y, 1e-12)


def test_prediction_loss(reference):
    recipe, _ = reference
    for arrays, prefix in keys(reference, r"(B\..*s\d+.*)\.y"):
        y = torch.tensor(arrays[prefix + ".y"])
        for mode, tolerance in (("mix", 1e-5), ("f64", 1e-6)):
            if f"{prefix}.{mode}.loss0" not in arrays:
                continue
            logits = torch.tensor(arrays[prefix + ".l"])
            logits = (logits.double() if mode == "f64" else logits).requires_grad_()
            loss = vl.prediction_loss(logits, y, recipe)
            loss.backward()
            parts = [0, 1] if recipe == "v1" else [0]
            close(loss, sum(arrays[f"{prefix}.{mode}.loss{i}"] for i in parts), tolerance)
            if f"{prefix}.{mode}.grad0" in arrays:
                close(logits.grad, sum(arrays[f"{prefix}.{mode}.grad{i}"] for i in parts), tolerance)


def test_prediction_loss_at_the_edges(reference):
    recipe, _ = reference
    for arrays, prefix in keys(reference, r"(B\..*edge(?:_nan)?)\.y"):
        for row, y in enumerate(arrays[prefix + ".y"]):
            logits = torch.tensor(arrays[prefix + ".l"][row : row + 1], requires_grad=True)
            loss = vl.prediction_loss(logits, torch.tensor(y[None]), recipe)
            loss.backward()
            assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
            if "nan" not in prefix:
                close(loss, arrays[prefix + ".loss"][row].sum(), 1e-6)
                close(logits.grad[0], arrays[prefix + ".grad"][row].sum(0), 1e-5 if recipe == "v1" else 5e-5)


def test_regularisation(reference):
    recipe, _ = reference
    for arrays, prefix in keys(reference, r"(C\..*)\.bases"):
        bases = torch.tensor(arrays[prefix + ".bases"])
        for key in (k for k in arrays.files if k.startswith(prefix + ".") and k.endswith("loss")):
            q = (bases.double() if ".f64" in key else bases).clone().requires_grad_()
            loss = vl.regularisation_loss(q, recipe)
            loss.backward()
            close(loss, arrays[key].squeeze(), 1e-6)
            if key.removesuffix("loss") + "grad" in arrays:
                close(q.grad, arrays[key.removesuffix("loss") + "grad"], 1e-5)


def test_logits(reference):
    recipe, _ = reference
    for arrays, prefix in keys(reference, r"(D\..*)\.x_stu"):
        x_s, x_t, b_s, b_t, w = (
            torch.tensor(arrays[f"{prefix}.{name}"]).double()
            for name in ("x_stu", "x_tea", "bases_stu", "bases_tea", "w")
        )
        x_s.requires_grad_(), b_s.requires_grad_()
        close(vl.similarity(x_s, b_t, recipe), arrays[prefix + ".f64.l_stu_tea"], 1e-7)
        if recipe == "v1":
            logits = vl.both_directions(x_s, b_s, x_t, b_t, recipe)
            close(logits, arrays[prefix + ".f64.logits"], 1e-7)
            gradients = torch.autograd.grad((w * logits).sum(), (x_s, b_s))
            close(gradients[1], arrays[prefix + ".f64.wgrad_bases_stu"], 1e-7)
        else:
            gradients = torch.autograd.grad((w * vl.similarity(x_s, b_t, recipe)).sum(), (x_s,))
            target, predicted = vl.similarity(x_t, b_t, recipe), vl.similarity(x_s, b_s, recipe)
            close(target, arrays[prefix + ".f64.inter_target"], 1e-7)
            close(predicted, arrays[prefix + ".f64.inter_pred"], 1e-7)
            one = [x[None] for x in (x_s, b_s, x_t, b_t)]
            inter = vl.inter_volume_loss(*one, recipe)
            close(inter, arrays[prefix + ".f64.inter_loss"], 1e-6)
            inter.backward()
            close(x_s.grad, arrays[prefix + ".f64.inter_grad_x_stu"], 1e-6)
            close(b_s.grad, arrays[prefix + ".f64.inter_grad_bases_stu"], 1e-6)
        close(gradients[0], arrays[prefix + ".f64.wgrad_x_stu"], 1e-7)


def test_schedule(reference):
    recipe, _ = reference
    total = {"v1": 250_000, "v2": 2_000_000}.get(recipe)
    for arrays, prefix in keys(reference, r"(G\..*)\.steps"):
        ours = [warmup_cosine(int(step), 1e-4, 5000, total) for step in arrays[prefix + ".steps"]]
        np.testing.assert_allclose(ours, arrays[prefix + ".lr"], rtol=1e-12, atol=0)


def test_formulas_of_the_paper(reference):
    for arrays, prefix in keys(reference, r"(P\..*)\.p"):
        y, p, q, logits = (torch.tensor(arrays[f"{prefix}.{name}"]) for name in ("y", "p", "q", "l"))
        logits.requires_grad_(), p.requires_grad_(), q.requires_grad_()
        loss = vl.prediction_loss(logits, y, "paper")
        close(loss, arrays[prefix + ".l_pred"], 1e-12)
        close(torch.autograd.grad(loss, logits)[0], arrays[prefix + ".l_pred_grad_l"], 1e-6)
        regularisation = vl.regularisation_loss(q, "paper")
        close(regularisation, arrays[prefix + ".l_reg"], 1e-12)
        close(torch.autograd.grad(regularisation, q)[0], arrays[prefix + ".l_reg_grad_q"], 1e-6)
        chain = vl.prediction_loss(vl.similarity(p[None], q, "paper", detach=False), y[None], "paper")
        close(chain, arrays[prefix + ".chain_l_pred"], 1e-12)
        close(chain + regularisation, arrays[prefix + ".chain_total"], 1e-12)
        for gradient, name in zip(torch.autograd.grad(chain, (p, q)), ("p", "q"), strict=True):
            close(gradient, arrays[f"{prefix}.chain_grad_{name}"], 1e-6)
