"""Convolutions of 3^3 voxels as processors with AVX2 alone get them: torch's values and gradients, on any processor."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from VoCoCore.models import convolutions, convolutions_avx2
from VoCoCore.models.convolutions import quick_convolutions
from VoCoCore.models.convolutions_avx2 import cubic, is_quicker

LAST = torch.channels_last_3d

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")


def cubic_part(inputs, outputs, bias=False, **options):
    return nn.Conv3d(inputs, outputs, 3, **{"padding": 1, "bias": bias, **options})


def maps(*shape):
    return torch.randn(shape).contiguous(memory_format=LAST)


def gradients(compute, x, weight, bias, weights):
    """The value, and the gradients of a weighted sum to the maps, the weight and the bias."""
    leaves = [part.detach().requires_grad_() for part in (x, weight, bias)]
    out = compute(*leaves)
    return out, *torch.autograd.grad((out * weights).sum(), leaves)


def torchs(x, weight, bias):
    return nn.functional.conv3d(x, weight, bias, padding=1)


def assert_as_in_float64(x, weight, bias):
    weights = torch.randn(len(x), len(weight), *x.shape[2:])
    exact = gradients(torchs, *(part.double() for part in (x, weight, bias, weights)))
    found = gradients(cubic, x, weight, bias, weights)
    for mine, other in zip(found, exact, strict=True):
        assert mine.dtype == torch.float32 and mine.shape == other.shape
        assert (mine - other).norm() <= 1e-6 * other.norm() + 1e-5


@given(
    inputs=st.sampled_from([1, 4, 12, 13, 24]),
    outputs=st.sampled_from([1, 4, 12, 17, 24]),
    edges=st.tuples(*[st.integers(1, 7)] * 3),
    count=st.integers(1, 3),
    planes=st.integers(0, 8),
    seed=st.integers(0, 2**31),
)
def test_values_and_gradients_are_those_of_float64(inputs, outputs, edges, count, planes, seed):
    """Whatever the channels, the edges, and the planes whose products are one."""
    torch.manual_seed(seed)
    x, weight, bias = maps(count, inputs, *edges), torch.randn(outputs, inputs, 3, 3, 3), torch.randn(outputs)
    with pytest.MonkeyPatch.context() as patch:
        read, added = edges[1] * edges[2] * 3 * (inputs + outputs), inputs * outputs * 27
        room = planes * max(read, added) * 4
        patch.setattr(convolutions_avx2, "_BYTES", room)
        assert_as_in_float64(x, weight, bias)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_will_do(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_as_in_float64(maps(2, 24, 10, 9, 8), torch.randn(12, 24, 3, 3, 3), torch.randn(12))
    finally:
        torch.set_num_threads(before)


def test_maps_and_gradients_stay_in_channels_last_order():
    """So that the next layer need not turn them round."""
    x = maps(2, 24, 8, 8, 8).requires_grad_()
    out = cubic(x, torch.randn(12, 24, 3, 3, 3), None)
    out.backward(torch.randn(out.shape))
    assert out.is_contiguous(memory_format=LAST) and x.grad.is_contiguous(memory_format=LAST)


def test_what_is_not_trained_costs_nothing():
    x, weight = maps(2, 12, 6, 6, 6).requires_grad_(), torch.randn(12, 12, 3, 3, 3)
    cubic(x, weight, None).sum().backward()
    assert x.grad is not None and weight.grad is None
    weight.requires_grad_()
    cubic(x.detach(), weight, None).sum().backward()
    assert weight.grad.shape == weight.shape


class Taken(Exception):
    """The way of AVX2 was taken."""


def takes_the_way(part, x):
    """Whether a convolution within a network goes that way where the processor has AVX2 alone."""

    def noticed(*_):
        raise Taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolutions, "has_avx2_alone", lambda: True)
        patch.setattr(convolutions, "cubic", noticed)
        try:
            part(x)
        except Taken:
            return True
        return False


def test_only_dense_convolutions_of_cubes_of_three_go_that_way():
    def way(part, x=None):
        quick_convolutions(whole := nn.Sequential(part))
        return takes_the_way(whole, maps(2, part.in_channels, 6, 6, 6) if x is None else x)

    assert way(cubic_part(12, 12)) and way(cubic_part(24, 48, bias=True)) and way(cubic_part(1, 12))
    assert way(cubic_part(12, 12), maps(1, 12, 6, 6, 6)), "a single crop too"
    for options in (
        {"stride": 2},
        {"dilation": 2, "padding": 2},
        {"groups": 2},
        {"padding": 0},
        {"padding": "same"},
        {"padding_mode": "reflect"},
    ):
        assert not way(cubic_part(12, 12, **options)), options
    assert not way(nn.Conv3d(12, 12, (3, 3, 1), padding=(1, 1, 0)))
    assert not is_quicker(cubic_part(8, 16)) and not is_quicker(cubic_part(192, 256))
    for other in (maps(2, 12, 6, 6, 6).contiguous(), torch.randn(12, 6, 6, 6), maps(2, 12, 6, 6, 6).double()):
        part = cubic_part(12, 12).to(other.dtype)
        assert not way(part, other)
    with torch.autocast("cpu", torch.bfloat16):
        assert not way(cubic_part(12, 12))


def test_a_network_trains_alike_on_either_way(monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(
        cubic_part(1, 12), nn.LeakyReLU(), cubic_part(12, 24), cubic_part(24, 12, bias=True)
    )
    quick_convolutions(network)
    network.to(memory_format=LAST)
    x, found = maps(2, 1, 8, 8, 8), []
    for alone in (True, False):
        monkeypatch.setattr(convolutions, "has_avx2_alone", lambda alone=alone: alone)
        trained = copy.deepcopy(network)
        optimiser = torch.optim.SGD(trained.parameters(), 1e-3)
        for _ in range(3):
            optimiser.zero_grad()
            trained(x).square().mean().backward()
            optimiser.step()
        found.append(trained.state_dict())
    for name, weight in found[0].items():
        torch.testing.assert_close(weight, found[1][name], rtol=1e-4, atol=1e-6)
