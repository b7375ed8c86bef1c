"""Sampling is a pure function of (seed, number) with the distribution that the recipes state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from VoCoCore.data.sampling import VALIDATION, case_of, chance_accuracy, draw, generator, random_starts
from VoCoCore.geometry import Box, Grid
from VoCoCore.presets import resolve_pretrain

TINY = resolve_pretrain({}, {"preset": "tiny", "recipe": "v2", "model.encoder": "unet"})
FIELDS = ("region", "starts", "sizes", "labels", "flips", "turns", "shifts", "keep")


def test_the_same_number_gives_the_same_draw_whatever_came_before():
    first = draw(TINY, 7, (120, 100, 40))
    for other in (3, 9, 10**12):
        draw(TINY, other, (120, 100, 40))
    again = draw(TINY, 7, (120, 100, 40))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    others = [draw(TINY, 8, (120, 100, 40)), draw(TINY, 7, (120, 100, 40), VALIDATION)]
    assert all((first.starts[:2] != other.starts[:2]).any() for other in others)


def test_crops_lie_inside_and_labels_are_their_own():
    grid = Grid(TINY.crops.volume_size, TINY.crops.counts)
    for number in range(30):
        made = draw(TINY, number, (120, 100, 40))
        assert (made.region >= 0).all() and (made.region + TINY.crops.volume_size <= (120, 100, 40)).all()
        assert (made.starts >= 0).all() and (made.starts + made.sizes <= TINY.crops.volume_size).all()
        for row in range(2):
            box = Box(tuple(made.starts[row]), tuple(made.sizes[row]))
            np.testing.assert_allclose(made.labels[row], grid.overlap_labels(box))


@given(st.integers(1, 40), st.integers(0, 2**63 - 1), st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_every_case_comes_once_per_epoch(cases, seed, epoch):
    seen = [case_of(seed, number, cases) for number in range(epoch * cases, (epoch + 1) * cases)]
    assert sorted(seen) == list(range(cases))


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(case_of(seed, e * 20 + i, 20) for i in range(20)) for seed in range(3) for e in range(3)}
    assert len(orders) == 9


def test_the_published_starts():
    """v1 draws centres from 48 to 335 in 384 voxels: starts from 0 to 287, and 0 where the crop spans the axis."""
    starts = random_starts(generator(0, 0), 20000, (384, 384, 96), (96, 96, 96))
    assert starts[:, :2].min() == 0 and starts[:, :2].max() == 287 and (starts[:, 2] == 0).all()
    assert abs(starts[:, 0].mean() - 143.5) < 2


def test_chance_is_the_best_constant_answer():
    """For v1's sampler about 1/9 (a centre cell), not 1/16; and what sampling gives for other grids."""
    assert chance_accuracy((384, 384, 96), (4, 4, 1), (96, 96, 96)) == pytest.approx(1 / 9, abs=0.003)
    for counts, size, crop in (((3, 3, 2), (36, 30, 20), (10, 14, 9)), ((2, 2, 1), (20, 21, 8), (5, 5, 8))):
        starts = random_starts(generator(1, 0), 20000, size, crop)
        best = Grid(size, counts).labels_of(starts, np.broadcast_to(crop, starts.shape)).argmax(1)
        assert chance_accuracy(size, counts, crop) == pytest.approx(np.bincount(best).max() / 20000, abs=0.02)


def test_augmentation_has_the_stated_rates_and_none_in_validation():
    many = [draw(TINY, number, TINY.crops.volume_size) for number in range(600)]
    flips, turns = (np.concatenate([getattr(m, name) for m in many]) for name in ("flips", "turns"))
    shifts, keep = (np.concatenate([getattr(m, name) for m in many]) for name in ("shifts", "keep"))
    np.testing.assert_allclose(flips.mean(0), 0.2, atol=0.02)
    np.testing.assert_allclose(
        np.bincount(turns, minlength=4) / len(turns), [0.8, 0.2 / 3, 0.2 / 3, 0.2 / 3], atol=0.02
    )
    assert (shifts != 0).mean() == pytest.approx(0.5, abs=0.03) and np.abs(shifts).max() <= 0.1
    assert keep.mean() == pytest.approx(0.8, abs=0.02)
    quiet = draw(TINY, 0, TINY.crops.volume_size, VALIDATION)
    assert not quiet.flips.any() and not quiet.turns.any() and not quiet.shifts.any() and quiet.keep.all()


def test_the_control_teaches_labels_of_other_places():
    control = TINY.with_values({"pretext.shuffle_labels": True})
    pairs = [(draw(TINY, n, (96, 96, 32)), draw(control, n, (96, 96, 32))) for n in range(200)]
    true, taught = (np.concatenate([pair[i].labels for pair in pairs]) for i in (0, 1))
    assert all((a.starts == b.starts).all() for a, b in pairs)
    correlation = np.corrcoef(true.argmax(1), taught.argmax(1))[0, 1]
    assert abs(correlation) < 0.15 and (taught.sum(1) == pytest.approx(1))
