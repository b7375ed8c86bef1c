"""Pooling and projectors, against the same sums in numpy and the published names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from VoCoCore.errors import SettingsError
from VoCoCore.models.heads import MapProjector, Projector, pool_maps


def numbers(module):
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def test_pooling_is_the_mean_of_each_channel_side_by_side():
    maps = [torch.randn(2, 3, 4, 5, 6), torch.randn(2, 7, 1, 2, 3)]
    expected = np.concatenate([m.double().numpy().mean(axis=(2, 3, 4)) for m in maps], axis=1)
    np.testing.assert_allclose(pool_maps(maps).numpy(), expected, atol=1e-6)


def test_pooling_keeps_digits_that_half_precision_has_not():
    offset = torch.full((1, 1, 64, 64, 64), 1.0, dtype=torch.bfloat16)
    offset[..., 0] = 1.0078125  # the next number after 1 in bfloat16; the mean lies between the two
    pooled = pool_maps([offset])
    assert pooled.dtype == torch.float32
    assert pooled.item() == pytest.approx(1 + 0.0078125 / 64, rel=1e-6)
    assert pool_maps([torch.zeros(1, 2, 2, 2, 2, dtype=torch.float64)]).dtype == torch.float64


@pytest.mark.parametrize("norm", [True, False])
def test_projector_is_linear_norm_relu_twice_then_linear(norm):
    head = Projector(12, 16, norm=norm)
    x = np.random.default_rng(0).normal(size=(9, 12))
    w, h = numbers(head), x
    for layer in ("layer1", "layer2"):
        h = h @ w[f"{layer}.0.weight"].T + w[f"{layer}.0.bias"]
        if norm:  # biased variance over the crops of the batch
            h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)
        h = np.maximum(h, 0)
    h = h @ w["layer3.0.weight"].T + w["layer3.0.bias"]
    for mode in (head.train(), head.eval()):
        got = mode(torch.tensor(x, dtype=torch.float32)).detach().numpy()
        np.testing.assert_allclose(got, h, atol=2e-5)


@pytest.mark.parametrize(("layers", "widths"), [(1, [5]), (2, [8, 5]), (4, [8, 8, 8, 5])])
def test_number_and_widths_of_layers(layers, widths):
    head = Projector(6, 8, out_features=5, layers=layers)
    assert [m.out_features for m in head.modules() if isinstance(m, nn.Linear)] == widths
    assert head(torch.randn(3, 6)).shape == (3, 5)


@pytest.mark.parametrize(
    ("entry", "prefix", "features", "width"),
    [
        ("v1.proj_head", "proj_head.", 1152, 2048),
        ("v2.student_or_teacher_head.fs48", "", 1152, 1024),
        ("v2.student_or_teacher_head.fs192", "", 4608, 1024),
    ],
)
def test_projector_has_the_published_names_and_shapes(shared_data: Path, entry, prefix, features, width):
    facts = json.loads((shared_data / "reference" / "state_dicts.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        head = Projector(features, width)
    assert {prefix + k: list(v.shape) for k, v in head.state_dict().items()} == facts[entry]


def test_a_single_crop_is_refused_in_words_and_possible_without_norm():
    for mode in (Projector(4, 8).train(), Projector(4, 8).eval()):
        with pytest.raises(SettingsError, match="cannot project a single one"):
            mode(torch.randn(1, 4))
    assert Projector(4, 8, norm=False)(torch.randn(1, 4)).shape == (1, 8)
    assert Projector(4, 8, layers=1)(torch.randn(1, 4)).shape == (1, 8)
    with pytest.raises(SettingsError, match="at least one layer"):
        Projector(4, 8, layers=0)


def test_map_projector_projects_each_voxel_and_then_pools():
    head = MapProjector(3, 8, out_features=5)
    maps = np.random.default_rng(0).normal(size=(2, 3, 2, 3, 4))
    w = numbers(head)
    voxels = np.moveaxis(maps, 1, -1).reshape(2, -1, 3)
    hidden = np.maximum(voxels @ w["layer1.0.weight"].T + w["layer1.0.bias"], 0)
    expected = (hidden @ w["layer2.weight"].T + w["layer2.bias"]).mean(1)
    got = head(torch.tensor(maps, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)
