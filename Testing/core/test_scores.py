"""Counts and scores of fine-tuning against plain loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from VoCoCore.downstream import scores

SEEDS = st.integers(0, 2**31)


@given(SEEDS, st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_overlap_of_classes(seed, classes):
    rng = np.random.default_rng(seed)
    predicted, target = rng.integers(0, classes, (2, 3, 4)), rng.integers(-1, classes, (2, 3, 4))
    counts = scores.confusion_counts(torch.from_numpy(predicted), torch.from_numpy(target), classes)
    assert counts.dtype == torch.int64
    kept = target >= 0
    expected = [
        [
            np.sum((predicted == k) & (target == k)),
            np.sum((predicted == k) & kept),
            np.sum(target == k),
        ]
        for k in range(classes)
    ]
    assert counts.T.tolist() == np.array(expected).tolist()
    found = scores.dice(counts)
    for k, (both, one, other) in enumerate(expected):
        if one + other:
            assert found[k].item() == pytest.approx(2 * both / (one + other))
        else:
            assert torch.isnan(found[k])


def test_counts_of_crops_add_up_to_those_of_the_whole():
    rng = torch.Generator().manual_seed(0)
    predicted = torch.randint(0, 3, (4, 5, 5), generator=rng).byte()
    target = torch.randint(0, 3, (4, 5, 5), generator=rng).short()
    whole = scores.confusion_counts(predicted, target, 3)
    parts = [scores.confusion_counts(p, t, 3) for p, t in zip(predicted, target, strict=True)]
    assert torch.equal(sum(parts), whole)
    assert torch.equal(scores.dice(torch.stack(parts)).isnan(), torch.zeros(4, 3, dtype=torch.bool))
    assert scores.dice(scores.confusion_counts(target, target, 3)).tolist() == [1, 1, 1]


def test_overlap_of_regions():
    rng = np.random.default_rng(0)
    p, t, valid = (
        rng.random((2, 3, 4, 4, 4)) < 0.4,
        rng.random((2, 3, 4, 4, 4)) < 0.4,
        rng.random((2, 4, 4, 4)) < 0.7,
    )
    for kept in (None, valid):
        got = scores.region_counts(
            *map(torch.from_numpy, (p, t)), None if kept is None else torch.from_numpy(kept)
        )
        for k in range(3):
            a, b = (x[:, k] if kept is None else x[:, k][kept] for x in (p, t))
            assert got[:, k].tolist() == [(a & b).sum(), a.sum(), b.sum()]


@given(SEEDS, st.integers(1, 30), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_auroc_is_the_share_of_pairs_in_order(seed, count, levels):
    rng = np.random.default_rng(seed)
    values, positive = rng.integers(0, levels, count) / 7, rng.random(count) < 0.5
    pairs = [
        float(a > b) + (a == b) / 2 for a in values[positive] for b in values[~positive]
    ]  # few levels: many ties
    found = scores.auroc(values, positive)
    assert (np.isnan(found) and not pairs) or found == pytest.approx(np.mean(pairs))


def test_ranks_share_their_mean():
    assert scores.ranks([3, 1, 3, 2, 3]).tolist() == [4, 1, 4, 2, 4]
    assert scores.ranks([0.5, 0.5]).tolist() == [1.5, 1.5]


def test_scores_of_a_diagnosis():
    p = [[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]]
    target = [0, 0, 0, 1, 1]
    found = scores.diagnosis_scores(p, target)
    assert found["confusion"] == [[2, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert found["accuracy"] == pytest.approx(4 / 5)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    # class 0: 0.7, 0.2, 0.6 against 0.1, 0.3 -> 5 of 6; class 1: 0.8, 0.4 against 0.2, 0.5, 0.3 -> 5 of 6
    assert found["auroc_per_class"][:2] == pytest.approx([5 / 6, 5 / 6])
    assert np.isnan(found["auroc_per_class"][2])
    assert found["auroc"] == pytest.approx(5 / 6)
    json.dumps(found)


def test_without_cases_nothing_is_defined():
    found = scores.diagnosis_scores(np.zeros((0, 2)), np.zeros(0, int))
    assert np.isnan([found["accuracy"], found["balanced_accuracy"], found["auroc"]]).all()
    assert found["confusion"] == [[0, 0], [0, 0]]
