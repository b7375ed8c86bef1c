"""Convolutions of one voxel while training: torch's values and gradients, by matrix products."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from VoCoCore.models.convolutions import (
    FlatConv3d,
    FlatTransposed3d,
    PointwiseConv3d,
    SingleConv3d,
    quick_convolutions,
    safe_convolutions,
)

LAST = torch.channels_last_3d


class Backward(TorchDispatchMode):
    """Counts backward passes of torch's own convolution."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += func.overloadpacket.__name__ == "convolution_backward"
        return func(*args, **(kwargs or {}))


def pair(channels=(12, 6), **options):
    torch.manual_seed(0)
    plain = nn.Conv3d(*channels, 1, **options)
    ours = nn.Conv3d(*channels, 1, **options)
    ours.load_state_dict(plain.state_dict())
    quick_convolutions(ours)
    return plain, ours


def gradients(network, x, weights):
    """The value, the gradient to the input and those to the parameters of a weighted sum."""
    x = x.detach().requires_grad_()
    out = network(x)
    return out, *torch.autograd.grad((out * weights).sum(), [x, *network.parameters()])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("channels", "bias"), [((12, 6), True), ((5, 1), False), ((1, 4), True)])
def test_values_and_gradients_are_torchs(channels, bias, count):
    plain, ours = pair(channels, bias=bias)
    assert type(ours) is PointwiseConv3d and ours.state_dict().keys() == plain.state_dict().keys()
    x = torch.rand(count, channels[0], 9, 8, 7).contiguous(memory_format=LAST)
    for weights in (torch.rand_like(plain(x)), torch.rand(count, channels[1], 9, 8, 7)):
        with Backward() as mode:
            found = gradients(ours, x, weights)
        assert mode.seen == 0 and found[1].is_contiguous(memory_format=LAST)
        for mine, other in zip(found, gradients(plain, x, weights), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_nothing_is_computed_for_what_is_not_trained():
    plain, ours = pair()
    x = torch.rand(2, 12, 4, 4, 4).contiguous(memory_format=LAST)
    ours.weight.requires_grad_(False)
    ours(x).sum().backward()
    plain(x).sum().backward()
    assert ours.weight.grad is None
    torch.testing.assert_close(ours.bias.grad, plain.bias.grad)


def test_other_maps_and_other_convolutions_are_left_to_torch():
    plain, ours = pair()
    for x in (torch.rand(2, 12, 4, 4, 4), torch.rand(12, 4, 4, 4)):
        torch.testing.assert_close(ours(x), plain(x))
    wide = torch.rand(2, 12, 4, 4, 4, dtype=torch.float64).contiguous(memory_format=LAST)
    torch.testing.assert_close(ours.double()(wide), plain.double()(wide))
    for options in ({"stride": 2}, {"padding": 1}, {"groups": 2}):
        _, other = pair(**options)
        assert type(other) is SingleConv3d


FLAT = {
    "plain": (lambda: nn.Conv3d(48, 48, 3, padding=1), (8, 48, 2, 2, 2)),
    "one voxel deep": (lambda: nn.Conv3d(12, 192, 3, padding=1), (2, 12, 1, 12, 8)),
    "steps of two": (lambda: nn.Conv3d(16, 12, 3, 2, 1), (2, 16, 4, 12, 2)),
    "steps as wide as the kernel": (lambda: nn.Conv3d(3, 14, 2, 2), (2, 3, 6, 4, 2)),
    "transposed": (lambda: nn.ConvTranspose3d(48, 24, 2, 2), (3, 48, 7, 12, 1)),
}


def spoil_memory():
    """Leave NaN in the memory that is given out next."""
    spoilt = [
        torch.full((1 << k,), float("nan"), dtype=torch.bfloat16) for k in range(7, 20) for _ in range(4)
    ]
    del spoilt


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("kind", FLAT)
def test_bf16_on_a_cpu_has_the_values_and_gradients_of_float64_where_maps_are_flat(kind, quick):
    """torch 2.13 leaves parts of them unwritten there, on one processor or another."""
    torch.manual_seed(0)
    make, shape = FLAT[kind]
    part = make()
    exact, x = copy.deepcopy(part).double(), torch.randn(shape).contiguous(memory_format=LAST)
    whole = nn.Sequential(part)
    (quick_convolutions if quick else safe_convolutions)(whole)
    wanted = exact(x.double())
    weights = torch.randn_like(wanted)
    wanted = wanted, *torch.autograd.grad((wanted * weights).sum(), list(exact.parameters()))
    for _ in range(6):
        spoil_memory()
        with torch.autocast("cpu", torch.bfloat16):
            found = whole(x.bfloat16())
        spoil_memory()
        found = found, *torch.autograd.grad((found.float() * weights.float()).sum(), list(whole.parameters()))
        for mine, other in zip(found, wanted, strict=True):
            assert (mine - other).norm() < 0.02 * other.norm()


def test_only_flat_maps_are_computed_in_float32():
    whole = nn.Sequential(nn.Conv3d(2, 4, 3, 2, 1), nn.ConvTranspose3d(4, 2, 2, 2))
    safe_convolutions(whole)
    assert [type(part) for part in whole] == [FlatConv3d, FlatTransposed3d]
    with torch.autocast("cpu", torch.bfloat16):
        assert whole(torch.rand(1, 2, 8, 8, 8)).dtype == torch.bfloat16
        assert whole[0](torch.rand(1, 2, 8, 8, 4)).dtype == torch.float32
        assert whole[1](torch.rand(1, 4, 8, 2, 8)).dtype == torch.float32
    assert whole(torch.rand(1, 2, 8, 8, 4)).dtype == torch.float32
