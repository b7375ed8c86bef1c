"""Encoders: the same maps as MONAI's own networks, the published names, and what training asks of them."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from monai.networks.nets import UNETR, DynUNet, SwinUNETR
from monai.networks.nets.swin_unetr import WindowAttention

from VoCoCore.errors import SettingsError
from VoCoCore.models import attention
from VoCoCore.models.encoders import ENCODERS, build_encoder
from VoCoCore.models.heads import pool_maps
from VoCoCore.settings import ENCODER_LIMITS

SMALLEST = {name: low for name, (low, _) in ENCODER_LIMITS.items()}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def build(name, **options):
    return build_encoder(name, **{"feature_size": 12, "input_size": SMALLEST[name], **options})


def crops(name, channels=1):
    return torch.randn(1, channels, *[SMALLEST[name]] * 3)


def weighted_sum(maps):
    """A scalar to which every channel of every map contributes differently."""
    return sum((m * torch.linspace(-1, 1, m.shape[1]).view(-1, 1, 1, 1)).square().mean() for m in maps)


@pytest.fixture(scope="module", params=list(ENCODERS))
def passed(request):
    """An encoder, an input, its maps, and the gradients of one backward pass in the parameters."""
    torch.manual_seed(0)
    encoder, x = build(request.param), crops(request.param)
    maps = encoder(x)
    weighted_sum(maps).backward()
    return encoder, x, [m.detach() for m in maps]


def assert_equal_gradients(encoder, other):
    for key, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            difference = (other.get_parameter(key).grad - parameter.grad).norm()
            assert difference <= 1e-4 * parameter.grad.norm(), key


def test_maps_have_the_promised_channels_and_strides_at_the_smallest_input(passed):
    encoder, x, maps = passed
    assert len(maps) == len(encoder.channels) == len(encoder.strides) == 5
    for got, channels, stride in zip(maps, encoder.channels, encoder.strides, strict=True):
        assert got.shape == (1, channels, *[x.shape[-1] // stride] * 3)
        assert got.isfinite().all() and got.std() > 0
    assert maps[-1][0, 0].numel() > 1, "instance norm needs more than one voxel"


def test_every_trainable_weight_has_a_gradient(passed):
    trainable = [(k, p) for k, p in passed[0].named_parameters() if p.requires_grad]
    assert not [k for k, p in trainable if p.grad is None or not p.grad.any()]


def test_checkpointing_changes_neither_maps_nor_gradients(passed):
    encoder, x, maps = passed
    frugal = build(encoder.name, checkpointing=True)
    frugal.load_state_dict(encoder.state_dict())
    again = frugal(x)
    for got, expected in zip(again, maps, strict=True):
        torch.testing.assert_close(got, expected)
    weighted_sum(again).backward()
    assert_equal_gradients(encoder, frugal)


def test_low_precision_memory_format_and_copies(passed):
    encoder, x, maps = passed
    teacher = copy.deepcopy(encoder).to(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        other = pool_maps(teacher(x.to(memory_format=torch.channels_last_3d)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = pool_maps(encoder(x))
    torch.testing.assert_close(other, pool_maps(maps), rtol=1e-3, atol=1e-4)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, pool_maps(maps), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", ENCODERS)
def test_several_input_channels(name):
    encoder = build(name, in_channels=3)
    seeing_input = [encoder.get_parameter(key).shape[1] for key in encoder.stem]
    assert seeing_input == [3] * len(encoder.stem)
    if name != "swin_unetr":  # the slow one
        assert encoder(crops(name, channels=3))[0].shape[1] == 12


@pytest.mark.parametrize("name", ["unetr", "unet"])
def test_edges_may_differ(name):
    encoder = build(name, input_size=(32, 48, 64))
    last = encoder(torch.randn(1, 1, 32, 48, 64))[-1]
    assert last.shape[2:] == (2, 3, 4)


@pytest.mark.parametrize("passed", ["swin_unetr"], indirect=True)
def test_swin_is_monais_encoder_value_for_value(passed):
    encoder, x, maps = passed
    monai = SwinUNETR(in_channels=1, out_channels=2, feature_size=12, use_v2=True)
    monai.load_state_dict(encoder.state_dict(), strict=False)
    hidden = monai.swinViT(x, monai.normalize)
    blocks = (monai.encoder1, monai.encoder2, monai.encoder3, monai.encoder4, monai.encoder10)
    inputs = (x, hidden[0], hidden[1], hidden[2], hidden[4])
    expected = [block(part) for block, part in zip(blocks, inputs, strict=True)]
    for got, reference in zip(maps, expected, strict=True):
        torch.testing.assert_close(got, reference, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pool_maps(maps), pool_maps(expected), rtol=1e-4, atol=1e-5)
    weighted_sum(expected).backward()
    assert_equal_gradients(encoder, monai)


def test_unetr_is_monais_encoder_value_for_value():
    size = (32, 48, 32)
    monai = UNETR(1, 2, size, feature_size=12, hidden_size=192, mlp_dim=768, num_heads=3)
    encoder = build("unetr", input_size=size)
    encoder.load_state_dict(monai.state_dict(), strict=False)
    x = torch.randn(1, 1, *size)
    last, hidden = monai.vit(x)
    blocks = ((monai.encoder2, 3), (monai.encoder3, 6), (monai.encoder4, 9))
    expected = [monai.encoder1(x), *(block(monai.proj_feat(hidden[i])) for block, i in blocks)]
    for got, reference in zip(encoder(x), [*expected, monai.proj_feat(last)], strict=True):
        torch.testing.assert_close(got, reference)


def test_unet_is_the_encoder_of_dynunet():
    monai = DynUNet(3, 1, 2, [3] * 5, [1, 2, 2, 2, 2], [2] * 4, filters=[12, 24, 48, 96, 192])
    encoder = build("unet")
    assert set(encoder.state_dict()) <= set(monai.state_dict())
    encoder.load_state_dict(monai.state_dict(), strict=False)
    expected = []
    for block in (monai.input_block, *monai.downsamples, monai.bottleneck):
        block.register_forward_hook(lambda _, __, out: expected.append(out))
    x = crops("unet")
    monai(x)
    for got, reference in zip(encoder(x), expected, strict=True):
        torch.testing.assert_close(got, reference)


@pytest.mark.parametrize("feature_size", [48, 96, 192])
def test_swin_has_exactly_the_published_names_and_shapes(shared_data: Path, monkeypatch, feature_size: int):
    facts = json.loads((shared_data / "reference" / "state_dicts.json").read_text(encoding="utf-8"))
    # MONAI reads numbers from a linspace while it builds: it must hold some, even where the rest is meta.
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        encoder = build("swin_unetr", feature_size=feature_size)
    published = facts[f"backbone.fs{feature_size}"]
    ours = {name: list(tensor.shape) for name, tensor in encoder.state_dict().items()}
    assert ours == published
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count == facts[f"v2.n_params.fs{feature_size}"]["backbone"]


# Pieces of one window, of some kinds of one crop, of all kinds of several crops; tokens and channels of a head that are
# filled up (27 and 4), or are not.
@pytest.mark.parametrize("together", [1, 5, 17])
@pytest.mark.parametrize(("edge", "channels"), [(3, 4), (4, 16), (2, 20)])
@pytest.mark.parametrize("shifted", [False, True])
def test_attention_in_pieces_is_the_plain_formula(monkeypatch, shifted, edge, channels, together):
    tokens, width = edge**3, 2 * channels
    monkeypatch.setattr(attention, "_CACHE_BYTES", together * 2 * tokens * tokens * 8)
    plain = WindowAttention(width, 2, (edge,) * 3, qkv_bias=True).double()
    pieces = copy.deepcopy(plain)
    attention.save_attention_memory(pieces)
    mask = torch.where(torch.rand(8, tokens, tokens) < 0.3, -100.0, 0.0).double() if shifted else None
    inputs = [torch.randn(24, tokens, width, dtype=torch.float64).requires_grad_() for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    outputs = [plain(inputs[0], mask), pieces(inputs[1], mask)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-10, atol=1e-12)
    for out in outputs:
        (out * torch.linspace(-1, 1, width, dtype=torch.float64)).square().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-10, atol=1e-12)
    for (key, a), b in zip(plain.named_parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-9, atol=1e-11, msg=key)


def test_attention_in_pieces_trains_in_low_precision():
    module = WindowAttention(8, 2, (3, 3, 3), qkv_bias=True)
    attention.save_attention_memory(module)
    x = torch.randn(4, 27, 8)
    gradients = []
    for low in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            loss = module(x, None).float().square().sum()
        gradients.append(torch.autograd.grad(loss, list(module.parameters())))
    for exact, rough in zip(*gradients, strict=True):
        assert rough.dtype == torch.float32
        assert (rough - exact).norm() < 0.05 * exact.norm() + 1e-3


def test_compiling_keeps_the_maps():
    encoder = build("unet").eval()
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    x = crops("unet")
    for got, expected in zip(compiled(x), encoder(x), strict=True):
        torch.testing.assert_close(got, expected)


def test_unetr_refuses_crops_of_another_size():
    with pytest.raises(SettingsError, match=r"32, 32, 32.*48, 32, 32"):
        build("unetr")(torch.zeros(1, 1, 48, 32, 32))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "swin_unet"}, "Did you mean 'swin_unetr'"),
        ({"name": "swin_unetr", "input_size": 32}, "multiples of 32, at least 64"),
        ({"name": "unet", "input_size": (32, 32, 40)}, "multiples of 16"),
        ({"name": "unet", "input_size": (32, 32)}, "three multiples"),
        ({"name": "swin_unetr", "feature_size": 50}, "multiple of 12, for example 48 or 60"),
        ({"name": "swin_unetr", "feature_size": 4}, "for example 12 or 24"),
        ({"name": "unetr", "feature_size": 10}, "multiple of 4"),
        ({"name": "unet", "feature_size": 0}, "feature size"),
        ({"name": "unet", "in_channels": 0}, "at least one input channel"),
    ],
)
def test_what_cannot_be_built_is_said_with_what_can(options, words):
    with pytest.raises(SettingsError, match=words):
        build_encoder(**options)
