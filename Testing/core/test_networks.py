"""Fine-tuned networks: MONAI's values under MONAI's names, deep supervision, classification, and their files."""

from __future__ import annotations

import json

import pytest
import torch
from made_models import WHOLE, card_of, network_of
from safetensors.torch import load_file, save_file

from VoCoCore.errors import DataError, SettingsError
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.heads import pool_maps
from VoCoCore.models.model_files import load_model, save_model
from VoCoCore.models.networks import ClassificationNetwork, SegmentationNetwork
from VoCoCore.models.published import canonical
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.weights import model_paths


@pytest.mark.parametrize("name", WHOLE)
def test_the_values_are_those_of_monais_whole_network(name):
    monai, ours = WHOLE[name][2]().eval(), network_of(name).eval()
    tensors = {canonical(key): tensor for key, tensor in ours.state_dict().items()}
    assert len(tensors) == len(ours.state_dict())
    own = {key: value for key, value in monai.state_dict().items() if not key.startswith("skip_layers.")}
    assert {key: value.shape for key, value in tensors.items()} == {k: v.shape for k, v in own.items()}
    monai.load_state_dict(tensors, strict=name != "unet")  # DynUNet lists every tensor twice
    x = torch.randn(1, 2, *WHOLE[name][1])
    with torch.no_grad():
        logits = ours(x)
        torch.testing.assert_close(logits, monai(x), rtol=1e-5, atol=1e-5)
    assert logits.shape == (1, 3, *x.shape[2:]) and logits.std() > 0


@pytest.mark.parametrize("name", ["unet", "unetr"])
def test_deep_supervision_gives_three_resolutions_in_training_alone(name):
    size, window, _ = WHOLE[name]
    encoder = build_encoder(name, 1, size, window, checkpointing=True)
    network, x = SegmentationNetwork(encoder, 3, deep=True), torch.randn(1, 1, *window)
    outputs = network(x)
    assert [tuple(out.shape[1:]) for out in outputs] == [(3, *(e // s for e in window)) for s in (1, 2, 4)]
    sum(out.square().mean() * (i + 1) for i, out in enumerate(outputs)).backward()
    trained = [(key, p) for key, p in network.named_parameters() if p.requires_grad]
    assert not [key for key, p in trained if p.grad is None]
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), outputs[0])


def test_computing_blocks_again_keeps_the_gradients():
    networks = [
        SegmentationNetwork(build_encoder("unet", 1, 4, 32, checkpointing=c), 2) for c in (False, True)
    ]
    networks[1].load_state_dict(networks[0].state_dict())
    x = torch.randn(1, 1, 32, 32, 32)
    for network in networks:
        network(x).square().mean().backward()
    for (key, ours), theirs in zip(networks[0].named_parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-4, atol=1e-6, msg=key)


def test_classification_reads_the_means_of_all_maps():
    network = ClassificationNetwork(build_encoder("unet", 1, 4, 32), 3, dropout=0.5).eval()
    x = torch.randn(2, 1, 32, 32, 32)
    with torch.no_grad():
        features = pool_maps(network.encoder(x))
        torch.testing.assert_close(network(x), features @ network.head.weight.T + network.head.bias)
        assert network(x).shape == (2, 3)
        different = [network.train()(x) for _ in range(2)]
    assert not torch.equal(*different), "dropout works in training"


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_model_comes_back_from_its_file(tmp_path, task):
    card, file = card_of(task=task, facts={"mean Dice": "0.8"}), tmp_path / "weights" / "model.safetensors"
    network = network_of(task=task)
    save_model(network, card, file)
    again, read = load_model(file)
    assert read == card and not again.training
    assert all(torch.equal(again.state_dict()[key], value) for key, value in network.state_dict().items())
    x = torch.randn(1, 2, *card.window)
    with torch.no_grad():
        assert torch.equal(again(x), network.eval()(x))


def test_deep_heads_are_not_kept(tmp_path):
    card = card_of()
    network = SegmentationNetwork(build_encoder("unet", 2, 4, card.window), 3, deep=True)
    save_model(network, card, tmp_path / "m.safetensors")
    assert not [key for key in load_file(tmp_path / "m.safetensors") if "deep" in key]
    x = torch.randn(1, 2, *card.window)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "m.safetensors")[0](x), network.eval()(x))


def without(name):
    return lambda tensors, facts: tensors.pop(name)


def replaced(name, tensor):
    return lambda tensors, facts: tensors.update({name: tensor})


def with_card(**changes):
    return lambda tensors, facts: facts.update(card_of(**changes).to_metadata())


def with_entry(name, value):
    def change(tensors, facts):
        facts["card"] = json.dumps({**json.loads(facts["card"]), name: value})

    return change


def class_of(**changes):
    return with_entry("classes", [{"name": "a", "values": [1], "colour": [0, 0, 0], **changes}])


DAMAGES = [
    (
        without("decoder.output_block.conv.conv.bias"),
        r"lacks 1 tensor .*decoder\.output_block\.conv\.conv\.bias",
    ),
    (replaced("decoder.output_block.conv.conv.bias", torch.zeros(4)), r"\[4\], its card asks for \[3\]"),
    (replaced("decoder.more", torch.zeros(4)), r"decoder\.more, which its network does not have"),
    (replaced("decoder.output_block.conv.conv.bias", torch.tensor([0.0, 1.0, torch.nan])), "not finite"),
    (with_card(encoder="unetr"), "lacks .* tensors"),
    (with_card(feature_size=0), "cannot be.*feature size"),
    (with_card(task="segmentations"), "Did you mean 'segmentation'"),
    (lambda tensors, facts: facts.update(card="{"), "damaged"),
    (lambda tensors, facts: facts.update(card="[" * 100_000), "damaged: maximum recursion"),
    (with_card(feature_size=4096), r"in the shape .*, its card asks for \[4096"),
    *(
        (with_entry(name, value), f"damaged: its {name} cannot be")
        for name, value in {
            "encoder": [],
            "feature_size": "4",
            "window": [10**6, 32, 32],
            "activation": "relu",
            "prepare": None,
            "channels": [],
            "body_part": {},
            "facts": {"dice": 1},
            "classes": [],
        }.items()
    ),
    (class_of(values=[]), "damaged: its classes cannot be"),
    (class_of(values=[70_000]), "damaged: its classes cannot be"),
    (class_of(colour=[0, 0, 256]), "damaged: its classes cannot be"),
    (class_of(colour=[0, 0, float("inf")]), "damaged: cannot convert"),
    (lambda tensors, facts: facts.pop("card"), "is no fine-tuned network"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[words[-20:] for _, words in DAMAGES])
def test_a_file_that_does_not_hold_its_whole_network_is_refused(tmp_path, damage, words):
    tensors, facts = network_of().state_dict(), card_of().to_metadata()
    damage(tensors, facts)
    save_file(tensors, tmp_path / "m.safetensors", facts)
    with pytest.raises(DataError, match=words) as caught:
        load_model(tmp_path / "m.safetensors")
    assert "m.safetensors" in str(caught.value) and caught.value.hint


def run_folder(path, weights=""):
    run = RunDirectory.create(path, {}, {})
    if weights:
        (run.weights / weights).write_bytes(b"x")
    return path


def test_models_are_found_behind_files_runs_and_folds(tmp_path):
    run = run_folder(tmp_path / "run", "model.safetensors")
    file = run / "weights" / "model.safetensors"
    assert model_paths(run) == model_paths(file) == model_paths(str(run)) == [file]
    folds = tmp_path / "folds"
    for number in (10, 2, 0):
        run_folder(folds / f"fold-{number}", "model.safetensors")
    (folds / "fold-3").mkdir()
    found = [path.parent.parent.name for path in model_paths(folds)]
    assert found == ["fold-0", "fold-2", "fold-10"], "by number; what is no run is not a fold"


def test_sources_without_a_model_say_what_they_are(tmp_path):
    (tmp_path / "folder").mkdir()
    run_folder(tmp_path / "folds" / "fold-1")
    run = run_folder(tmp_path / "new")
    status = {"state": "stopped", "step": 3, "total": 9, "heartbeat": 1.0}
    (run / "status.json").write_text(json.dumps(status))
    for path, words in (
        (tmp_path / "no", "there is no"),
        (tmp_path / "folder", "neither a run nor a folder of folds"),
        (run_folder(tmp_path / "pre", "encoder.safetensors"), "is a pre-training.*voco finetune --init"),
        (run, "no weights yet: it is stopped, step 3 of 9"),
        (tmp_path / "folds", "fold-1 has no weights yet"),
    ):
        with pytest.raises(DataError, match=words):
            model_paths(path)


def test_networks_that_cannot_be():
    with pytest.raises(SettingsError, match="at least one output"):
        SegmentationNetwork(build_encoder("unet", 1, 4, 32), 0)
