"""Weights: round trips, published checkpoints in all their wrappings, and files that are something else."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

from VoCoCore.errors import DataError, EnvironmentFault
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.inspection import inspect_weights
from VoCoCore.models.weights import load_weights, save_weights


def swin(**options):
    return build_encoder("swin_unetr", **{"feature_size": 12, **options})


def unet(**options):
    return build_encoder("unet", **{"feature_size": 4, "input_size": 32, **options})


def unetr(size):
    return build_encoder("unetr", feature_size=4, input_size=size)


def random_state(module):
    """Values of a module's names and shapes that no module starts with."""
    return {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in module.state_dict().items()}


def same(module, tensors):
    return all(torch.equal(module.state_dict()[name], tensor) for name, tensor in tensors.items())


class Network(nn.Module):
    """An encoder with something after it, as fine-tuning builds it."""

    def __init__(self):
        super().__init__()
        self.encoder = unet()
        self.out = nn.Linear(3, 2)


def test_round_trip_with_metadata(tmp_path):
    source, target = unet(), unet()
    file = tmp_path / "new folder" / "encoder.safetensors"
    save_weights(source, file, {"run": "first", "recipe": "v1"})
    coverage = load_weights(target, file)
    assert same(target, source.state_dict())
    assert coverage.fraction == 1.0 and set(coverage.loaded) == set(source.state_dict())
    assert not (coverage.missing or coverage.unexpected or coverage.mismatched)
    facts = inspect_weights(file).to_dict()
    assert facts["format"] == "safetensors" and facts["metadata"]["recipe"] == "v1"
    assert facts["encoder"] == source.description()
    assert facts["weights"] == sum(p.numel() for p in source.parameters())
    assert json.loads(json.dumps(facts)) == facts
    assert [p.name for p in file.parent.iterdir()] == [file.name], "nothing is left beside it"


def test_equal_weights_make_equal_files(tmp_path):
    module, words = unet(), {f"fact {i}": f'a "quoted" line\n, Zürich {i}' for i in range(8)}
    for name in "abc":  # without care, the metadata's order differs from file to file
        save_weights(module, tmp_path / name, words)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    assert words.items() <= inspect_weights(tmp_path / "a").file.metadata.items()


def test_weights_are_on_the_disk_before_they_take_their_name(tmp_path, monkeypatch):
    done, usual = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(os.fstat(handle).st_size))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("named"), usual(old, new)))
    save_weights(nn.Linear(2, 2), tmp_path / "m.safetensors")
    assert done == [(tmp_path / "m.safetensors").stat().st_size, "named"]


def test_weights_can_be_read_by_whoever_may_read_files_of_this_user(tmp_path):
    (tmp_path / "usual").touch()
    save_weights(nn.Linear(2, 2), tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_shared_tensors_are_found_under_each_name(tmp_path):
    module = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    module["b"].weight = module["a"].weight
    save_weights(module, tmp_path / "w.safetensors")
    tensors = load_file(tmp_path / "w.safetensors")
    assert torch.equal(tensors["a.weight"], tensors["b.weight"])


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "w.safetensors"
    save_weights(nn.Linear(2, 2), file)
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("VoCoCore.models.weights.os.replace", full)
    with pytest.raises(EnvironmentFault, match="No space left"):
        save_weights(nn.Linear(2, 2), file)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_a_folder_that_cannot_be_made_is_an_environment_fault(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFault, match="cannot write weights"):
        save_weights(nn.Linear(2, 2), tmp_path / "file" / "w.safetensors")


WRAPPINGS = {
    "bare": lambda s: s,
    "state_dict, DDP": lambda s: {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in s.items()}},
    "network_weights": lambda s: {"network_weights": s, "current_epoch": 7},
    "net": lambda s: {"net": s},
    "model in state_dict": lambda s: {"state_dict": {"model": s}},
    "backbone": lambda s: {"model": {f"module.backbone.{k}": v for k, v in s.items()}},
    "encoder": lambda s: {f"encoder.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "swin_vit": lambda s: {k.replace("swinViT", "swin_vit"): v for k, v in s.items()},
    "student entry": lambda s: {
        "student": s,
        "teacher": {k: v + 1 for k, v in s.items() if v.dtype.is_floating_point},
    },
    "student names": lambda s: {
        **{f"module.teacher.{k}": torch.zeros_like(v) for k, v in s.items()},
        **{f"module.student.{k}": v for k, v in s.items()},
    },
    "teacher alone": lambda s: {f"teacher.{k}": v for k, v in s.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_published_checkpoints_load_in_every_wrapping(tmp_path, wrapping):
    target = swin()
    state = random_state(target)
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "VoCo_B_SSL_head.pt")
    coverage = load_weights(target, tmp_path / "VoCo_B_SSL_head.pt")
    assert coverage.fraction == 1.0 and len(coverage.loaded) == 145 and not coverage.missing
    assert same(target, state)
    said = "; ".join(coverage.notes)
    if wrapping.startswith("student"):
        assert re.search("student.*teacher.*left|student.*left.*teacher", said)
    assert ("took the teacher" in said) == (wrapping == "teacher alone")


def test_a_transformer_saved_alone_under_its_pre_training_names(tmp_path):
    target = swin()
    state = {k: v for k, v in random_state(target).items() if k.startswith("swinViT.")}
    names = {k: k.replace("swinViT", "module").replace(".mlp.linear", ".mlp.fc") for k in state}
    torch.save({"state_dict": {names[k]: v for k, v in state.items()}}, tmp_path / "model_swinvit.pt")
    with pytest.raises(DataError, match="fills only"):
        load_weights(target, tmp_path / "model_swinvit.pt")
    coverage = load_weights(target, tmp_path / "model_swinvit.pt", allow_partial=True)
    assert set(coverage.loaded) == set(state) and same(target, state)
    assert {part.name: part.fraction for part in coverage.parts()}["encoder1"] == 0.0


def test_an_encoder_file_fills_the_encoder_inside_a_network(tmp_path):
    source, network = unet(), Network()
    save_weights(source, tmp_path / "w.safetensors")
    coverage = load_weights(network, tmp_path / "w.safetensors")
    assert same(network.encoder, source.state_dict())
    assert set(coverage.missing) == {"out.weight", "out.bias"}


def test_a_whole_network_fills_an_encoder_and_the_rest_is_listed(tmp_path):
    source, encoder = Network(), unet()
    save_weights(source, tmp_path / "w.safetensors")
    coverage = load_weights(encoder, tmp_path / "w.safetensors")
    assert same(encoder, source.encoder.state_dict())
    assert set(coverage.unexpected) == {"out.weight", "out.bias"}


@pytest.mark.parametrize("channels", [3, 4])
def test_more_input_channels_give_the_same_maps_for_the_same_image_in_each(tmp_path, channels):
    grey, colour = unet(), unet(in_channels=channels)
    save_weights(grey, tmp_path / "w.safetensors")
    coverage = load_weights(colour, tmp_path / "w.safetensors")
    assert coverage.fraction == 1.0
    assert coverage.notes == (f"input_block.conv1.conv.weight: from 1 to {channels} input channels",)
    x = torch.randn(1, 1, 32, 32, 32)
    for got, expected in zip(colour(x.expand(-1, channels, -1, -1, -1)), grey(x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_the_first_convolutions_of_swin_are_spread_and_divided(tmp_path):
    target = swin(in_channels=4)
    state = random_state(swin())
    torch.save(state, tmp_path / "w.pt")
    coverage = load_weights(target, tmp_path / "w.pt")
    assert coverage.fraction == 1.0 and len(coverage.notes) == 3
    first = ("swinViT.patch_embed.proj", "encoder1.layer.conv1.conv", "encoder1.layer.conv3.conv")
    for name in (f"{part}.weight" for part in first):
        torch.testing.assert_close(target.get_parameter(name), state[name].repeat(1, 4, 1, 1, 1) / 4)


def test_position_tables_are_interpolated_and_it_is_said(tmp_path):
    source, same_size, larger = unetr((32, 32, 64)), unetr((32, 32, 64)), unetr((64, 64, 96))
    name = "vit.patch_embedding.position_embeddings"
    # A table that is linear in the position along each axis stays so, away from the border.
    axes = torch.meshgrid(*(torch.arange(n) for n in (2, 2, 4)), indexing="ij")
    linear = axes[0] + 10.0 * axes[1] + 100.0 * axes[2]
    source.get_parameter(name).data.copy_(linear.reshape(1, -1, 1).expand(1, 16, 64))
    save_weights(source, tmp_path / "w.safetensors")
    assert load_weights(same_size, tmp_path / "w.safetensors").notes == ()
    assert torch.equal(same_size.get_parameter(name), source.get_parameter(name))
    coverage = load_weights(larger, tmp_path / "w.safetensors")
    assert coverage.fraction == 1.0
    assert coverage.notes == (f"{name}: interpolated from 2 x 2 x 4 to 4 x 4 x 6 patches",)
    table = larger.get_parameter(name).detach()[0, :, 7].reshape(4, 4, 6)
    for index in ((1, 2, 2), (2, 1, 3)):
        old = [(i + 0.5) * n / m - 0.5 for i, n, m in zip(index, (2, 2, 4), (4, 4, 6), strict=True)]
        expected = old[0] + 10 * old[1] + 100 * old[2]
        assert table[index].item() == pytest.approx(expected, abs=1e-3)


def test_a_cubic_position_table_needs_no_record_of_its_size(tmp_path):
    torch.save(random_state(unetr(32)), tmp_path / "w.pt")
    coverage = load_weights(unetr(48), tmp_path / "w.pt")
    assert coverage.fraction == 1.0 and "2 x 2 x 2 to 3 x 3 x 3" in coverage.notes[0]


def test_low_coverage_is_an_error_and_changes_nothing(tmp_path):
    target = swin()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    # Two tensors of 145, and more than half of the weights.
    state = {k: v for k, v in random_state(target).items() if not k.startswith("encoder10.")}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"fills only 4\d%.*encoder10") as caught:
        load_weights(target, tmp_path / "w.pt")
    assert caught.value.exit_code == 3
    assert same(target, before)
    assert load_weights(target, tmp_path / "w.pt", minimum=0.3).fraction < 0.5


@pytest.mark.parametrize("partial", [False, True])
def test_weights_of_another_network_are_named_as_such(tmp_path, partial):
    save_weights(unet(), tmp_path / "w.safetensors")
    with pytest.raises(
        DataError, match=r"looks like unet with feature size 4.*swin_unetr with feature size 12"
    ):
        load_weights(swin(), tmp_path / "w.safetensors", allow_partial=partial)


def test_other_feature_size_is_reported_as_mismatch(tmp_path):
    save_weights(Network(), tmp_path / "w.safetensors", {"feature_size": "4"})
    other = unet(feature_size=8)
    with pytest.raises(DataError, match=r"feature size 4.*feature size 8"):
        load_weights(other, tmp_path / "w.safetensors")


def test_coverage_report_for_people_and_programs(tmp_path):
    target = unet()
    state = random_state(target)
    del state["bottleneck.conv2.conv.weight"]
    state["bottleneck.norm1.weight"] = torch.zeros(3)
    state["decoder.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "w.safetensors")
    coverage = load_weights(target, tmp_path / "w.safetensors", minimum=0.2)
    lost = 64 * 64 * 27 + 64
    total = sum(p.numel() for p in target.parameters())
    assert coverage.fraction == pytest.approx(1 - lost / total)
    assert coverage.missing == ("bottleneck.conv2.conv.weight",) and coverage.unexpected == (
        "decoder.weight",
    )
    assert str(coverage.mismatched[0]) == "bottleneck.norm1.weight: [3] in the file, [64] in the network"
    screen = io.StringIO()
    Console(width=120, file=screen).print(coverage.table())
    text = screen.getvalue()
    assert "bottleneck" in text and "100.0%" in text and "28 of 30 tensors" in coverage.summary()
    facts = json.loads(json.dumps(coverage.to_dict()))
    assert facts["parts"]["input_block"] == 1.0 and facts["parts"]["bottleneck"] < 0.5


def test_values_that_are_not_finite_are_refused(tmp_path):
    state = random_state(unet())
    state["bottleneck.norm1.weight"][3] = float("nan")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"not finite, in bottleneck\.norm1\.weight"):
        load_weights(unet(), tmp_path / "w.pt")


def test_half_precision_files_load_into_full_precision(tmp_path):
    state = {k: v.half() for k, v in random_state(unet()).items()}
    torch.save(state, tmp_path / "w.pt")
    target = unet()
    load_weights(target, tmp_path / "w.pt")
    assert target.bottleneck.conv1.conv.weight.dtype == torch.float32
    assert same(target, {k: v.float() for k, v in state.items()})


class Command:
    """Would run a command when unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def broken_files(folder):
    """Files that are no weights: name -> (content, words of the message)."""
    save_weights(unet(), folder / "whole.safetensors")
    torch.save(random_state(unet()), folder / "whole.pt")
    whole, torch_file = (folder / "whole.safetensors").read_bytes(), (folder / "whole.pt").read_bytes()
    torch.save({"state_dict": {}, "callback": Command(folder / "ran")}, folder / "code.pt")
    torch.jit.script(nn.Linear(2, 2)).save(str(folder / "script.pt"))
    return {
        "empty.pt": (b"", "is empty"),
        "page.pt": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        "page.safetensors": (b"<html></html>", "is a web page"),
        "pointer.pt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
        "text.pt": (b"hello, these are no weights", "no PyTorch weights file"),
        "noise.pt": (bytes(range(256)) * 8, "no PyTorch weights file"),
        "cut.safetensors": (whole[: len(whole) // 2], "not a whole one"),
        "head.safetensors": (whole[:20], "not a whole one"),
        "cut.pt": (torch_file[: len(torch_file) // 2], "not a whole one"),
        "code.pt": ((folder / "code.pt").read_bytes(), "could run code"),
        "plain.pkl": (pickle.dumps(Command(folder / "ran")), "could run code"),
        "script.pt": ((folder / "script.pt").read_bytes(), "TorchScript"),
        "list.pt": (pickle.dumps([1, 2]), "was refused"),
    }


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_files_that_are_no_weights_are_named_for_what_they_are(tmp_path):
    for name, (content, words) in broken_files(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        for call in (lambda path: load_weights(unet(), path), inspect_weights):
            with pytest.raises(DataError, match=words) as caught:
                call(tmp_path / name)
            assert name in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists(), "code in a file was run"


def test_missing_files_folders_and_checkpoints_without_weights(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    for path, words in (
        (tmp_path / "no.pt", "No such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "epoch.pt", "no weights"),
    ):
        with pytest.raises(DataError, match=words):
            load_weights(unet(), path)


def test_old_style_torch_files_load(tmp_path):
    state = random_state(unet())
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    target = unet()
    load_weights(target, tmp_path / "old.pth")
    assert same(target, state)


def test_inspecting_does_not_need_monai():
    code = "import sys; import VoCoCore.models.inspection; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
