"""`voco weights inspect` and `convert`: everything published, in every wrapping, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_models import WHOLE, card_of, network_of, nnunet, published
from safetensors.torch import load_file, save_file

from VoCoCore.cli import main
from VoCoCore.errors import DataError
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.model_files import load_model, save_model
from VoCoCore.models.weights import load_weights, save_weights

pytestmark = pytest.mark.usefixtures("own_config")


def voco(*words):
    return main(["weights", *map(str, words)])


def inspected(capsys, path, *options):
    capsys.readouterr()
    assert voco("inspect", path, "--json", *options) == 0
    return json.loads(capsys.readouterr().out)


def swin(**options):
    return build_encoder("swin_unetr", **{"feature_size": 12, **options})


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def transformer(state):
    """As Swin-UNETR's own pre-training saves it: version 1's transformer alone, other names in its layers."""
    names = [name for name in state if name.startswith("swinViT.") and ".layers1c" not in name]
    names = [name for name in names if not any(f".layers{n}c." in name for n in (2, 3, 4))]
    return {name.removeprefix("swinViT.").replace(".mlp.linear", ".mlp.fc"): state[name] for name in names}


HEADS = {f"layer{n}.0.{kind}": torch.zeros(4, 4)[:, 0] for n in (1, 2, 3) for kind in ("weight", "bias")}
# How a published or trained file may wrap an encoder.
WRAPPED = {
    "DDP with a score": lambda s: {
        "epoch": 3,
        "best_acc": np.float64(0.8),
        "accs": np.arange(3)[1],
        "state_dict": prefixed("module.", s),
    },
    "nnU-Net's wrapper": lambda s: {"network_weights": s, "logging": {"ema": [np.float32(0.5)]}},
    "model_state_dict": lambda s: {"model_state_dict": prefixed("_orig_mod.", s), "optimizer": {"state": {}}},
    "v1: student and teacher": lambda s: {
        "state_dict": {
            **prefixed("module.student.", {**s, **prefixed("proj_head.", HEADS)}),
            **prefixed("module.teacher.", {name: torch.zeros_like(value) for name, value in s.items()}),
        }
    },
    "v2: backbone and heads": lambda s: {
        "state_dict": {
            **prefixed("backbone.", s),
            **prefixed("student.", HEADS),
            **prefixed("teacher.", HEADS),
        }
    },
    "swin_vit": lambda s: prefixed("module.", {k.replace("swinViT", "swin_vit"): v for k, v in s.items()}),
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_published_encoders_become_files_of_ours(tmp_path, capsys, wrapping):
    state, target = published(), swin()
    torch.save(WRAPPED[wrapping](state), tmp_path / "VoCo_10k.pt")
    assert voco("convert", tmp_path / "VoCo_10k.pt", "-o", tmp_path / "new" / "e.safetensors") == 0
    said = capsys.readouterr().out
    assert "100.0%" in said and "145 of 145 tensors" in said and "encoder10" in said
    found = load_file(tmp_path / "new" / "e.safetensors")
    assert found.keys() == state.keys() == target.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert load_weights(target, tmp_path / "new" / "e.safetensors").fraction == 1.0
    facts = inspected(capsys, tmp_path / "new" / "e.safetensors")
    assert facts["encoder"] == target.description() and facts["coverage"]["fraction"] == 1.0
    assert len(facts["metadata"]["source_sha256"]) == 64


@pytest.mark.parametrize(("given", "asked"), [(4, 4), (1, 4), (3, 2)])
def test_any_number_of_input_channels_becomes_another(tmp_path, capsys, given, asked):
    state = published(channels=given)
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    assert inspected(capsys, tmp_path / "w.pt")["encoder"]["in_channels"] == str(given)
    assert voco("convert", tmp_path / "w.pt", "-o", tmp_path / "e.safetensors", "--channels", asked) == 0
    assert ("input channels" in capsys.readouterr().out) == (given != asked)
    found, target = load_file(tmp_path / "e.safetensors"), swin(in_channels=asked)
    assert load_weights(target, tmp_path / "e.safetensors").notes == ()
    for name in target.stem:
        # One image in all channels gives the sum that it gave before.
        torch.testing.assert_close(found[name].sum(1), state[name].sum(1))
        assert found[name].shape[1] == asked


def test_a_whole_network_stays_whole(tmp_path, capsys):
    state = published(outputs=21)
    torch.save({"net": state}, tmp_path / "VoComni_B.pt")
    facts = inspected(capsys, tmp_path / "VoComni_B.pt")
    assert facts["kind"] == "network" and facts["outputs"] == 21 and "whole" in facts["network"]
    assert facts["coverage"]["parts"].keys() >= {"swinViT", "encoder10", "decoder5", "decoder1", "out"}
    assert set(facts["coverage"]["parts"].values()) == {1.0} and len(facts["coverage"]["loaded"]) == 167
    assert voco("convert", tmp_path / "VoComni_B.pt", "-o", tmp_path / "m.safetensors") == 0
    found = load_file(tmp_path / "m.safetensors")
    assert torch.equal(found["decoder.out.conv.conv.weight"], state["out.conv.conv.weight"])
    assert torch.equal(
        found["encoder.encoder1.layer.conv1.conv.weight"], state["encoder1.layer.conv1.conv.weight"]
    )
    assert inspected(capsys, tmp_path / "m.safetensors")["coverage"]["fraction"] == 1.0


@pytest.mark.parametrize("prefix", ["module.", "swin_vit.", ""])
def test_a_transformer_alone_is_named_and_taken_where_allowed(tmp_path, capsys, prefix):
    state = published()
    alone = prefixed(prefix, {**transformer(state), "rotation_head.weight": torch.zeros(4, 192)})
    torch.save({"epoch": 100, "state_dict": alone}, tmp_path / "model_swinvit.pt")
    assert voco("inspect", tmp_path / "model_swinvit.pt") == 0
    said = capsys.readouterr().out
    assert "transformer alone of swin_unetr" in said and "version 1" in said and "rotation_head" in said
    words = ("convert", tmp_path / "model_swinvit.pt", "-o", tmp_path / "e.safetensors")
    assert voco(*words) == 3
    assert (
        "--allow-partial accepts it" in capsys.readouterr().err and not (tmp_path / "e.safetensors").exists()
    )
    assert voco(*words, "--allow-partial") == 0
    found = load_file(tmp_path / "e.safetensors")
    assert len(found) == len(alone) - 1 and all(
        torch.equal(state[name], value) for name, value in found.items()
    )


@pytest.mark.parametrize("name", ["unetr", "unet"])
def test_monais_other_networks(tmp_path, capsys, name):
    whole, size = WHOLE[name][2](), ",".join(map(str, WHOLE[name][1]))
    torch.save({"state_dict": prefixed("module.", whole.state_dict())}, tmp_path / "w.pt")
    facts = inspected(capsys, tmp_path / "w.pt", "--size", size)
    assert facts["encoder"]["encoder"] == name and facts["outputs"] == 3
    assert facts["coverage"]["fraction"] == 1.0 and not facts["coverage"]["unexpected"]
    save_file({k: v.clone() for k, v in whole.state_dict().items()}, tmp_path / "w.safetensors")
    assert voco("convert", tmp_path / "w.safetensors", "-o", tmp_path / "m.safetensors", "--size", size) == 0
    target = build_encoder(name, 2, WHOLE[name][0], WHOLE[name][1])
    coverage = load_weights(target, tmp_path / "m.safetensors")
    assert coverage.fraction == 1.0 and not coverage.notes
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in target.state_dict().items())


def test_a_cubic_position_table_keeps_its_size(tmp_path, capsys):
    save_weights(build_encoder("unetr", 1, 4, 48), tmp_path / "a.safetensors", {"input_size": "48,48,48"})
    torch.save(load_file(tmp_path / "a.safetensors"), tmp_path / "a.pt")
    assert voco("convert", tmp_path / "a.pt", "-o", tmp_path / "b.safetensors") == 0
    assert "interpolated" not in capsys.readouterr().out
    assert inspected(capsys, tmp_path / "b.safetensors")["encoder"]["input_size"] == "48,48,48"


def test_a_position_table_of_crops_that_are_no_cubes(tmp_path, capsys):
    own = build_encoder("unetr", 1, 4, (32, 32, 64))
    torch.save(own.state_dict(), tmp_path / "a.pt")
    words = ("convert", tmp_path / "a.pt", "-o", tmp_path / "b.safetensors")
    for wrong in ((), ("--size", "64,64,64")):
        assert voco(*words, *wrong) == 3
        assert not (tmp_path / "b.safetensors").exists()
        assert "for crops of which size" in (said := capsys.readouterr().err) and "--size X,Y,Z" in said
    with pytest.raises(DataError, match="for crops of which size"):
        load_weights(build_encoder("unetr", 1, 4, 64), tmp_path / "a.pt")
    assert voco(*words, "--size", "32,32,64") == 0
    target = build_encoder("unetr", 1, 4, 64)
    coverage = load_weights(target, tmp_path / "b.safetensors")
    assert coverage.fraction == 1.0 and "from 2 x 2 x 4 to 4 x 4 x 4" in coverage.summary()


def test_nnunets_networks_are_described(tmp_path, capsys):
    torch.save({"network_weights": nnunet(), "trainer_name": "nnUNetTrainer"}, tmp_path / "VoComni_nnunet.pt")
    facts = inspected(capsys, tmp_path / "VoComni_nnunet.pt")
    assert facts["network"] == "nnU-Net's PlainConvUNet with 6 stages of 32, 64, 128, 256, 320, 320 channels"
    assert facts["encoder"] is None and facts["coverage"] is None and facts["kind"] == "other"
    assert facts["weights"] == sum(
        v.numel() for k, v in nnunet().items() if "all_m" not in k and "r.enc" not in k
    )
    assert voco("inspect", tmp_path / "VoComni_nnunet.pt") == 0
    assert "no encoder of VoCoCore" in capsys.readouterr().out


def test_a_projection_head_alone_and_tensors_of_nobody(tmp_path, capsys):
    for name, state, words in (
        ("head.pt", HEADS, "a projection head alone"),
        ("x.pt", {"weight": torch.zeros(2)}, "no network that is known here"),
    ):
        torch.save(state, tmp_path / name)
        assert inspected(capsys, tmp_path / name)["network"] == words


def test_coverage_of_another_encoder_on_request(tmp_path, capsys):
    torch.save(published(), tmp_path / "w.pt")
    facts = inspected(capsys, tmp_path / "w.pt", "--feature-size", "24")
    assert facts["against"]["feature_size"] == "24" and facts["coverage"]["fraction"] < 0.1
    assert facts["coverage"]["mismatched"]
    facts = inspected(capsys, tmp_path / "w.pt", "--encoder", "unet")
    assert facts["against"]["feature_size"] == "48" and facts["coverage"]["fraction"] == 0
    assert inspected(capsys, tmp_path / "w.pt", "--channels", "3")["coverage"]["fraction"] == 1.0


def test_runs_and_checkpoints_of_ours(capsys, stopped_run):
    step = sorted(stopped_run.checkpoints.iterdir())[-1]
    encoder = stopped_run.weights / "encoder.safetensors"
    assert voco("convert", step, "-o", encoder) == 0
    for path in (stopped_run.path, step, step / "state.pt", encoder):
        facts = inspected(capsys, path)
        assert facts["encoder"]["encoder"] == "unet" and facts["coverage"]["fraction"] == 1.0, path
    assert voco("inspect", step) == 0
    assert "student.head: 4 tensors" in capsys.readouterr().out
    source, found = load_file(step / "model.safetensors"), load_file(encoder)
    assert found and all(
        torch.equal(source[f"student.encoder.{name}"], value) for name, value in found.items()
    )


def test_a_model_of_ours_stays_usable_and_loses_its_card_with_its_channels(tmp_path, capsys):
    save_model(network_of(), card_of(), tmp_path / "m.safetensors")
    assert voco("convert", tmp_path / "m.safetensors", "-o", tmp_path / "a.safetensors") == 0
    assert load_model(tmp_path / "a.safetensors")[1] == card_of()
    assert (
        voco("convert", tmp_path / "m.safetensors", "-o", tmp_path / "b.safetensors", "--channels", "1") == 0
    )
    facts = inspected(capsys, tmp_path / "b.safetensors")
    assert "card" not in facts["metadata"] and facts["encoder"]["in_channels"] == "1"


@pytest.mark.parametrize("size", [48, 96, 192])
def test_the_published_names_and_shapes_of_each_size(tmp_path, capsys, shared_data: Path, size: int):
    shapes = json.loads((shared_data / "reference" / "state_dicts.json").read_text(encoding="utf-8"))
    number, index = torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    state = {
        name: (index if name.endswith("_index") else number).expand(shape)
        for name, shape in shapes[f"backbone.fs{size}"].items()
    }
    torch.save({"state_dict": prefixed("module.", state)}, tmp_path / "head.pt")  # a few numbers, expanded
    facts = inspected(capsys, tmp_path / "head.pt")
    assert facts["encoder"]["feature_size"] == str(size) and facts["kind"] == "encoder"
    assert facts["coverage"]["fraction"] == 1.0 and len(facts["coverage"]["loaded"]) == 145
    if extra := shapes.get(f"SwinUNETR_extra.fs{size}"):
        state |= {name: number.expand(shape) for name, shape in extra.items()}
        torch.save(state, tmp_path / "whole.pt")
        facts = inspected(capsys, tmp_path / "whole.pt")
        assert facts["coverage"]["fraction"] == 1.0 and facts["outputs"] == 14
        assert len(facts["coverage"]["loaded"]) == shapes[f"SwinUNETR_n_keys.fs{size}"] == 167
