"""Weights that cannot be used as asked, and outputs that cannot be written, through the command line."""

from __future__ import annotations

import importlib.util
import os
import struct
from pathlib import Path

import pytest
import torch
from faults import meet
from made_models import card_of, network_of, nnunet, published
from safetensors.torch import load_file, save_file
from torch import nn

from VoCoCore.cli import main
from VoCoCore.errors import DataError
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.initialise import initialise
from VoCoCore.models.model_files import load_model, save_model
from VoCoCore.models.networks import SegmentationNetwork
from VoCoCore.models.weights import save_weights
from VoCoCore.runs.directory import RunDirectory

pytestmark = pytest.mark.usefixtures("own_config")
ALL_IS_WRITABLE = os.name != "posix" or os.geteuid() == 0


@pytest.fixture
def encoder(tmp_path) -> Path:
    save_weights(build_encoder("unet", 1, 4, 32), tmp_path / "encoder.safetensors")
    return tmp_path / "encoder.safetensors"


@pytest.fixture
def model(tmp_path) -> Path:
    save_model(network_of(), card_of(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def convert(source, *options):
    return ["weights", "convert", source, "-o", Path(source).parent / "out.safetensors", *options]


def export(source, form, output, *options):
    return ["weights", "export", source, "--format", form, "-o", output, *options]


def test_weights_of_another_network(capsys, encoder):
    for kind, options, says in (
        (
            "weights of another encoder",
            ["--encoder", "unetr"],
            ["fills only 0%", "looks like unet", "unetr with"],
        ),
        ("weights of another feature size", ["--feature-size", "8"], ["feature size 4", "feature size 8"]),
        ("weights and a swin_unetr", ["--encoder", "swin_unetr", "--allow-partial"], ["looks like unet"]),
    ):
        meet(capsys, kind, 3, convert(encoder, *options), [*says, encoder])
    assert not (encoder.parent / "out.safetensors").exists()


def test_options_that_describe_no_encoder(capsys, encoder):
    for kind, options, says in (
        (
            "a feature size that no network has",
            ["--encoder", "swin_unetr", "--feature-size", "50"],
            "multiple of 12",
        ),
        ("a feature size of zero", ["--feature-size", "0"], "--feature-size"),
        ("channels below one", ["--channels", "-1"], "--channels"),
        ("a size of two numbers", ["--size", "32,32"], "--size"),
        ("a size that the encoder cannot take", ["--size", "32,32,40"], "multiples of 16"),
        ("an encoder that there is not", ["--encoder", "unet3"], "unet3"),
    ):
        meet(capsys, kind, 2, convert(encoder, *options), [says])
        meet(capsys, f"{kind}, inspected", 2, ["weights", "inspect", encoder, *options], [says])


def test_networks_that_are_none_of_ours(capsys, tmp_path):
    torch.save({"network_weights": nnunet()}, tmp_path / "VoComni_nnunet.pt")
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save({"layer1.0.weight": torch.zeros(3, 3)}, tmp_path / "head.pt")
    for kind, name, says in (
        ("weights of nnU-Net", "VoComni_nnunet.pt", ["PlainConvUNet with 6 stages", "in nnU-Net itself"]),
        ("weights of a network unknown", "other.pt", ["no network that is known", "voco weights inspect"]),
        ("a projection head without an encoder", "head.pt", ["a projection head alone"]),
    ):
        meet(capsys, kind, 3, convert(tmp_path / name), [*says, name])
        meet(
            capsys,
            f"{kind}, exported",
            3,
            export(tmp_path / name, "torch", tmp_path / "o.pt"),
            [*says[:1], name],
        )


def broken(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, "bottleneck.norm1.bias": torch.full((64,), torch.inf)}


def test_weights_that_are_damaged(capsys, tmp_path, encoder):
    whole, state = encoder.read_bytes(), build_encoder("unet", 1, 4, 32).state_dict()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "header.safetensors").write_bytes(struct.pack("<Q", 50) + b"{" * 50)
    save_file(broken(state), tmp_path / "inf.safetensors")
    torch.save(
        {name: value for name, value in state.items() if "bottleneck" not in name}, tmp_path / "half.pt"
    )
    torch.save({"state_dict": {"epoch": 3}}, tmp_path / "none.pt")
    torch.save({"ema": state, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "ema.pt")
    (tmp_path / "sparse.pt").write_bytes(b"\x93NUMPY\x01\x00" + b" " * 100)
    for kind, name, says in (
        ("a safetensors file cut off", "cut.safetensors", "not a whole one"),
        ("a safetensors file with a broken header", "header.safetensors", "no safetensors file"),
        ("weights that are not finite", "inf.safetensors", "not finite, in bottleneck.norm1.bias"),
        ("weights of half an encoder", "half.pt", "fills only"),
        ("a checkpoint without tensors", "none.pt", "holds no weights"),
        ("a checkpoint with its weights under a name of its own", "ema.pt", "but tensors in 'ema'  (save"),
        ("a numpy array as weights", "sparse.pt", "no PyTorch weights file"),
    ):
        meet(capsys, kind, 3, convert(tmp_path / name), [says, name])
    assert not (tmp_path / "out.safetensors").exists()
    assert main(["weights", "inspect", str(tmp_path / "inf.safetensors")]) == 0
    assert "no job takes this file: it holds values that are not finite" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value"), [("feature_size", "x"), ("in_channels", "9" * 5000), ("input_size", "32,\x1b[31m,32")]
)
def test_weights_whose_description_is_no_number(capsys, tmp_path, encoder, name, value):
    facts = {
        "encoder": "unet",
        "feature_size": "4",
        "in_channels": "1",
        "input_size": "32,32,32",
        name: value,
    }
    save_file(load_file(encoder), tmp_path / "odd.safetensors", facts)
    for words in (
        ["weights", "inspect", tmp_path / "odd.safetensors"],
        convert(tmp_path / "odd.safetensors"),
    ):
        line = meet(capsys, "weights whose description is no number", 3, words, ["odd.safetensors", name])
        assert len(line) < 500 and "\x1b" not in line


def test_a_files_facts_do_nothing_to_a_terminal(capsys, tmp_path, encoder):
    save_file(load_file(encoder), tmp_path / "odd.safetensors", {"no\x1b[31mte": "\x1b]0;title\x07"})
    assert main(["weights", "inspect", str(tmp_path / "odd.safetensors")]) == 0
    assert "\x1b" not in capsys.readouterr().out


class Evil:
    """Would make a folder when unpickled."""

    def __reduce__(self):
        return os.mkdir, (os.environ["VOCO_TEST_EVIL"],)


@pytest.mark.parametrize("action", ["convert", "export", "init"])
def test_a_checkpoint_with_code_in_it_is_never_run(capsys, tmp_path, monkeypatch, action):
    monkeypatch.setenv("VOCO_TEST_EVIL", str(tmp_path / "was-run"))
    torch.save({"state_dict": published(), "callback": Evil()}, tmp_path / "evil.pt")
    if action == "init":
        network = SegmentationNetwork(build_encoder("unet", 1, 4, 32), 2)
        with pytest.raises(DataError, match="refused"):
            initialise(network, tmp_path / "evil.pt", allow_partial=True)
    else:
        words = convert(tmp_path / "evil.pt")
        words = words if action == "convert" else export(tmp_path / "evil.pt", "torch", tmp_path / "o.pt")
        meet(capsys, "a checkpoint with code beside its weights", 3, words, ["refused", "evil.pt"])
    assert not (tmp_path / "was-run").exists()


def test_a_program_given_as_weights(capsys, tmp_path):
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), tmp_path / "p.pt2")
    for action in (["inspect", tmp_path / "p.pt2"], convert(tmp_path / "p.pt2")[1:]):
        meet(
            capsys,
            "a torch.export program as weights",
            3,
            ["weights", *action],
            ["program, not weights", "p.pt2"],
        )


def test_runs_and_folders_without_weights(capsys, tmp_path):
    run, stopped = (RunDirectory.create(tmp_path / name, {}, {}) for name in ("new", "stopped"))
    save_weights(build_encoder("unet", 1, 4, 32), stopped.checkpoints / "step-00000002" / "model.safetensors")
    (tmp_path / "folds" / "fold-0").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for kind, path, says in (
        ("a run that has not begun as weights", run.path, "no weights yet"),
        ("a stopped run as weights", stopped.path, "start from its checkpoint"),
        ("a folder of folds as weights", tmp_path / "folds", "several folds"),
        ("a folder that is no run as weights", tmp_path / "empty", "neither a run nor a checkpoint"),
        ("weights that are gone", tmp_path / "gone.pt", "No such file"),
    ):
        meet(capsys, kind, 3, ["weights", "inspect", path], [says, path])
        meet(capsys, f"{kind}, exported", 3, export(path, "torch", tmp_path / "o.pt"), [says, path])


def test_exports_that_need_a_fine_tuned_network(capsys, tmp_path, encoder):
    torch.save(published(outputs=21), tmp_path / "VoComni.pt")
    for form, name in (
        ("onnx", "o.onnx"),
        ("bundle", "b"),
        ("torchscript", "o.ts"),
        ("torch-export", "o.pt2"),
    ):
        for source, what in (
            (encoder, "a pre-trained encoder"),
            (tmp_path / "VoComni.pt", "a network without a card"),
        ):
            kind = f"{what} as {form}"
            meet(
                capsys, kind, 3, export(source, form, tmp_path / name), ["no fine-tuned network", source.name]
            )
        assert not (tmp_path / name).exists()


def test_exports_that_cannot_be(capsys, tmp_path, model):
    save_model(network_of(task="classification"), card_of(task="classification"), tmp_path / "c.safetensors")
    out = tmp_path / "o"
    for kind, words, says in (
        ("an export format unknown", export(model, "onxx", f"{out}.onnx"), ["onxx"]),
        ("an export without a format", ["weights", "export", model, "-o", f"{out}.pt"], ["--format"]),
        ("an output with another ending", export(model, "onnx", f"{out}.pt"), [".onnx", "o.pt"]),
        (
            "a bundle of a classification",
            export(tmp_path / "c.safetensors", "bundle", out),
            ["classification"],
        ),
        ("a bundle without a rule for intensities", export(model, "bundle", out), ["--intensity"]),
        ("a rule for intensities unknown", export(model, "bundle", out, "--intensity", "xray"), ["xray"]),
        (
            "an encoder alone as a program",
            export(model, "onnx", f"{out}.onnx", "--encoder-only"),
            ["--encoder-only"],
        ),
        ("a conversion to another ending", ["weights", "convert", model, "-o", f"{out}.pt"], ["o.pt"]),
        ("an action of weights unknown", ["weights", "exports", model], ["Did you mean 'export'"]),
    ):
        meet(capsys, kind, 2, words, says)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("o")]


@pytest.mark.skipif(importlib.util.find_spec("onnx") is not None, reason="onnx is installed")
def test_onnx_without_its_packages(capsys, tmp_path, model):
    words = export(model, "onnx", tmp_path / "o.onnx")
    meet(capsys, "ONNX without its packages", 4, words, ["pip install onnx onnxscript"])
    assert not (tmp_path / "o.onnx").exists()


def test_outputs_that_are_in_the_way(capsys, tmp_path, model):
    (tmp_path / "there.pt").write_bytes(b"precious")
    (tmp_path / "page.pt.md").write_text("precious")
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("precious")
    again = "--overwrite"
    for kind, code, words, says in (
        ("an export onto a file", 2, export(model, "torch", tmp_path / "there.pt"), "exists already"),
        (
            "an export beside another's page",
            2,
            export(model, "torch", tmp_path / "page.pt"),
            "page.pt.md exists",
        ),
        ("an export onto a folder", 2, export(model, "torch", tmp_path / "folder.pt", again), "is a folder"),
        ("an export onto its source", 2, export(model, "safetensors", model, again), "it is made from"),
        (
            "a bundle into a full folder",
            2,
            export(model, "bundle", tmp_path / "full", again),
            "something else",
        ),
        ("a bundle onto a file", 2, export(model, "bundle", tmp_path / "there.pt", again), "there.pt"),
        ("an export below a file", 4, export(model, "torch", tmp_path / "there.pt" / "x.pt"), "there.pt"),
        (
            "a conversion onto its source",
            2,
            ["weights", "convert", model, "-o", model, again],
            "it is made from",
        ),
    ):
        meet(capsys, kind, code, words, [says])
    kept = ("there.pt", "page.pt.md", "full/notes.txt")
    assert {(tmp_path / name).read_text() for name in kept} == {"precious"}
    load_model(model)


@pytest.mark.skipif(ALL_IS_WRITABLE, reason="root may write anywhere")
def test_folders_that_may_not_be_written(capsys, tmp_path, model):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    for form, name in (
        ("torch", "o.pt"),
        ("safetensors", "o.safetensors"),
        ("torchscript", "o.ts"),
        ("bundle", "b"),
    ):
        words = export(model, form, closed / name, *(["--intensity", "mr"] if form == "bundle" else []))
        meet(capsys, f"an export ({form}) into a closed folder", 4, words, ["permission", closed])
    meet(
        capsys,
        "a conversion into a closed folder",
        4,
        ["weights", "convert", model, "-o", closed / "o.safetensors"],
        [],
    )


def test_a_full_disk(capsys, tmp_path, model, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("VoCoCore.models.export.torch.save", full)
    for form, output in (("torch", "o.pt"), ("bundle", "b")):
        words = export(model, form, tmp_path / output, *(["--intensity", "mr"] if form == "bundle" else []))
        meet(
            capsys,
            f"an export ({form}) onto a full disk",
            4,
            words,
            ["disk is full", "then try again", output],
        )
    left = {path.name for path in tmp_path.iterdir()} - {"config"}
    assert left == {model.name}, "nothing is left beside"


def test_a_file_that_describes_another_network_than_it_holds(capsys, tmp_path):
    save_model(nn.Sequential(nn.Linear(2, 2)), card_of(), tmp_path / "m.safetensors")
    words = export(tmp_path / "m.safetensors", "torchscript", tmp_path / "o.ts")
    meet(capsys, "a card of another network", 3, words, ["lacks", "m.safetensors"])
