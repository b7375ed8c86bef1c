"""The equations: properties that any reader can check by hand, and finiteness for every input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from VoCoCore.errors import SettingsError
from VoCoCore.pretext import voco_losses as vl

RECIPES = ("paper", "v1", "v2")


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("recipe", RECIPES)
def test_similarity_is_scale_invariant_and_stops_the_gradient_where_it_should(recipe):
    p, q = rand(3, 8).requires_grad_(), rand(5, 8, seed=1).requires_grad_()
    logits = vl.similarity(p, q, recipe)
    torch.testing.assert_close(vl.similarity(p * 7, q * 1e-3, recipe), logits)
    logits.square().sum().backward()
    assert p.grad.abs().sum() > 0
    assert (q.grad is None) == (recipe == "paper")


@pytest.mark.parametrize("recipe", RECIPES)
def test_logits_against_a_plain_loop(recipe):
    p, q = rand(2, 3, 8), rand(2, 5, 8, seed=1)
    expected = np.empty((2, 3, 5))
    for v, i, j in np.ndindex(expected.shape):
        a, b = p[v, i].numpy(), q[v, j].numpy()
        cos = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        expected[v, i, j] = cos if recipe == "paper" else max(cos, 0)
    np.testing.assert_allclose(vl.similarity(p, q, recipe).numpy(), expected, atol=1e-12)


def test_figure_4_values_of_eq_3():
    """-(1/n) sum log(1 - |y - l|) with the figure's labels and a prediction that is off by 0.05 in two places."""
    y = torch.zeros(16, dtype=torch.float64)
    y[[5, 6, 9, 10]] = torch.tensor([0.25, 0.1, 0.5, 0.15], dtype=torch.float64)
    off = y.clone()
    off[5], off[0] = 0.30, 0.05
    assert vl.prediction_loss(off, y, "paper").item() == pytest.approx(-2 * np.log(0.95) / 16, rel=1e-9)
    assert vl.prediction_loss(y, y, "paper").item() == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_leading_axes_are_volumes_and_are_averaged(recipe):
    y, logits = torch.rand(3, 2, 6, dtype=torch.float64), torch.rand(3, 2, 6, dtype=torch.float64)
    y[:, :, :3] = 0
    alone = [vl.prediction_loss(logits[v], y[v], recipe) for v in range(3)]
    torch.testing.assert_close(vl.prediction_loss(logits, y, recipe), torch.stack(alone).mean())
    bases = rand(3, 6, 4)
    alone = [vl.regularisation_loss(bases[v], recipe) for v in range(3)]
    torch.testing.assert_close(vl.regularisation_loss(bases, recipe), torch.stack(alone).mean())


@pytest.mark.parametrize("recipe", RECIPES)
def test_regularisation_against_a_plain_loop(recipe):
    q = rand(7, 5)
    unit = (q / q.norm(dim=1, keepdim=True)).numpy()
    pairs = [unit[i] @ unit[j] for i in range(7) for j in range(i + 1, 7)]
    expected = np.mean(np.abs(pairs) if recipe == "paper" else np.maximum(pairs, 0) ** 2)
    assert vl.regularisation_loss(q, recipe).item() == pytest.approx(expected, rel=1e-12)
    assert vl.regularisation_loss(torch.eye(4), recipe).item() == 0
    assert vl.regularisation_loss(torch.ones(3, 4), recipe).item() == pytest.approx(1)
    assert vl.regularisation_loss(q[:1], recipe).item() == 0


def test_the_second_of_a_pair_is_constant_in_v1():
    q = rand(4, 5).requires_grad_()
    vl.regularisation_loss(q, "v1").backward()
    assert q.grad[-1].abs().max() == 0 and q.grad[0].abs().max() > 0


@given(st.floats(1e-9, 0.5), st.lists(st.floats(-3, 3), min_size=2, max_size=20))
@settings(max_examples=60, deadline=None)
def test_the_guarded_logarithm_is_continuous_decreasing_and_keeps_its_slope(epsilon, values):
    u = torch.tensor(sorted([*values, epsilon]), dtype=torch.float64, requires_grad=True)
    out = vl.guarded_neg_log(u, epsilon)
    out.sum().backward()
    assert torch.isfinite(out).all() and (out.diff() <= 1e-9 * out.abs().max()).all()
    below = u.detach() < epsilon
    torch.testing.assert_close(u.grad[below], torch.full_like(u.grad[below], -1 / epsilon))
    torch.testing.assert_close(out[~below], -u[~below].log())


EXTREMES = [0.0, 1.0, -1.0, 1e-30, 1e-12, 1e4, 1e30, -1e30]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_loss_and_gradient_is_finite_for_extreme_vectors(recipe, dtype):
    largest = torch.finfo(dtype).max
    rows = [torch.full((6,), max(min(x, largest), -largest), dtype=dtype) for x in EXTREMES]
    p = torch.stack([*rows, rand(6).to(dtype)]).requires_grad_()
    q = torch.stack([*rows[::-1], rand(6, seed=2).to(dtype)]).requires_grad_()
    y = torch.eye(9, dtype=torch.float64)
    logits = vl.similarity(p, q, recipe, detach=False)
    loss = vl.prediction_loss(logits, y, recipe) + vl.regularisation_loss(q, recipe)
    inter = vl.inter_volume_loss(
        p[None].repeat(2, 1, 1),
        q[None].repeat(2, 1, 1),
        p[None].repeat(2, 1, 1),
        q[None].repeat(2, 1, 1),
        recipe,
    )
    total = loss + inter
    assert total.dtype in (torch.float32, torch.float64) and torch.isfinite(total)
    gradients = torch.autograd.grad(total, (p, q))
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0, 1.0000001, -1.0000001, 2.0])
def test_every_logit_gives_a_finite_loss_and_gradient(recipe, value):
    y = torch.tensor([[0.0, 1.0, 0.25, 0.75]])
    logits = torch.full_like(y, value, requires_grad=True)
    loss = vl.prediction_loss(logits, y, recipe)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(recipe, dtype):
    p, q, y = rand(3, 16).float(), rand(5, 16, seed=3).float(), torch.eye(5)[:3]
    plain = vl.prediction_loss(vl.similarity(p, q, recipe), y, recipe) + vl.regularisation_loss(q, recipe)
    with torch.autocast("cpu", dtype):
        cast = vl.prediction_loss(vl.similarity(p, q, recipe), y, recipe) + vl.regularisation_loss(q, recipe)
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)


def test_the_worst_prediction_still_has_a_gradient():
    logits = torch.tensor([[1.0, -1.0]], requires_grad=True)
    vl.prediction_loss(logits, torch.tensor([[0.0, 1.0]]), "paper").backward()
    assert logits.grad[0, 0] > 0 > logits.grad[0, 1]


def test_inter_volume_compares_with_the_next_volume():
    p, q, tp, tq = (rand(3, n, 6, seed=s) for s, n in enumerate((2, 4, 2, 4)))
    got = vl.inter_volume_loss(p, q, tp, tq, "v2")
    each = [
        vl.prediction_loss(
            vl.similarity(p[v], q[(v + 1) % 3], "v2"), vl.similarity(tp[v], tq[(v + 1) % 3], "v2"), "v2"
        )
        for v in range(3)
    ]
    torch.testing.assert_close(got, torch.stack(each).mean())


def test_an_unknown_recipe_is_named():
    with pytest.raises(SettingsError, match="Did you mean 'paper'"):
        vl.similarity(rand(1, 2), rand(1, 2), "papr")
