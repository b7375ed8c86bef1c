"""Instance norm in channels-last order against torch's, in values, gradients and what it does to the order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from VoCoCore.devices import Machine
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.networks import SegmentationNetwork
from VoCoCore.models.norms import LastNorm3d, norms_in_place_of
from VoCoCore.models.placing import placed

LAST = torch.channels_last_3d


def pair(channels, affine):
    """torch's norm in float64 and ours in float32 with the same weights."""
    torch.manual_seed(0)
    plain = nn.InstanceNorm3d(channels, affine=affine).double()
    for parameter in plain.parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    ours = nn.InstanceNorm3d(channels, affine=affine)
    ours.load_state_dict(plain.state_dict())
    norms_in_place_of(ours)
    return plain, ours


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(2, 12, 16, 16, 8), (1, 5, 7, 5, 3), (3, 1, 4, 4, 4), (2, 70, 2, 2, 2)])
def test_values_and_gradients_are_torchs(shape, affine):
    """Far from zero, where squares lose digits: the reference is computed in float64."""
    plain, ours = pair(shape[1], affine)
    assert type(ours) is LastNorm3d
    x = (torch.randn(shape) * 2 + 30).contiguous(memory_format=LAST).requires_grad_()
    y, weights = x.detach().double().requires_grad_(), torch.randn(shape)
    (ours(x) * weights).sum().backward()
    (plain(y) * weights).sum().backward()
    assert ours(x).is_contiguous(memory_format=LAST) and x.grad.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(ours(x), plain(y).float(), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(x.grad, y.grad.float(), atol=2e-5, rtol=1e-5)
    for mine, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad.float(), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "shape", [(2, 12, 64, 32, 16), (1, 5, 7, 5, 3), (18, 3, 4, 4, 4), (2, 70, 2, 2, 2), (3, 12, 34, 33, 32)]
)
def test_bf16_is_rounded_once_on_the_way_in_and_once_on_the_way_out(shape, affine):
    """In pieces of one crop and in pieces of several; beside float64 of the same rounded numbers."""
    plain, ours = pair(shape[1], affine)
    x = (torch.randn(shape) * 2 + 30).bfloat16().contiguous(memory_format=LAST).requires_grad_()
    y, weights = x.detach().double().requires_grad_(), torch.randn(shape).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(x)
    found.backward(weights)
    wanted = plain(y)
    wanted.backward(weights.double())
    assert found.is_contiguous(memory_format=LAST) and x.grad.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(found, wanted.bfloat16(), atol=1e-3, rtol=2**-7)
    torch.testing.assert_close(x.grad, y.grad.bfloat16(), atol=1e-3, rtol=2**-7)
    for mine, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad.float(), atol=1e-3, rtol=1e-4)


def test_other_maps_are_left_to_torch():
    norm = nn.InstanceNorm3d(3)
    norms_in_place_of(norm)
    for x in (
        torch.randn(2, 3, 4, 4, 4),
        torch.randn(2, 3, 4, 4, 4, dtype=torch.float64),
        torch.randn(3, 4, 4, 4),
    ):
        torch.testing.assert_close(norm(x), nn.InstanceNorm3d(3)(x))
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        norm(torch.randn(2, 3, 1, 1, 1))


def test_a_placed_network_trains_without_torchs_norm():
    torch.manual_seed(0)
    network = placed(
        SegmentationNetwork(build_encoder("unet", 1, 4, 32), 3), Machine(torch.device("cpu"), "fp32", "")
    )
    with torch.profiler.profile() as seen:
        network.train()(torch.rand(2, 1, 32, 32, 32)).sum().backward()
    names = {event.key for event in seen.key_averages()}
    assert "_Norm" in names and "_NormBackward" in names
    assert not any("batch_norm" in name for name in names)
