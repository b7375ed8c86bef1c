"""Pre-training from files to weights: the run folder, resume, stop, options, errors."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from VoCoCore.errors import DataError, EnvironmentFault, SettingsError, StopRequested
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.weights import load_weights
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.events import read_events
from VoCoCore.training.checkpoint import checkpoints, newest
from VoCoCore.training.pretrain import pretrain

RECIPES = ("paper", "v1", "v2")


def final_model(run):
    found, _ = newest(RunDirectory(run).checkpoints)
    return load_file(found / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def events_of(run, kind):
    return [e for e in read_events(run / "events.jsonl") if e["type"] == kind]


@pytest.fixture(scope="module", params=RECIPES)
def finished(request, small_cohort, tmp_path_factory):
    """One whole small run of each recipe: settings and result."""
    settings = small_cohort.settings(request.param)
    return settings, pretrain(settings, tmp_path_factory.mktemp("runs") / "run")


def test_a_run_leaves_what_was_promised(finished):
    settings, result = finished
    run = RunDirectory.open(result.run)
    assert result.finished and run.state() == "finished" and run.read_status().step == 6
    assert json.loads((result.run / "settings.json").read_text())["recipe"] == settings.recipe
    values = [e["values"] for e in events_of(result.run, "metrics") if e["split"] == "train"]
    assert len(values) == 6 and all(v["skipped_steps"] == 0 for v in values)
    named = {
        "loss",
        "loss_prediction",
        "loss_regularisation",
        "learning_rate",
        "gradient_norm",
        "rate",
        "memory_mb",
    }
    assert named <= set(values[0]) and ("loss_inter" in values[0]) == (settings.recipe == "v2")
    held_out = [e["values"] for e in events_of(result.run, "metrics") if e["split"] == "val"]
    assert len(held_out) == 2
    assert (
        0
        <= held_out[0]["accuracy_low"]
        <= held_out[0]["position_accuracy"]
        <= held_out[0]["accuracy_high"]
        <= 1
    )
    assert {"chance", "shuffled_accuracy", "base_similarity", "effective_rank"} <= set(held_out[0])
    assert [path.name for path in checkpoints(run.checkpoints)] == ["step-00000003", "step-00000006"]
    assert events_of(result.run, "finished")[0]["state"] == "finished"
    environment = json.loads((result.run / "environment.json").read_text())
    assert "cpu" in environment["device"] and len(environment["data"]["fingerprint"]) == 64


def test_the_weights_are_the_encoder_and_load_into_a_new_one(finished):
    settings, result = finished
    encoder = build_encoder("unet", feature_size=4, input_size=settings.crops.input_size)
    coverage = load_weights(encoder, result.weights)
    assert coverage.fraction == 1.0
    trained = {
        k.removeprefix("student.encoder."): v
        for k, v in final_model(result.run).items()
        if "student.enc" in k
    }
    assert same(trained, dict(encoder.state_dict()))


def test_no_path_and_no_case_name_outside_private(finished, small_cohort):
    _, result = finished
    for path in result.run.iterdir():
        if path.is_file():
            text = path.read_text(errors="replace")
            assert str(small_cohort.source) not in text and "torso_0" not in text, path.name


def test_stop_and_resume_give_the_same_bits(tmp_path, finished):
    """Stopped after a step that is no checkpoint of its own, and gone on with by another loader."""
    settings, whole = finished
    asked = iter([False, False, False, False, True])
    stopped = pretrain(settings, tmp_path / "run", should_stop=lambda: next(asked, True))
    assert not stopped.finished and RunDirectory(stopped.run).state() == "stopped"
    again = settings.with_values({"data.workers": 1})
    resumed = pretrain(again, tmp_path / "run", resume=True)
    assert resumed.finished and same(final_model(resumed.run), final_model(whole.run))
    assert [e["attempt"] for e in events_of(resumed.run, "started")] == [1, 2]


def test_the_loss_scale_goes_on_where_it_was(small_cohort, tmp_path):
    """In fp16 the first steps overflow and halve the scale: begun at its first value again, other steps would count."""
    small = {"crops__counts": "1,1,1", "optim__batch": 1, "optim__steps": 3, "run__checkpoint_every": 1}
    settings = small_cohort.settings("v1", run__precision="fp16", **small)
    whole = pretrain(settings, tmp_path / "whole")
    seen = []
    stop = {"should_stop": lambda: any(event["type"] == "checkpoint" for event in seen)}
    stopped = pretrain(settings, tmp_path / "run", listeners=[seen.append], **stop)
    assert not stopped.finished
    resumed = pretrain(settings, tmp_path / "run", resume=True)
    assert same(final_model(resumed.run), final_model(whole.run))
    skipped = [e["values"]["skipped_steps"] for e in events_of(whole.run, "metrics") if e["split"] == "train"]
    assert skipped[0] > 0, "nothing overflowed, so this shows nothing"


@pytest.mark.parametrize("encoder", ["swin_unetr", "unetr"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_with_every_encoder(recipe, encoder, small_cohort, tmp_path):
    changes = {
        "model__encoder": encoder,
        "model__feature_size": 12,
        "crops__counts": "1,1,1",
        "crops__random_crops": 1,
        "optim__batch": 1,
        "optim__steps": 1,
        "optim__warmup": 0,
        "data__val_fraction": 0.0,
    }
    result = pretrain(small_cohort.settings(recipe, **changes), tmp_path / "run")
    assert result.weights.is_file()


@pytest.mark.parametrize(
    "changes",
    [
        {"run__precision": "bf16"},
        {"run__precision": "fp16"},
        {"optim__accumulate": 2},
        {"optim__clip": 0.5},
        {"model__checkpointing": True},
        {"optim__batch": 1, "pretext__lambda": 0},
        {"crops__volume_size": "61,50,35", "crops__counts": "3,2,2", "crops__random_size": "19,40,11"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_options_run(changes, small_cohort, tmp_path):
    result = pretrain(
        small_cohort.settings("v1", optim__steps=2, optim__warmup=0, **changes), tmp_path / "run"
    )
    values = [e["values"] for e in events_of(result.run, "metrics") if e["split"] == "train"]
    assert result.finished and all(v["loss"] == v["loss"] for v in values)


def test_another_data_set_is_refused_on_resume(small_cohort, tmp_path):
    settings = small_cohort.settings(optim__steps=2, run__validate_every=2)
    asked = iter([True])
    pretrain(settings, tmp_path / "run", should_stop=lambda: next(asked, True))
    (tmp_path / "run" / "private" / "cohort.json").write_text(
        (tmp_path / "run" / "private" / "cohort.json")
        .read_text()
        .replace('"fingerprint": "', '"fingerprint": "0')
    )
    other = settings.with_values({"data.store": str(tmp_path / "elsewhere")})
    (tmp_path / "elsewhere").mkdir()
    kept = json.loads((tmp_path / "run" / "private" / "cohort.json").read_text())
    kept["store"] = str(tmp_path / "elsewhere")
    (tmp_path / "run" / "private" / "cohort.json").write_text(json.dumps(kept))
    with pytest.raises(SettingsError, match="content differs"):
        pretrain(other, tmp_path / "run", resume=True)


def test_changed_settings_are_refused_on_resume(small_cohort, tmp_path):
    settings = small_cohort.settings(optim__steps=2)
    pretrain(settings, tmp_path / "run")
    with pytest.raises(SettingsError, match=r"optim\.lr"):
        pretrain(settings.with_values({"optim.lr": 0.5}), tmp_path / "run", resume=True)


def test_settings_may_change_while_nothing_has_been_computed(small_cohort, tmp_path):
    """What ran out of memory at its first step is tried again smaller, other volumes prepared included."""
    with pytest.raises(StopRequested):
        first = small_cohort.settings(data__store=str(tmp_path / "store"))
        pretrain(first, tmp_path / "run", should_stop=lambda: True)
    changes = {"crops__counts": "1,1,1", "crops__base_size": "32,48,32", "optim__batch": 1, "optim__steps": 2}
    again = small_cohort.settings(data__store=str(tmp_path / "store"), **changes)
    resumed = pretrain(again, tmp_path / "run", resume=True)
    other = pretrain(again, tmp_path / "other")
    assert same(final_model(resumed.run), final_model(other.run))
    assert json.loads((resumed.run / "settings.json").read_text())["crops"]["counts"] == [1, 1, 1]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(small_cohort, tmp_path):
    settings = small_cohort.settings(optim__steps=4, run__checkpoint_every=1)
    whole = pretrain(settings, tmp_path / "whole")
    asked = iter([False, False, True])
    pretrain(settings, tmp_path / "run", should_stop=lambda: next(asked, True))
    last = checkpoints(tmp_path / "run" / "checkpoints")[-1] / "model.safetensors"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    resumed = pretrain(settings, tmp_path / "run", resume=True)
    assert any("damaged" in e["message"] for e in events_of(resumed.run, "warning"))
    assert same(final_model(resumed.run), final_model(whole.run))


@pytest.mark.parametrize(("size", "warned"), [("16,16,32", True), ("32,32,32", False)])
def test_crops_too_small_for_the_networks_norm_are_said(size, warned, small_cohort, tmp_path):
    """Two values that are normed by themselves are +1 and -1 whatever they were: nothing is left to learn by."""
    result = pretrain(small_cohort.settings(crops__input_size=size, optim__steps=2), tmp_path / "run")
    said = [e["message"] for e in events_of(result.run, "warning") if "lowest map" in e["message"]]
    assert bool(said) == warned and all("16 x 16 x 32 voxels leave 2" in line for line in said)


def test_errors_end_the_run_as_failed_with_their_words(small_cohort, tmp_path):
    with pytest.raises(DataError) as caught:
        pretrain(small_cohort.settings(data__source=str(tmp_path / "nothing")), tmp_path / "run")
    assert caught.value.exit_code == 3
    assert RunDirectory(tmp_path / "run").state() == "failed"
    assert events_of(tmp_path / "run", "error")[0]["message"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_said(small_cohort, tmp_path):
    with pytest.raises(EnvironmentFault, match="no usable CUDA"):
        pretrain(small_cohort.settings(run__device="cuda"), tmp_path / "run")


def test_a_run_that_failed_at_its_start_can_be_gone_on_with(small_cohort, tmp_path):
    """A wrong path must not cost the user the folder's name."""
    settings = small_cohort.settings(optim__steps=1, optim__warmup=0)
    with pytest.raises(DataError):
        pretrain(settings.with_values({"data.source": str(tmp_path / "nothing")}), tmp_path / "run")
    assert pretrain(settings, tmp_path / "run", resume=True).finished


def test_asked_to_stop_while_preparing(small_cohort, tmp_path):
    """Prepared volumes stay; the run says stopped, not failed, and goes on where it was."""
    settings = small_cohort.settings(data__store=str(tmp_path / "store"), optim__steps=1, optim__warmup=0)
    with pytest.raises(StopRequested):
        pretrain(settings, tmp_path / "run", should_stop=lambda: True)
    assert RunDirectory(tmp_path / "run").state() == "stopped"
    assert pretrain(settings, tmp_path / "run", resume=True).finished


def test_pre_training_goes_on_from_another_ones_weights(small_cohort, tmp_path):
    pretrain(small_cohort.settings(optim__steps=1), tmp_path / "first")
    settings = small_cohort.settings(optim__steps=1, optim__lr=0.0, init=str(tmp_path / "first"), run__seed=5)
    pretrain(settings, tmp_path / "second")
    first, second = (
        load_file(tmp_path / name / "weights" / "encoder.safetensors") for name in ("first", "second")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert str(tmp_path) not in (tmp_path / "second" / "settings.json").read_text()
