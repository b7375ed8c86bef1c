"""Losses of fine-tuning: against an independent library and plain loops, what does not count, extremes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceCELoss, DiceFocalLoss, DiceLoss, FocalLoss, TverskyLoss
from monai.networks import one_hot

from VoCoCore.downstream.losses import (
    KINDS,
    classification_loss,
    deep_loss,
    segmentation_loss,
    thinned,
)
from VoCoCore.downstream.softmax_sums import softmax_sums
from VoCoCore.errors import SettingsError

PUBLISHED = {"squared_pred": True, "smooth_nr": 0.0, "smooth_dr": 1e-6}


def batch(seed=0, crops=2, classes=4, shape=(5, 6, 7), dtype=torch.float64):
    """Logits and class numbers; class 3 is in no crop, and class 2 only in the first."""
    made = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(crops, classes, *shape, generator=made, dtype=dtype)
    target = torch.randint(0, min(classes, 3), (crops, *shape), generator=made)
    target[1:][target[1:] == 2] = 0
    return logits.requires_grad_(), target


def regions(seed=0, shape=(5, 6, 7)):
    made = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 3, *shape, generator=made, dtype=torch.float64)
    return logits.requires_grad_(), torch.rand(2, 3, *shape, generator=made) < 0.3


def total(terms):
    return sum(terms.values())


def assert_same(ours, theirs, logits, tolerance=1e-9):
    """Equal values, and equal gradients."""
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    (a,), (b,) = (torch.autograd.grad(loss, logits, retain_graph=True) for loss in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("squared", [False, True])
def test_dice_and_cross_entropy_are_the_published_ones(background, squared):
    logits, target = batch()
    options = {**PUBLISHED, "squared_pred": squared, "include_background": background}
    theirs = DiceCELoss(to_onehot_y=True, softmax=True, **options)
    ours = segmentation_loss(logits, target, background=background, squared=squared)
    assert list(ours) == ["dice", "cross_entropy"]
    assert_same(total(ours), theirs(logits, target[:, None]), logits, 1e-6)  # theirs has float32 labels


def test_smoothing_above_gives_absent_classes_a_gradient():
    logits, target = batch()
    assert 3 not in target
    for above in (0.0, 1e-2):
        smooth = (above, 1e-5)
        options = {"squared_pred": True, "smooth_nr": above, "smooth_dr": 1e-5}
        theirs = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, **options)
        ours = segmentation_loss(logits, target, smooth=smooth)["dice"]
        assert_same(ours, theirs(logits, target[:, None]), logits, 1e-6)
    flat = torch.zeros(1, 2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    lacking = torch.zeros(1, 2, 2, 2, dtype=torch.int64)
    gradients = [
        torch.autograd.grad(segmentation_loss(flat, lacking, smooth=(above, 1.0))["dice"], flat)[0]
        for above in (0.0, 0.5)
    ]
    assert not gradients[0].any()
    assert (gradients[1][:, 1] > 0).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_of_classes(gamma):
    logits, target = batch()
    # The other library divides by the number of classes as well.
    theirs = 4 * FocalLoss(to_onehot_y=True, gamma=gamma, use_softmax=True)(logits, target[:, None])
    ours = segmentation_loss(logits, target, kind="dice_focal", gamma=gamma)
    assert list(ours) == ["dice", "focal"]
    assert_same(ours["focal"], theirs.double(), logits, 1e-5)  # theirs is float32
    if gamma == 0:
        assert_same(ours["focal"], segmentation_loss(logits, target)["cross_entropy"], logits)


def test_losses_of_regions():
    logits, target = regions()
    dice = {"sigmoid": True, **PUBLISHED}
    ours = segmentation_loss(logits, target, activation="sigmoid")
    torch.testing.assert_close(ours["dice"], DiceLoss(**dice)(logits, target.double()))
    plain = torch.nn.functional.binary_cross_entropy(torch.sigmoid(logits), target.double())
    assert_same(ours["cross_entropy"], plain, logits)
    focal = segmentation_loss(logits, target, activation="sigmoid", kind="dice_focal")
    assert_same(total(focal), DiceFocalLoss(**dice)(logits, target.double()).double(), logits, 1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_tversky(activation):
    logits, target = batch() if activation == "softmax" else regions()
    hot = one_hot(target[:, None], 4) if activation == "softmax" else target.double()
    theirs = TverskyLoss(
        include_background=activation == "sigmoid",
        alpha=0.3,
        beta=0.7,
        smooth_nr=0,
        smooth_dr=1e-6,
        **{activation: True},
    )
    ours = segmentation_loss(logits, target, kind="tversky_ce", activation=activation)
    assert list(ours) == ["tversky", "cross_entropy"]
    assert_same(ours["tversky"], theirs(logits, hot), logits)
    same = segmentation_loss(
        logits, target, kind="tversky_ce", activation=activation, alpha=0.5, beta=0.5, smooth=(0, 1e-6)
    )
    dice = segmentation_loss(logits, target, activation=activation, squared=False, smooth=(0, 2e-6))
    assert_same(same["tversky"], dice["dice"], logits)


def test_class_weights():
    logits, target = batch()
    weights = torch.tensor([0.1, 1.0, 3.0, 2.0], dtype=torch.float64)
    theirs = torch.nn.functional.cross_entropy(logits, target, weight=weights)
    assert_same(segmentation_loss(logits, target, weights=weights)["cross_entropy"], theirs, logits)
    logits, target = regions()
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, target.double(), reduction="none")
    theirs = (each.mean((0, 2, 3, 4)) * weights[:3]).sum() / weights[:3].sum()
    ours = segmentation_loss(logits, target, activation="sigmoid", weights=weights[:3])
    assert_same(ours["cross_entropy"], theirs, logits)


@given(st.integers(0, 2**31), st.sampled_from(KINDS), st.sampled_from(["softmax", "sigmoid"]))
@settings(max_examples=25, deadline=None)
def test_what_does_not_count_has_no_influence(seed, kind, activation):
    """Neither on values nor on other voxels' gradients; and leaving it out by hand is the same."""
    logits, target = batch(seed) if activation == "softmax" else regions(seed)
    rng = np.random.default_rng(seed)
    valid = torch.from_numpy(rng.random((2, 5, 6, 7)) < 0.6)
    valid[:, :, 0, 0] = False  # the rest keeps a shape that a crop may have
    loss = total(segmentation_loss(logits, target, kind=kind, activation=activation, valid=valid))
    (gradient,) = torch.autograd.grad(loss, logits)
    out = ~valid.unsqueeze(1).expand_as(logits)
    assert (gradient[out] == 0).all()
    changed = torch.where(out, 50 * torch.randn_like(logits), logits).detach().requires_grad_()
    other = target.clone()
    other[~valid if activation == "softmax" else out] = 1
    again = total(segmentation_loss(changed, other, kind=kind, activation=activation, valid=valid))
    assert torch.equal(loss, again)
    assert torch.equal(gradient, torch.autograd.grad(again, changed)[0])


def test_negative_classes_do_not_count_and_leaving_out_is_cutting_off():
    logits, target = batch()
    cut = total(segmentation_loss(logits[..., :4], target[..., :4]))
    target[..., 4:] = -1
    assert_same(total(segmentation_loss(logits, target)), cut, logits)
    target[:] = -1
    terms = segmentation_loss(logits, target)
    assert terms["dice"] == 1
    assert terms["cross_entropy"] == 0
    assert not torch.autograd.grad(total(terms), logits)[0].any()


@given(st.integers(0, 2**31), st.sampled_from(KINDS))
@settings(max_examples=25, deadline=None)
def test_order_of_voxels_and_classes_does_not_matter(seed, kind):
    logits, target = batch(seed)
    loss = total(segmentation_loss(logits, target, kind=kind))
    torch.testing.assert_close(
        total(segmentation_loss(logits.flip(2, 4), target.flip(1, 3), kind=kind)), loss
    )
    order = torch.tensor([0, 3, 1, 2])  # new class -> old class
    renamed = torch.argsort(order)[target]
    torch.testing.assert_close(total(segmentation_loss(logits[:, order], renamed, kind=kind)), loss)


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_prediction_costs_nothing(kind):
    target = torch.arange(4).repeat(2, 5, 6, 1)
    right = 40 * one_hot(target[:, None], 4).float()
    assert total(segmentation_loss(right, target, kind=kind)).item() == pytest.approx(0, abs=1e-5)
    sure = 40 * (2 * one_hot(target[:, None], 4).float() - 1)
    hot = one_hot(target[:, None], 4)
    terms = segmentation_loss(sure, hot, kind=kind, activation="sigmoid")
    assert total(terms).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_finite_at_extremes(dtype, kind, activation, gamma):
    for size in (1e4, 3e38 if dtype != torch.float16 else 6e4):
        logits = torch.zeros(1, 3, 2, 2, 3, dtype=dtype)
        logits[:, 0, 0], logits[:, 1, 1], logits[:, 2, :, :, 0] = size, -size, size
        logits.requires_grad_()
        target = torch.tensor([0, 1, 2, 0]).repeat(3).view(1, 2, 2, 3)
        target = target if activation == "softmax" else one_hot(target[:, None], 3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            terms = segmentation_loss(logits, target, kind=kind, activation=activation, gamma=gamma)
        assert all(term.dtype == torch.float32 for term in terms.values())
        (gradient,) = torch.autograd.grad(terms[next(iter(terms))], logits, retain_graph=True)
        assert torch.isfinite(gradient).all()
        if size <= 1e4:  # above that the mean of cross-entropies itself may leave float32
            assert torch.isfinite(total(terms))
            (gradient,) = torch.autograd.grad(total(terms), logits)
            assert torch.isfinite(gradient).all()
            assert gradient.dtype == dtype


@pytest.mark.parametrize("squared", [False, True])
def test_blocks_of_voxels_and_half_precision(squared):
    """More voxels than a block holds, against the same written out in float64."""
    logits, target = batch(shape=(64, 30, 50), classes=5, dtype=torch.float32)
    classes = target.flatten(1)
    sums = softmax_sums(logits.flatten(2), classes, squared=squared)
    p = torch.softmax(logits.flatten(2).double(), 1)
    hot = one_hot(classes[:, None], 5).double()
    plain = ((p * hot).sum(2), (p.square() if squared else p).sum(2), hot.sum(2), (p * hot).sum(1).log())
    for ours, theirs in zip(sums, plain, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    loss = total(segmentation_loss(logits, target, squared=squared))
    exact = total(segmentation_loss(logits.double(), target, squared=squared))
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)
    half = logits.detach().bfloat16().requires_grad_()
    coarse = total(segmentation_loss(half, target, squared=squared))
    torch.testing.assert_close(coarse, total(segmentation_loss(half.float(), target, squared=squared)))


def test_gradients_against_finite_differences():
    logits, target = batch(shape=(2, 2, 2))
    target[0, 0, 0, 0] = -1
    for kind in KINDS:
        for background in (False, True):
            assert torch.autograd.gradcheck(
                lambda z, kind=kind, background=background: total(
                    segmentation_loss(z, target, kind=kind, background=background)
                ),
                logits,
            )


def test_deep_supervision_weighs_levels_and_thins_targets():
    levels = [batch(shape=(n, n, 2 * n))[0] for n in (8, 4, 2)]
    target = batch(shape=(8, 8, 16))[1]
    valid = torch.rand(2, 8, 8, 16) < 0.7
    ours = deep_loss(levels, target, valid=valid, kind="tversky_ce")
    steps = (1, 2, 4)
    parts = [
        segmentation_loss(z, target[:, ::s, ::s, ::s], valid=valid[:, ::s, ::s, ::s], kind="tversky_ce")
        for z, s in zip(levels, steps, strict=True)
    ]
    for name, term in ours.items():
        expected = (4 * parts[0][name] + 2 * parts[1][name] + parts[2][name]) / 7
        torch.testing.assert_close(term, expected)
    assert total(deep_loss(levels[:1], target)) == total(segmentation_loss(levels[0], target))
    assert torch.equal(thinned(target, (8, 4, 16)), target[:, :, ::2])
    with pytest.raises(SettingsError, match="no whole multiple"):
        thinned(target, (3, 4, 16))


def test_loss_of_a_diagnosis():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.5, 0.0], [0.0, 0.0, 3.0], [1e4, -1e4, 0.0]])
    target = torch.tensor([0, 2, 2, 0])
    weights = torch.tensor([1.0, 2.0, 5.0])
    log_p = torch.log_softmax(logits.double(), 1).numpy()
    expected = -np.mean([log_p[i, k] for i, k in enumerate(target)])
    assert classification_loss(logits, target).item() == pytest.approx(expected)
    w = weights[target].numpy()
    expected = -np.sum([w[i] * log_p[i, k] for i, k in enumerate(target)]) / w.sum()
    assert classification_loss(logits, target, weights).item() == pytest.approx(expected)
    shares = 0.1 / 3 + 0.9 * np.eye(3)[target]
    expected = -(shares * log_p).sum(1).mean()
    assert classification_loss(logits, target, smoothing=0.1).item() == pytest.approx(expected, rel=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert classification_loss(logits.bfloat16(), target).dtype == torch.float32


def test_unknown_names_are_said():
    logits, target = batch()
    with pytest.raises(SettingsError, match=r"no loss 'dice-ce'.*dice_ce"):
        segmentation_loss(logits, target, kind="dice-ce")
    with pytest.raises(SettingsError, match="no activation 'relu'"):
        segmentation_loss(logits, target, activation="relu")
