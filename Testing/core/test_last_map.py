"""A pre-training that compares last maps: nothing else is computed, trained or handed on as if it were trained."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from VoCoCore.models.convert import convert_weights
from VoCoCore.models.encoders import ENCODERS, build_encoder
from VoCoCore.models.inspection import inspect_weights
from VoCoCore.models.interface import Encoder
from VoCoCore.models.weights import load_weights, save_weights
from VoCoCore.presets import resolve_pretrain
from VoCoCore.pretext.build import build_task, encoder_factory
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.events import read_events
from VoCoCore.settings import ENCODER_LIMITS
from VoCoCore.training.checkpoint import newest
from VoCoCore.training.finetune import finetune
from VoCoCore.training.pretrain import Pretraining, pretrain

SIZES = {"swin_unetr": 12, "unetr": 4, "unet": 4}
UPPER = ("encoder1.", "encoder2.", "encoder3.", "encoder4.")


def two_builds(name):
    """An encoder, and one of the same weights for the last map alone."""
    built = []
    for last_only in (False, True):
        torch.manual_seed(0)
        edge = ENCODER_LIMITS[name][0]
        built.append(build_encoder(name, 1, SIZES[name], edge, last_only=last_only))
    return built


@pytest.mark.parametrize("name", ENCODERS)
def test_the_last_map_is_that_of_the_whole_encoder(name):
    whole, last = two_builds(name)
    x = torch.randn(1, 1, *whole.input_size)
    with torch.no_grad():
        (found,) = last(x)
        assert torch.equal(found, whole(x)[-1])
    last(x)[0].square().sum().backward()
    for key, parameter in last.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    assert whole.state_dict().keys() == last.state_dict().keys()


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_that_is_trained_gets_a_gradient(name):
    """Ranks would otherwise wait for it."""
    edge = ENCODER_LIMITS[name][0]
    options = {"recipe": "paper", "preset": "tiny", "model.encoder": name, "model.feature_size": SIZES[name]}
    small = {"model.projector_width": 8, "crops.counts": (2, 1, 1), "crops.input_size": (edge,) * 3}
    settings = resolve_pretrain({}, {**options, **small})
    task = build_task(settings, encoder_factory(settings, 1)).train()
    kept = torch.ones(1, 4, dtype=torch.bool)
    labels = torch.tensor([[[0.75, 0.25], [0.5, 0.5]]])
    task({"crops": torch.rand(4, 1, edge, edge, edge), "labels": labels, "keep": kept}).loss.backward()
    for key, parameter in task.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key


def small_unetr(cohort, **changes):
    own = {"model__encoder": "unetr", "optim__steps": 4, "run__checkpoint_every": 2, "data__val_fraction": 0}
    return cohort.settings("paper", **{**own, **changes})


@pytest.fixture(scope="module")
def parent(small_cohort, tmp_path_factory):
    return pretrain(small_unetr(small_cohort), tmp_path_factory.mktemp("last") / "run")


def test_parts_that_were_not_trained_are_left_out_and_begin_anew(parent, labelled_cohort, tmp_path):
    file = load_file(parent.weights)
    assert any(name.startswith("vit.") for name in file)
    assert not [name for name in file if name.startswith(UPPER)]
    settings = labelled_cohort.settings(
        init=str(parent.run), optim__steps=1, model__encoder=None, model__feature_size=None
    )
    run = tmp_path / "run"
    finetune(settings, run)
    said = next(e["text"] for e in read_events(run / "events.jsonl") if e.get("name") == "weights")
    assert "encoder1, encoder2, encoder3, encoder4 begin anew: the pre-training did not reach them" in said
    parts = json.loads((run / "environment.json").read_text())["coverage"]
    assert parts["vit"] == 1.0 and all(parts[f"encoder{number}"] == 0.0 for number in (1, 2, 3, 4))
    coverage = convert_weights(parent.weights, tmp_path / "again.safetensors")
    assert coverage.fraction > 0.9


def test_a_file_without_them_is_still_the_encoder(tmp_path):
    save_weights(two_builds("swin_unetr")[1], tmp_path / "e.safetensors", untrained=("encoder1", "encoder2"))
    assert inspect_weights(tmp_path / "e.safetensors").found.words.startswith("the encoder of swin_unetr")


def test_what_a_file_gave_is_handed_on_although_it_learns_no_more(small_cohort, parent, tmp_path):
    given = build_encoder("unetr", 1, 4, small_unetr(small_cohort).crops.input_size)
    save_weights(given, tmp_path / "given.safetensors")
    settings = small_unetr(small_cohort, init=str(tmp_path / "given.safetensors"))
    asked = iter([False, True])
    pretrain(settings, tmp_path / "run", should_stop=lambda: next(asked, True))
    made = load_file(pretrain(settings, tmp_path / "run", resume=True).weights)
    upper = {name: value for name, value in given.state_dict().items() if name.startswith(UPPER)}
    assert upper and all(torch.equal(made[name], value) for name, value in upper.items())
    heir = pretrain(small_unetr(small_cohort, init=str(parent.run), optim__steps=1), tmp_path / "heir")
    assert not [name for name in load_file(heir.weights) if name.startswith(UPPER)]


def test_a_checkpoint_from_before_goes_on_to_the_same_weights(small_cohort, parent, tmp_path, monkeypatch):
    """It lists the parts that nothing reaches among the optimiser's parameters, and does not say that it has them."""
    asked = iter([False, True])
    with monkeypatch.context() as before:
        before.setattr(Encoder, "keep_to_last", lambda self: None)
        before.setattr(Pretraining, "kept", lambda self: {"best": self.best})
        pretrain(small_unetr(small_cohort), tmp_path / "run", should_stop=lambda: next(asked, True))
    kept = torch.load(newest(RunDirectory(tmp_path / "run").checkpoints)[0] / "state.pt", weights_only=True)
    updater = kept["updater"]["optimizer"]
    assert len(updater["param_groups"][0]["params"]) > len(updater["state"]) and set(kept["extra"]) == {
        "best"
    }
    resumed = load_file(pretrain(small_unetr(small_cohort), tmp_path / "run", resume=True).weights)
    whole = load_file(parent.weights)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    with safe_open(parent.weights, "pt") as file:
        assert file.metadata()["untrained"] == "encoder1,encoder2,encoder3,encoder4"
    assert load_weights(build_encoder("unetr", 1, 4, 32), parent.weights).lacks("encoder4")
