"""From the prepared grid back to the source's: values between voxels, and which voxels have one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from test_predict import CPU, Threshold, blobs, card

from VoCoCore.data.plan import Plan, plan_case
from VoCoCore.inference.predict import Predictor
from VoCoCore.inference.restore import planes, to_source
from VoCoCore.models.card import OutputClass
from VoCoCore.models.networks import build_network
from VoCoCore.settings import PrepareSettings

shapes = st.tuples(*[st.integers(2, 12)] * 3)
steps = st.tuples(*[st.sampled_from([0.4, 0.77, 1.0, 1.5, 2.3])] * 3)


def plan_of(shape: tuple[int, int, int], step: tuple[float, float, float], share: float) -> Plan:
    """A plan that resamples by ``step`` and cuts a box of about ``share`` of each axis."""
    image = np.zeros((1, *shape), np.float32)
    image[0, 0, 0, 0] = 1.0
    plan = plan_case(
        image, np.eye(4), PrepareSettings(intensity="none", foreground=0.0, fit="pad"), (1, 1, 1)
    )
    spaced = [max(1, round((n - 1) / s + 1)) for n, s in zip(shape, step, strict=True)]
    start = [int(n * (1 - share) / 2) for n in spaced]
    size = [max(1, int(n * share)) for n in spaced]
    facts = {"size": size, "padded": size, "resized": size, "shape": size, "start": start, "step": step}
    return replace(plan, **{name: tuple(value) for name, value in facts.items()})


@settings(deadline=None, max_examples=80)
@given(shapes, steps, st.sampled_from([1.0, 0.6]), st.sampled_from([0, 1, 2]), st.integers(1, 5))
def test_values_are_those_of_linear_interpolation(shape, step, share, axis, thick):
    plan = plan_of(shape, step, share)
    values = torch.rand(2, *plan.size, generator=torch.Generator().manual_seed(0))
    places = [np.arange(n) / s - first for n, s, first in zip(shape, step, plan.start, strict=True)]
    inside = [(p >= -0.5) & (p < n - 0.5) | (share == 1) for p, n in zip(places, plan.size, strict=True)]
    grid = np.meshgrid(*(np.clip(p, 0, n - 1) for p, n in zip(places, plan.size, strict=True)), indexing="ij")
    expected = np.stack([map_coordinates(one.numpy(), grid, order=1, mode="nearest") for one in values])
    expected[:, ~(inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None, :])] = -1

    def pieces():
        for first in range(0, plan.size[axis], thick):
            piece = values.narrow(axis + 1, first, min(thick, plan.size[axis] - first)).clone()
            yield first, piece
            piece.fill_(torch.nan)  # a piece is valid until the next is asked for

    found = np.full((2, *shape), -1.0)
    seen = []
    for at, rows, columns, plane in planes(pieces(), plan, axis):
        seen.append(at)
        np.moveaxis(found, axis + 1, 1)[:, at, slice(*rows), slice(*columns)] = plane
    assert seen == sorted(set(seen))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@given(shapes, st.permutations([0, 1, 2]), st.sets(st.sampled_from([0, 1, 2])))
def test_turning_back_undoes_turning(shape, order, flips):
    plan = replace(plan_of((3, 4, 5), (1.0, 1.0, 1.0), 1.0), order=tuple(order), flips=tuple(sorted(flips)))
    volume = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(to_source(plan.oriented(volume), plan), volume)


def test_a_long_volume_of_many_windows_is_led_back_whole():
    """Several groups of windows and another spacing: planes at the seams are between two pieces."""
    image = blobs((40, 36, 150))
    made = Predictor([(Threshold(), card(prepare={"spacing": (1.0, 1.0, 1.3)}))], CPU, overlap=0.25, batch=2)
    found = made.segment(image[None], np.eye(4))
    places = np.arange(0, 150, 1.3)[: made.plan(image[None], np.eye(4)).size[2]]
    grid = np.meshgrid(np.arange(40), np.arange(36), places, indexing="ij")
    coarse = map_coordinates(image.astype(float), grid, order=1, mode="nearest")
    back = np.meshgrid(
        np.arange(40), np.arange(36), np.clip(np.arange(150) / 1.3, 0, len(places) - 1), indexing="ij"
    )
    value = map_coordinates(coarse, back, order=1, mode="nearest")
    sure = np.abs(value - 0.5) > 1e-4
    np.testing.assert_array_equal(found[sure], np.where(value > 0.5, 3, 0)[sure])


@pytest.mark.parametrize(
    ("size", "old", "new"), [(64, 0.75, 1.5), (48, 1.0, 2.0), (36, 0.5, 1.0), (41, 0.8, 1.3)]
)
def test_the_last_plane_of_a_volume_is_predicted_however_its_size_rounds(size, old, new):
    """A coarser grid may end half a voxel before the source's last voxel: 64 planes of 0.75 mm at 1.5 mm."""
    image = np.ones((1, size, size, size), np.float32)
    image[0, 1, 1, 1] = 0
    made = Predictor([(everywhere(), card(prepare={"spacing": (new,) * 3}))], CPU)
    for affine in (np.diag([old, old, old, 1.0]), np.diag([-old, -old, -old, 1.0])):
        assert (made.segment(image, affine) == 3).all()


def test_voxels_half_a_voxel_beyond_a_cropped_box_stay_background():
    image = np.zeros((1, 64, 64, 64), np.float32)
    image[0, 8:33, 8:33, 8:33] = 1.0  # at 2 mm planes 4 to 16, the last of which is plane 32
    found = Predictor([(everywhere(), card(prepare={"spacing": (2.0,) * 3}))], CPU).segment(image, np.eye(4))
    assert (np.argwhere(found == 3).max(axis=0) == 32).all()


def everywhere() -> Threshold:
    """A network that answers class 1 at every voxel."""
    network = Threshold()
    with torch.no_grad():
        network.convolution.weight.zero_()
        network.convolution.bias.copy_(torch.tensor([-1.0, 1.0]))
    return network


def test_smaller_regions_are_written_last_in_whatever_order_they_are_listed():
    regions = (OutputClass("core", (1, 4), (2, 2, 2)), OutputClass("whole", (1, 2, 4), (1, 1, 1)))
    network = Threshold(outputs=2)
    with torch.no_grad():
        network.convolution.weight.fill_(10.0)
        network.convolution.bias.copy_(torch.tensor([-7.0, -3.0]))
    image = blobs((33, 34, 35))
    made = Predictor([(network, card(classes=regions, activation="sigmoid"))], CPU)
    expected = np.where(image > 0.7, 1, np.where(image > 0.3, 2, 0))
    np.testing.assert_array_equal(made.segment(image[None], np.eye(4)), expected)


def test_several_networks_and_views_give_a_mean_and_no_sum():
    kinds = (OutputClass("well", (0,), (0, 0, 0)), OutputClass("sick", (1,), (9, 9, 9)))
    made = card(task="classification", classes=kinds, prepare={"fit": "resize"})
    torch.manual_seed(0)
    networks = [(build_network(made).eval(), made) for _ in range(2)]
    image = blobs((33, 33, 33))[None]
    one, two = (Predictor([each], CPU).classify(image, np.eye(4)) for each in networks)
    both = Predictor(networks, CPU).classify(image, np.eye(4))
    logits = (np.log(one) + np.log(two)) / 2
    np.testing.assert_allclose(both, np.exp(logits) / np.exp(logits).sum(), atol=1e-5)
    np.testing.assert_allclose(Predictor(networks[:1] * 3, CPU).classify(image, np.eye(4)), one, atol=1e-5)
