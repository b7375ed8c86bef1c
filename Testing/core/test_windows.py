"""Sliding windows beside MONAI's, in pieces, with little memory; and the quicker copy of a network."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from VoCoCore.devices import Machine, multiplies_bf16
from VoCoCore.errors import EnvironmentFault, SettingsError
from VoCoCore.inference import sums
from VoCoCore.inference.swift import swift
from VoCoCore.inference.tiling import importance, tile
from VoCoCore.inference.windows import slabs, slide
from VoCoCore.models.card import ModelCard, OutputClass
from VoCoCore.models.networks import build_network

CPU = torch.device("cpu")
edges = st.tuples(*[st.integers(4, 26)] * 3)
windows = st.tuples(*[st.sampled_from([4, 8, 10, 16])] * 3)
overlaps = st.one_of(st.sampled_from([0, 0.25, 0.5, 0.75]), st.tuples(*[st.floats(0, 0.9)] * 3))


def network(x: Tensor) -> Tensor:
    """Depends on the place in a window and on all of its voxels, as a network with instance norm does."""
    ramp = torch.linspace(-1, 1, x.shape[-1])
    mean = x.mean((1, 2, 3, 4), keepdim=True)
    return torch.cat([x, x[:, :1] * ramp, x[:, :1] - 3 * mean], 1)


def joined(pieces: object, shape: tuple[int, ...], axis: int) -> Tensor:
    """All pieces in their places; every plane must come once, in order."""
    out, at = torch.full(shape, torch.nan), 0
    for plane, piece in pieces:  # type: ignore[attr-defined]
        assert plane == at
        at += piece.shape[axis + 1]
        out.narrow(axis + 1, plane, piece.shape[axis + 1]).copy_(piece)
    assert at == shape[axis + 1]
    return out


@settings(deadline=None, max_examples=60)
@given(
    shape=edges,
    window=windows,
    overlap=overlaps,
    blend=st.sampled_from(["gaussian", "constant"]),
    batch=st.integers(1, 7),
)
def test_it_agrees_with_monai(shape, window, overlap, blend, batch):
    volume = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
    expected = sliding_window_inference(volume[None], window, 3, network, overlap, blend)[0]
    found = slide(volume, network, window, overlap, batch=batch, blend=blend)
    assert found.shape == expected.shape and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    pieces = slabs(volume.numpy(), network, window, overlap, batch=batch, blend=blend)
    again = joined(pieces, tuple(expected.shape), tile(shape, window, overlap).axis)
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-5)


@given(size=st.integers(1, 300), width=st.integers(1, 96), overlap=st.floats(0, 0.99))
def test_windows_cover_each_voxel_and_stay_inside(size, width, overlap):
    tiling = tile((size, 8, 8), (width, 8, 8), overlap)
    starts = tiling.starts[0]
    covered = np.zeros(max(size, width), bool)
    for start in starts:
        assert start >= 0 and start + width <= len(covered)
        covered[start : start + width] = True
    assert covered.all() and list(starts) == sorted(set(starts))
    assert len(tiling) == len(starts) and tiling.before == ((len(covered) - size) // 2, 0, 0)


@pytest.mark.parametrize("window", [(8, 8, 8), (32, 32, 32), (96, 64, 17)])
@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_weights_are_monais(window, blend):
    assert torch.equal(importance(window, blend), compute_importance_map(window, mode=blend))


def test_overlap_and_blend_are_checked():
    for overlap in (1.0, -0.1, (0.5, 0.5)):
        with pytest.raises(SettingsError, match="overlap"):
            tile((8, 8, 8), (4, 4, 4), overlap)
    with pytest.raises(SettingsError, match="gauss"):
        importance((4, 4, 4), "gauss")


class Small:
    """A device that can take ``most`` windows at a time; keeps the sizes of the batches that it took."""

    def __init__(self, most: int) -> None:
        self.most, self.took = most, []

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        self.took.append(len(x))
        return network(x)


def test_out_of_memory_makes_batches_smaller_and_changes_nothing():
    volume, said = torch.rand(1, 24, 20, 40), []
    device = Small(3)
    found = slide(volume, device, (8, 8, 8), batch=16, say=said.append)
    assert torch.equal(found, slide(volume, network, (8, 8, 8)))
    assert said == [f"out of memory: windows are now predicted {n} at a time" for n in (8, 4, 2)]
    assert sum(device.took) == len(tile((24, 20, 40), (8, 8, 8))), "no window is added twice or left out"


def test_one_window_too_many_is_an_error_that_says_so():
    with pytest.raises(EnvironmentFault, match="one window of 8 x 8 x 8") as met:
        slide(torch.rand(1, 16, 16, 16), Small(0), (8, 8, 8), batch=4)
    assert "--device cpu" in met.value.hint


def test_other_errors_of_a_network_come_through():
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        slide(torch.rand(1, 16, 16, 16), broken, (8, 8, 8))


@pytest.mark.parametrize("last", [False, True])
def test_sums_that_do_not_fit_the_memory_go_to_a_file(last, monkeypatch, tmp_path):
    def predict(x: Tensor) -> Tensor:
        return network(x).contiguous(memory_format=torch.channels_last_3d) if last else network(x)

    volume, said, shape = torch.rand(2, 20, 20, 50), [], (4, 20, 20, 50)
    expected = joined(slabs(volume, predict, (8, 8, 8)), shape, 2)
    monkeypatch.setattr(sums, "free_memory", lambda: 1000.0)
    abandoned = slabs(volume, predict, (8, 8, 8), scratch=tmp_path)
    held = next(abandoned)
    assert os.name == "nt" or not list(tmp_path.iterdir()), "the file has no name: it goes, whatever happens"
    abandoned.close()
    del held
    assert not list(tmp_path.iterdir())
    pieces = slabs(volume, predict, (8, 8, 8), say=said.append, scratch=tmp_path)
    assert torch.equal(joined(pieces, shape, 2), expected)
    assert not list(tmp_path.iterdir())
    assert len(said) == 1 and "do not fit the memory: kept in a file" in said[0]


def test_sums_leave_the_memory_when_the_network_needs_it(tmp_path):
    """Windows are added, then memory is short for the network itself: the sums move, and it goes on."""
    calls: list[int] = []

    def predict(x: Tensor) -> Tensor:
        calls.append(len(x))
        if len(calls) == 14:  # in the second layer, when parts of the first are still wanted
            raise MemoryError
        return network(x)

    volume = torch.rand(1, 16, 16, 40)
    pieces = slabs(volume, predict, (8, 8, 8), batch=1, scratch=tmp_path)
    expected = slabs(volume, network, (8, 8, 8), batch=1)
    assert torch.equal(joined(pieces, (3, 16, 16, 40), 2), joined(expected, (3, 16, 16, 40), 2))
    assert len(calls) == len(tile((16, 16, 40), (8, 8, 8))) + 1


def test_a_disk_without_room_for_the_sums_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(sums, "free_memory", lambda: 0.0)
    monkeypatch.setattr(sums.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(EnvironmentFault, match="more than the memory and the 1 kB"):
        slide(torch.rand(1, 16, 16, 16), network, (8, 8, 8), scratch=tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_the_planes_in_work_are_held():
    """Along the longest axis no more is held than a window's width, however long the volume is."""
    held = []
    kept = sums.Sums._allocate

    def look(self: sums.Sums, *given: object) -> None:
        kept(self, *given)  # type: ignore[arg-type]
        held.append(self.totals.numel())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums.Sums, "_allocate", look)
        for _ in slabs(torch.rand(1, 16, 200, 16), network, (8, 8, 8), 0.5, batch=1):
            pass
    assert held == [3 * 16 * 8 * 16]


def card(encoder: str, feature_size: int, edge: int) -> ModelCard:
    kinds = tuple(OutputClass(f"organ {n}", (n,), (0, 0, 0)) for n in range(3))
    return ModelCard("segmentation", encoder, feature_size, (edge,) * 3, kinds, "softmax", {})


@pytest.mark.parametrize(
    ("encoder", "size", "edge"), [("unet", 4, 32), ("unetr", 4, 32), ("swin_unetr", 12, 64)]
)
def test_the_quick_copy_of_a_network_gives_its_values(encoder, size, edge):
    torch.manual_seed(0)
    plain = build_network(card(encoder, size, edge)).eval()
    for name, parameter in plain.named_parameters():
        if "norm" in name:  # which start as 1 and 0, where a mistake in their use would not show
            nn.init.normal_(parameter, 1.0, 0.3)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    quick = swift(plain, Machine(CPU, "fp32", ""))
    crops = torch.rand(2, 1, edge, edge, edge) * 0.01 + 0.5  # nearly constant: the hard case for a norm
    with torch.no_grad():
        torch.testing.assert_close(quick(crops), plain(crops), atol=1e-4, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


SLOW_HERE = pytest.mark.skipif(
    not multiplies_bf16(CPU), reason="this processor emulates bf16: a Swin-UNETR would take minutes"
)


@pytest.mark.parametrize(
    ("encoder", "size", "edge"), [("unet", 4, 32), pytest.param("swin_unetr", 12, 64, marks=SLOW_HERE)]
)
def test_in_bf16_the_quick_copy_is_as_near_to_float32_as_the_network_itself(encoder, size, edge):
    torch.manual_seed(0)
    plain, half = build_network(card(encoder, size, edge)).eval(), Machine(CPU, "bf16", "")
    quick, crops = swift(plain, half), torch.rand(2, 1, edge, edge, edge)
    with torch.no_grad():
        exact = plain(crops)
        with half.autocast():
            found, usual = quick(crops), plain(crops)
    assert found.dtype == usual.dtype == torch.float32, "logits are not rounded"
    assert (found - exact).norm() < 1.1 * (usual - exact).norm() < 0.1 * exact.norm()


def test_a_network_on_an_accelerator_stays_as_it_is():
    plain = nn.Conv3d(1, 1, 1)
    assert swift(plain, Machine(torch.device("meta"), "fp32", "")) is plain
