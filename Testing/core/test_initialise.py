"""Where networks start from: runs, their checkpoints, published files; and what of them fits."""

from __future__ import annotations

import json

import pytest
import torch
from made_models import card_of, network_of, published

from VoCoCore.errors import DataError
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.initialise import initialise
from VoCoCore.models.model_files import save_model
from VoCoCore.models.networks import ClassificationNetwork, SegmentationNetwork
from VoCoCore.models.weights import save_weights
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.weights import weights_file

pytestmark = pytest.mark.usefixtures("own_config")


def segmenting(outputs=3, encoder="unet", channels=1, size=32, features=4):
    torch.manual_seed(1)
    return SegmentationNetwork(build_encoder(encoder, channels, features, size), outputs)


def copied(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def differing(module, before):
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def test_scratch_changes_nothing():
    network = segmenting()
    before = copied(network)
    assert initialise(network, "scratch") is None
    assert not differing(network, before)


def test_an_encoder_file_fills_the_encoder_and_leaves_the_decoder(tmp_path):
    source, network = build_encoder("unet", 1, 4, 32), segmenting()
    save_weights(source, tmp_path / "e.safetensors")
    before = copied(network)
    coverage = initialise(network, tmp_path / "e.safetensors")
    assert differing(network.encoder, source.state_dict()) == set()
    assert not [name for name in differing(network, before) if name.startswith("decoder.")]
    assert coverage.share("encoder.") == 1.0 and coverage.fraction < 0.9
    assert coverage.by_part() == "100.0% of the encoder loaded; the decoder begins anew"


def test_a_whole_published_network_fills_the_decoder_but_for_another_number_of_classes(tmp_path):
    state = published(outputs=21)
    torch.save({"net": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "VoComni_B.pt")
    network = segmenting(outputs=14, encoder="swin_unetr", size=64, features=12)
    before = copied(network)
    coverage = initialise(network, tmp_path / "VoComni_B.pt")
    left = {"decoder.out.conv.conv.weight", "decoder.out.conv.conv.bias"}
    assert {mismatch.name for mismatch in coverage.mismatched} == left and not coverage.missing
    assert not differing(network, before) & left
    found = {
        name.removeprefix("encoder.").removeprefix("decoder."): value
        for name, value in copied(network).items()
    }
    assert all(
        torch.equal(found[name], value) for name, value in state.items() if not name.startswith("out.")
    )
    same = segmenting(outputs=21, encoder="swin_unetr", size=64, features=12)
    assert initialise(same, tmp_path / "VoComni_B.pt").fraction == 1.0


def test_little_of_the_encoder_is_an_error_although_the_decoder_fits(tmp_path):
    source, network = segmenting(), segmenting()
    state = {name: value + 1 for name, value in source.state_dict().items() if "bottleneck" not in name}
    torch.save(state, tmp_path / "w.pt")
    before = copied(network)
    with pytest.raises(DataError, match=r"fills only \d+% of the encoder's weights.*bottleneck"):
        initialise(network, tmp_path / "w.pt")
    assert not differing(network, before)
    assert initialise(network, tmp_path / "w.pt", allow_partial=True).share("decoder.") == 1.0
    assert initialise(segmenting(), tmp_path / "w.pt", minimum=0.1).share("encoder.") < 0.5


def test_nothing_of_the_encoder_is_an_error_even_where_parts_are_allowed(tmp_path):
    torch.save(dict(segmenting().decoder.state_dict()), tmp_path / "decoder.pt")
    with pytest.raises(DataError, match="0% of the encoder's"):
        initialise(segmenting(), tmp_path / "decoder.pt", allow_partial=True)


def test_a_segmentation_starts_a_classification_and_the_other_way_round(tmp_path):
    save_model(network_of(), card_of(), tmp_path / "s.safetensors")
    save_model(network_of(task="classification"), card_of(task="classification"), tmp_path / "c.safetensors")
    classifier = ClassificationNetwork(build_encoder("unet", 2, 4, 32), 3)
    coverage = initialise(classifier, tmp_path / "s.safetensors")
    assert set(coverage.missing) == {"head.weight", "head.bias"} and coverage.share("encoder.") == 1.0
    coverage = initialise(segmenting(channels=1), tmp_path / "c.safetensors")
    assert coverage.share("encoder.") == 1.0 and set(coverage.unexpected) == {"head.weight", "head.bias"}
    assert "from 2 to 1 input channels" in coverage.summary()
    assert coverage.by_part().startswith(
        "100.0% of the encoder loaded; the decoder begins anew; 2 not used; "
    )


def test_a_pre_training_and_its_checkpoints(stopped_run):
    step = sorted(stopped_run.checkpoints.iterdir())[-1]
    files = {source: weights_file(source) for source in (step, step / "state.pt", step / "model.safetensors")}
    assert set(files.values()) == {step / "model.safetensors"}
    network = segmenting()
    coverage = initialise(network, step)
    assert coverage.share("encoder.") == 1.0
    assert all("head" in name for name in coverage.unexpected), "the projector has no place"
    from safetensors.torch import load_file

    student = load_file(step / "model.safetensors")["student.encoder.bottleneck.conv1.conv.weight"]
    assert torch.equal(network.encoder.bottleneck.conv1.conv.weight, student)


def test_a_run_gives_its_weights_and_says_how_it_stands_without(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {}, {})
    (run.path / "status.json").write_text(
        json.dumps({"state": "stopped", "step": 2, "total": 4, "heartbeat": 1.0})
    )
    with pytest.raises(
        DataError, match=r"no weights yet: it is stopped, step 2 of 4  \(finish it.*another run"
    ):
        initialise(segmenting(), run.path)
    save_weights(build_encoder("unet", 1, 4, 32), run.checkpoints / "step-00000002" / "model.safetensors")
    with pytest.raises(DataError, match=r"start from its checkpoint .*step-00000002\)"):
        initialise(segmenting(), run.path)
    save_weights(build_encoder("unet", 1, 4, 32), run.weights / "encoder.safetensors")
    assert initialise(segmenting(), run.path).share("encoder.") == 1.0
    save_model(network_of(), card_of(), run.weights / "model.safetensors")
    assert initialise(segmenting(channels=2), str(run.path)).fraction == 1.0, "the whole network comes first"


def test_folders_that_are_no_run(tmp_path):
    (tmp_path / "folds" / "fold-0").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=r"several folds.*fold-0"):
        weights_file(tmp_path / "folds")
    with pytest.raises(DataError, match="neither a run nor a checkpoint"):
        weights_file(tmp_path / "other")
