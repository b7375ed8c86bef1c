"""`voco weights export`: what other programs read is what we computed, and the page beside it says what it is."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from made_models import WHOLE, card_of, network_of, published
from monai.networks.nets import SwinUNETR
from safetensors.torch import load_file

from VoCoCore.cli import main
from VoCoCore.data.apply import apply_plan
from VoCoCore.data.plan import plan_case
from VoCoCore.models.card import OutputClass, palette
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.export_bundle import preprocessing
from VoCoCore.models.model_files import load_model, save_model
from VoCoCore.models.weights import save_weights
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.settings import PrepareSettings

pytestmark = [
    pytest.mark.usefixtures("own_config"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]
MR = {"intensity": "mr", "spacing": [1.5, 1.5, 2.0], "foreground": 0.0, "fit": "pad"}


def export(source, output, form, *options):
    return main(["weights", "export", str(source), "-o", str(output), "--format", form, *options])


@pytest.fixture
def model(tmp_path):
    """A fine-tuned U-Net for two images as a file."""
    facts = {"run": "MrSmith", "validation_score": "0.8123", "train_cases": "12"}
    save_model(network_of(), card_of(prepare=MR, facts=facts), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_network_is_monais_strictly(tmp_path, name):
    save_model(network_of(name), card_of(name), tmp_path / "m.safetensors")
    assert export(tmp_path / "m.safetensors", tmp_path / "new" / "w.pt", "torch") == 0
    monai = WHOLE[name][2]().eval()
    monai.load_state_dict(torch.load(tmp_path / "new" / "w.pt", weights_only=True), strict=True)
    if name == "swin_unetr":  # the slow one; its values are compared in test_networks.py
        return
    x = torch.randn(1, 2, *WHOLE[name][1])
    with torch.no_grad():
        torch.testing.assert_close(
            monai(x), load_model(tmp_path / "m.safetensors")[0](x), rtol=1e-5, atol=1e-5
        )


def test_second_names_cost_nothing(tmp_path, model):
    assert export(model, tmp_path / "w.pt", "torch") == 0
    assert export(model, tmp_path / "w.safetensors", "safetensors") == 0
    single = load_file(tmp_path / "w.safetensors")
    assert len(torch.load(tmp_path / "w.pt", weights_only=True)) == 2 * len(single) - 2
    assert (tmp_path / "w.pt").stat().st_size < 1.2 * (tmp_path / "w.safetensors").stat().st_size
    assert not [name for name in single if name.startswith(("encoder.", "decoder."))]


@pytest.mark.parametrize(("form", "ending"), [("torch", "pt"), ("safetensors", "safetensors")])
def test_an_encoder_lacks_exactly_the_decoder(tmp_path, form, ending):
    source = build_encoder("swin_unetr", 1, 12)
    save_weights(source, tmp_path / "encoder.safetensors", {"recipe": "v1", "steps": "500", "seen": "a,b,c"})
    whole = published(outputs=14)
    torch.save({"net": whole}, tmp_path / "whole.pt")
    for path, options, tensors in (
        (tmp_path / "encoder.safetensors", (), source.state_dict()),
        (tmp_path / "whole.pt", ("--encoder-only",), whole),
    ):
        out = tmp_path / f"{path.stem}-out.{ending}"
        assert export(path, out, form, *options) == 0
        read = torch.load(out, weights_only=True) if form == "torch" else load_file(out)
        result = SwinUNETR(1, 14, feature_size=12, use_v2=True).load_state_dict(read, strict=False)
        parts = {name.split(".")[0] for name in result.missing_keys}
        assert parts == {"decoder1", "decoder2", "decoder3", "decoder4", "decoder5", "out"}
        assert len(result.missing_keys) == 22 and not result.unexpected_keys
        assert all(torch.equal(value, tensors[name]) for name, value in read.items())


def test_the_lines_on_the_page_work(tmp_path, monkeypatch):
    save_model(network_of("unetr"), card_of("unetr"), tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    for form, name in (("torch", "w.pt"), ("safetensors", "w.safetensors")):
        assert export("m.safetensors", name, form) == 0
        code = re.search(r"```python\n(.*?)```", Path(f"{name}.md").read_text(encoding="utf-8"), re.DOTALL)
        space: dict = {}
        exec(code[1], space)
        assert torch.equal(space["network"].vit.norm.weight, network_of("unetr").encoder.vit.norm.weight)


READ = {
    "torchscript": ("ts", lambda path: torch.jit.load(path)),
    "torch-export": ("pt2", lambda path: torch.export.load(path).module()),
}


@pytest.mark.parametrize(
    ("form", "name"), [("torchscript", "unet"), ("torchscript", "unetr"), ("torch-export", "unet")]
)
def test_programs_compute_what_the_network_does_for_any_number_of_crops(tmp_path, capsys, form, name):
    network = network_of(name)
    save_model(network, card_of(name), tmp_path / "m.safetensors")
    ending, read = READ[form]
    assert export(tmp_path / "m.safetensors", tmp_path / f"p.{ending}", form) == 0
    said = capsys.readouterr().out
    measured = float(re.search(r"at most (\S+), (\S+) of the largest \(tolerance 1e-04\)", said)[2])
    program = read(str(tmp_path / f"p.{ending}"))
    with torch.no_grad():
        for crops in (1, 2, 3):
            x = torch.rand(crops, 2, *WHOLE[name][1])
            expected = network.eval()(x)
            assert (program(x) - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert 0 <= measured <= 1e-4


def test_a_classification_is_a_program_too(tmp_path):
    network = network_of(task="classification")
    save_model(network, card_of(task="classification"), tmp_path / "m.safetensors")
    assert export(tmp_path / "m.safetensors", tmp_path / "p.ts", "torchscript") == 0
    x = torch.rand(3, 2, 32, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.jit.load(str(tmp_path / "p.ts"))(x), network.eval()(x), rtol=1e-4, atol=1e-5
        )


def test_a_program_that_computes_something_else_is_not_left_behind(tmp_path, model, monkeypatch, capsys):
    class Wrong(torch.nn.Module):
        def forward(self, x):
            return x[:, :1].repeat(1, 3, 1, 1, 1)

    monkeypatch.setattr("VoCoCore.models.export_programs.torch.jit.load", lambda *_, **__: Wrong())
    assert export(model, tmp_path / "p.ts", "torchscript") == 1
    assert "program is wrong" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [model.name]


def test_onnx(tmp_path, model, capsys):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (pip install onnx onnxscript onnxruntime)")
    import onnxruntime

    assert export(model, tmp_path / "m.onnx", "onnx") == 0
    assert "tolerance 1e-04" in capsys.readouterr().out
    session, network = onnxruntime.InferenceSession(str(tmp_path / "m.onnx")), network_of().eval()
    for crops in (1, 3):
        x = torch.rand(crops, 2, 32, 32, 48)
        (found,) = session.run(["logits"], {"image": x.numpy()})
        with torch.no_grad():
            expected = network(x)
        assert np.abs(found - expected.numpy()).max() <= 1e-4 * expected.abs().max()


def test_the_page_tells_what_is_known_and_no_names(tmp_path, model):
    assert export(model, tmp_path / "w.pt", "torch") == 0
    text = (tmp_path / "w.pt.md").read_text(encoding="utf-8")
    for words in (
        "0.8123",
        "| train cases | 12 |",
        "| 1 | class 1 | 1 |",
        "t1, t2",
        "1.5, 1.5, 2.0",
        "To be filled in",
    ):
        assert words in text, words
    assert "MrSmith" not in text and str(tmp_path) not in text
    save_weights(
        build_encoder("unet", 1, 4, 32),
        tmp_path / "e.safetensors",
        {"recipe": "v1", "run": "MrSmith", "seen": "a,b", "prepare": json.dumps(MR)},
    )
    assert export(tmp_path / "e.safetensors", tmp_path / "e.pt", "torch") == 0
    text = (tmp_path / "e.pt.md").read_text(encoding="utf-8")
    assert "| Recipe of the pre-training | v1 |" in text and "seen in pre-training | 2 |" in text
    assert "MrSmith" not in text and "| intensity | mr |" in text


def test_a_run_adds_its_figures(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {}, {})
    save_weights(build_encoder("unet", 1, 4, 32), run.weights / "encoder.safetensors")
    seen = {"type": "metrics", "step": 2, "split": "val", "values": {"position_accuracy": 0.5}}
    events = [{"type": "started", "attempt": 1, "step": 0}, seen]
    lines = [json.dumps({"v": 1, "time": 1.0, **event}) for event in events]
    run.events_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert export(run.path, tmp_path / "e.pt", "torch") == 0
    assert "| held-out position accuracy | 0.5 |" in (tmp_path / "e.pt.md").read_text(encoding="utf-8")


def regions():
    colours = palette(4)[1:]
    values = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
    return tuple(
        OutputClass(name, of, colour) for (name, of), colour in zip(values.items(), colours, strict=True)
    )


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_bundle_is_one_for_monai(tmp_path, activation):
    from monai.bundle import ConfigParser, verify_net_in_out

    changes = {"classes": regions()} if activation == "sigmoid" else {}
    card = card_of(prepare=MR, activation=activation, **changes)
    save_model(network_of(), card, tmp_path / "m.safetensors")
    assert export(tmp_path / "m.safetensors", tmp_path / "bundle", "bundle") == 0
    configs = tmp_path / "bundle" / "configs"
    verify_net_in_out(
        "network_def", str(configs / "metadata.json"), str(configs / "inference.json"), device="cpu"
    )
    parser = ConfigParser()
    parser.read_config(str(configs / "inference.json"))
    parser.read_meta(str(configs / "metadata.json"))
    parser["bundle_root"] = str(tmp_path / "bundle")
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(
        torch.load(tmp_path / "bundle" / "models" / "model.pt", weights_only=True), strict=True
    )
    x = torch.rand(1, 2, 32, 32, 48)
    with torch.no_grad():
        expected = network_of().eval()(x)
        torch.testing.assert_close(network.eval()(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            parser.get_parsed_content("inferer")(x, network), expected, rtol=1e-4, atol=1e-4
        )
    assert len(parser.get_parsed_content("postprocessing").transforms) == 4
    page = (tmp_path / "bundle" / "docs" / "README.md").read_text(encoding="utf-8")
    assert "python -m monai.bundle run" in page
    assert "MONAI, einops, fire, nibabel and pytorch-ignite installed" in page, "all that its commands import"
    outputs = parser["_meta_#network_data_format#outputs#pred"]
    assert outputs["channel_def"]["0"] == card.classes[0].name and outputs["num_channels"] == 3


PREPARATIONS = {
    "mr": {"intensity": "mr", "spacing": (1.5, 1.1, 2.0)},
    "ct": {"intensity": "ct", "window": (-100.0, 200.0), "spacing": (1.2, 1.2, 1.9)},
    "ct as it is": {"intensity": "ct"},
    "none": {"intensity": "none"},
    "body part": {"intensity": "ct", "by_body_part": True},
}


@pytest.mark.parametrize("name", PREPARATIONS)
def test_a_bundle_prepares_images_as_we_do(tmp_path, name):
    """Up to the box of the foreground, which a sliding window does not need."""
    from monai.bundle import ConfigParser

    array = np.random.default_rng(0).normal(50, 120, (40, 36, 20)).astype(np.float32)
    affine = np.array([[0, -1.3, 0, 5], [-1.1, 0, 0, 7], [0, 0, 2.5, -3], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "a.nii.gz")
    prepare = PrepareSettings(foreground=0.0, fit="pad", **PREPARATIONS[name])
    card = card_of(prepare=prepare.to_dict(), channels=("ct",), body_part="chest" if "body" in name else None)
    plan = plan_case(array[None], affine, prepare, (1, 1, 1), card.body_part)
    ours = apply_plan(array[None], plan, np.float32)[0]
    steps = preprocessing(card, prepare, prepare.intensity)
    chain = ConfigParser({"t": {"_target_": "Compose", "transforms": steps}}).get_parsed_content("t")
    theirs = np.asarray(chain({"image": str(tmp_path / "a.nii.gz")})["image"])[0]
    inner = tuple(slice(a, a + b) for a, b in zip(plan.start, plan.size, strict=True))
    np.testing.assert_allclose(theirs[inner], ours[tuple(slice(0, n) for n in plan.size)], atol=2e-4)
    assert ours.std() > 0.03


def test_voxel_values_that_are_no_class_numbers_are_mapped(tmp_path):
    classes = tuple(OutputClass(str(v), (v,), c) for v, c in zip((0, 2, 4), palette(3), strict=True))
    save_model(network_of(), card_of(prepare=MR, classes=classes), tmp_path / "m.safetensors")
    assert export(tmp_path / "m.safetensors", tmp_path / "b", "bundle") == 0
    config = json.loads((tmp_path / "b" / "configs" / "inference.json").read_text(encoding="utf-8"))
    step = next(s for s in config["postprocessing"]["transforms"] if s["_target_"] == "MapLabelValued")
    assert dict(zip(step["orig_labels"], step["target_labels"], strict=True)) == {0: 0, 1: 2, 2: 4}


def test_outputs_are_replaced_only_when_asked(tmp_path, model, capsys):
    for form, output in (("torch", tmp_path / "w.pt"), ("bundle", tmp_path / "b")):
        assert export(model, output, form) == 0
        assert export(model, output, form) == 2 and "--overwrite" in capsys.readouterr().err
        assert export(model, output, form, "--overwrite") == 0
    left = {path.name for path in tmp_path.iterdir()} - {"config"}
    assert left == {"b", "model.safetensors", "w.pt", "w.pt.md"}, "nothing is left beside them"
