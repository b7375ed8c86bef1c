"""Fine-tuning as a job: what it leaves, how it goes on, what it starts from, what it chooses and says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from VoCoCore.data.cases import load_index, save_index
from VoCoCore.data.images import case_content, short_hash
from VoCoCore.data.sources import index_source
from VoCoCore.errors import DataError, SettingsError, StopRequested
from VoCoCore.models.card import ModelCard
from VoCoCore.models.model_files import load_model
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.events import read_events
from VoCoCore.training.finetune import Finetuning, finetune
from VoCoCore.training.labelled_cohort import labelled_index
from VoCoCore.training.pretrain import pretrain


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "weights" / "model.safetensors")


def events_of(run: Path, kind: str) -> list[dict]:
    return [event for event in read_events(run / "events.jsonl") if event["type"] == kind]


def stopping_after(step: int):
    """Listeners and a should_stop that together end a job after ``step``."""
    seen: list[int] = []

    def listen(event: dict) -> None:
        if event["type"] == "progress":
            seen.append(event["step"])

    return {"listeners": [listen], "should_stop": lambda: bool(seen) and seen[-1] >= step}


@pytest.fixture(scope="module")
def finished(labelled_cohort, tmp_path_factory) -> Path:
    """A small finished fine-tuning from scratch."""
    folder = tmp_path_factory.mktemp("finetune") / "run"
    assert finetune(labelled_cohort.settings(), folder).finished
    return folder


def test_a_run_leaves_a_network_with_its_card(finished, labelled_cohort) -> None:
    network, card = load_model(finished / "weights" / "model.safetensors")
    # Those of checkpoints as well: others may read them like the events.
    weights = [*finished.rglob("*.safetensors")]
    assert {path.stat().st_mode for path in weights} == {(finished / "events.jsonl").stat().st_mode}
    assert isinstance(card, ModelCard) and card.task == "segmentation" and card.activation == "softmax"
    assert [kind.name for kind in card.classes][:3] == ["background", "liver", "spleen"]
    assert card.window == (32, 32, 32) and card.prepare["spacing"] == [8, 8, 10]
    with torch.no_grad():
        assert network(torch.rand(1, 1, 32, 32, 32)).shape == (1, 17, 32, 32, 32)
    assert str(labelled_cohort.source) not in json.dumps(card.facts)


def test_looks_score_each_class_and_the_best_state_is_kept(finished) -> None:
    looks = [event for event in events_of(finished, "metrics") if event["split"] == "val"]
    assert [look["step"] for look in looks] == [3, 6]
    assert {"dice", "dice_low", "dice_high", "dice_liver"} <= looks[-1]["values"].keys()
    kept = [e["text"] for e in events_of(finished, "stage") if str(e.get("text", "")).startswith("kept is")]
    best = max(looks, key=lambda look: look["values"]["dice"])
    assert len(kept) == 1 and "the best on the validation cases" in kept[0]
    manifests = [json.loads(p.read_text()) for p in sorted(finished.glob("checkpoints/*/manifest.json"))]
    assert any(m["best"] and m["step"] == best["step"] for m in manifests) or len(manifests) == 2


def test_a_stopped_run_goes_on_to_the_same_bits(finished, labelled_cohort, tmp_path) -> None:
    run = tmp_path / "run"
    first = finetune(labelled_cohort.settings(), run, **stopping_after(2))
    assert not first.finished and 2 <= first.steps < 6
    assert finetune(labelled_cohort.settings(data__workers=1), run, resume=True).finished
    ours, theirs = weights_of(run), weights_of(finished)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_all_augmentation_averaging_and_groups_resume_to_the_same_bits(labelled_cohort, tmp_path) -> None:
    changes = {
        "optim__ema": 0.9,
        "optim__decoder_first": 0.3,
        "optim__layer_decay": 0.8,
        "optim__freeze": "stem",
        "model__deep_supervision": True,
        "run__validate_every": 100,
        "augment__flip": "0.5,0.5,0.5",
        **{
            f"augment__{name}": 0.7
            for name in ("turn", "rotate", "zoom", "scale", "shift", "gamma", "noise", "blur")
        },
    }
    settings = labelled_cohort.settings(**changes)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    finetune(settings, straight)
    finetune(settings, broken, **stopping_after(4))
    finetune(settings, broken, resume=True)
    ours, theirs = weights_of(broken), weights_of(straight)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_it_starts_from_a_pre_training_and_says_how_much_was_filled(
    labelled_cohort, small_cohort, tmp_path
) -> None:
    parent = tmp_path / "parent"
    pretrain(small_cohort.settings(optim__steps=1), parent)
    settings = labelled_cohort.settings(
        init=str(parent), optim__steps=1, model__encoder=None, model__feature_size=None
    )
    run = tmp_path / "run"
    finetune(settings, run)
    said = [e["text"] for e in events_of(run, "stage") if e.get("name") == "weights"]
    assert said[0] == "100.0% of the encoder loaded; the decoder begins anew"
    environment = json.loads((run / "environment.json").read_text())
    assert environment["finetune"]["init"] == "VoCo pre-trained encoder"
    kept = RunDirectory(run).read_settings()
    assert (kept["model"]["encoder"], kept["model"]["feature_size"]) == ("unet", 4)
    assert kept["init"] == "scratch" and str(parent) not in json.dumps(
        kept
    )  # private: beside it, in private/


def test_freezing_leaves_the_encoder_as_it_came(labelled_cohort, small_cohort, tmp_path) -> None:
    parent = tmp_path / "parent"
    pretrain(small_cohort.settings(optim__steps=1), parent)
    before = load_file(parent / "weights" / "encoder.safetensors")
    run = tmp_path / "run"
    finetune(labelled_cohort.settings(init=str(parent), optim__freeze="encoder", optim__steps=2), run)
    after = weights_of(run)
    assert all(torch.equal(after[f"encoder.{name}"], value) for name, value in before.items())


def test_cases_seen_in_pre_training_are_told(labelled_cohort, tmp_path) -> None:
    from VoCoCore.presets import resolve_pretrain

    options = {
        "preset": "tiny",
        "recipe": "paper",
        "model.encoder": "unet",
        "model.feature_size": 4,
        "model.projector_width": 16,
        "crops.counts": "2,2,1",
        "optim.steps": 1,
        "data.source": str(labelled_cohort.source),
        "data.store": str(labelled_cohort.store),
        "run.threads": 1,
        "data.workers": 0,
    }
    pretrain(resolve_pretrain({}, options), tmp_path / "parent")
    finetune(labelled_cohort.settings(init=str(tmp_path / "parent"), optim__steps=1), tmp_path / "run")
    said = [event["message"] for event in events_of(tmp_path / "run", "warning")]
    assert any("2 of the cases held out here were seen in pre-training" in text for text in said), said


def test_fewer_labels_are_a_part_of_more(labelled_cohort, tmp_path) -> None:
    from VoCoCore.training.labelled_cohort import labelled_index

    def chosen(labels) -> set[str]:
        index, _ = labelled_index(labelled_cohort.settings(data__labels=labels))
        return {case.id for case in index.cases if case.split == "train"}

    assert len(chosen(2)) == 2 and len(chosen(0.5)) == 2 and len(chosen(None)) == 4
    assert chosen(2) <= chosen(3) <= chosen(None)
    with pytest.raises(SettingsError, match="asks for 9 training cases"):
        chosen(9)


def test_folds_divide_all_cases_and_meet_in_none(labelled_cohort) -> None:
    from VoCoCore.training.labelled_cohort import labelled_index

    held = []
    for fold in range(3):
        index, _ = labelled_index(labelled_cohort.settings(data__fold=str(fold), data__folds=3))
        held.append({case.id for case in index.cases if case.split == "val"})
    assert set.union(*held) == {case.id for case in index.cases} and sum(map(len, held)) == 6


def test_patience_ends_early_as_finished(labelled_cohort, tmp_path) -> None:
    settings = labelled_cohort.settings(
        optim__steps=12, optim__lr=0.0, run__validate_every=1, optim__patience=2, run__checkpoint_every=50
    )
    result = finetune(settings, tmp_path / "run")
    assert result.finished and result.steps == 3
    assert result.weights is not None and result.weights.is_file()


def test_a_run_whose_patience_was_over_only_leaves_its_network(
    labelled_cohort, tmp_path, monkeypatch
) -> None:
    """Ended between its last checkpoint and its network, it is gone on with."""
    settings = labelled_cohort.settings(
        optim__steps=12, optim__lr=0.0, run__validate_every=1, optim__patience=2, run__checkpoint_every=50
    )

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as cut, pytest.raises(StopRequested):
        cut.setattr(Finetuning, "export", end)
        finetune(settings, tmp_path / "run")
    events: list[dict] = []
    result = finetune(settings, tmp_path / "run", resume=True, listeners=[events.append])
    assert result.finished and result.steps == 3 and result.weights is not None
    assert not [event for event in events if event["type"] == "metrics"]


def test_what_is_open_is_chosen_and_said_with_reasons(labelled_cohort, tmp_path) -> None:
    from VoCoCore.protocols import resolve_finetune

    options = {
        "data.source": str(labelled_cohort.source),
        "data.store": str(labelled_cohort.store),
        "model.feature_size": 4,
        "run.threads": 1,
        "data.workers": 0,
        "optim.epochs": 1,
    }
    finetune(resolve_finetune({}, options), tmp_path / "run")
    kept = RunDirectory(tmp_path / "run").read_settings()
    said = [e["text"] for e in events_of(tmp_path / "run", "stage") if e.get("name") == "plan"]
    assert kept["model"]["encoder"] == "unet" and kept["prepare"]["intensity"] == "ct"
    assert kept["prepare"]["window"][0] < kept["prepare"]["window"][1] and kept["prepare"]["spacing"]
    assert kept["augment"]["flip"][0] == 0.0, "kidneys have sides"
    assert all(edge % 16 == 0 for edge in kept["patches"]["size"])
    for name in (
        "model.encoder",
        "prepare.window",
        "prepare.spacing",
        "patches.size",
        "optim.batch",
        "optim.steps",
    ):
        assert any(text.startswith(name) and ": " in text for text in said), (name, said)


def test_hours_become_steps(labelled_cohort, tmp_path) -> None:
    settings = labelled_cohort.settings(optim__steps=None, run__hours=0.002, run__validate_every=1000)
    finetune(settings, tmp_path / "run", **stopping_after(1))
    kept = RunDirectory(tmp_path / "run").read_settings()
    assert kept["optim"]["steps"] >= 10
    said = [e["text"] for e in events_of(tmp_path / "run", "stage") if e.get("name") == "plan"]
    assert any("0.002 h" in text for text in said)
    # The number of steps stands, and the rate falls towards its end: other hours would do nothing.
    longer = settings.with_values({"run.hours": 1.0})
    with pytest.raises(SettingsError, match=r"other settings: run\.hours"):
        finetune(longer, tmp_path / "run", resume=True)
    assert finetune(settings, tmp_path / "run", resume=True, **stopping_after(1)).steps > 1


def test_regions_overlap(labelled_cohort, tmp_path) -> None:
    """BraTS's manner: regions of several values, each with an output of its own."""
    from VoCoCore.data.cases import load_index, save_index
    from VoCoCore.data.sources import index_source

    index = index_source(str(labelled_cohort.source))
    whole = {"trunk": tuple(range(1, 17)), "kidneys": (3, 4)}
    from dataclasses import replace

    save_index(replace(index, regions=whole), tmp_path / "index.json")
    assert load_index(tmp_path / "index.json").regions == whole
    settings = labelled_cohort.settings(data__source=str(tmp_path / "index.json"), optim__steps=2)
    finetune(settings, tmp_path / "run")
    _, card = load_model(tmp_path / "run" / "weights" / "model.safetensors")
    assert card.activation == "sigmoid" and [kind.name for kind in card.classes] == ["trunk", "kidneys"]
    assert card.written_values() == (1, 3)


def test_classification_learns_what_a_mean_tells(tmp_path) -> None:
    from VoCoCore.data.images import write_image
    from VoCoCore.protocols import resolve_finetune

    rng = np.random.default_rng(0)
    rows = ["image,target,patient"]
    for number in range(12):
        kind = number % 2
        array = rng.normal(100, 20, (34, 33, 32)) + 0
        array[8 : 20 + 6 * kind, 10:20, 10:20] += 300 * (1 + kind)
        write_image(tmp_path / f"case{number}.nii.gz", array.astype(np.int16), np.eye(4))
        rows.append(f"case{number}.nii.gz,{'sick' if kind else 'well'},p{number}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    options = {
        "task": "classification",
        "data.source": str(tmp_path / "list.csv"),
        "data.store": str(tmp_path / "store"),
        "data.val_fraction": 0.34,
        "model.encoder": "unet",
        "model.feature_size": 4,
        "patches.size": "32,32,32",
        "optim.steps": 25,
        "optim.batch": 4,
        "optim.lr": 3e-3,
        "run.threads": 1,
        "data.workers": 0,
    }
    finetune(resolve_finetune({}, options), tmp_path / "run")
    _, card = load_model(tmp_path / "run" / "weights" / "model.safetensors")
    assert card.task == "classification" and {kind.name for kind in card.classes} == {"sick", "well"}
    look = [e for e in events_of(tmp_path / "run", "metrics") if e["split"] == "val"][-1]["values"]
    assert {"accuracy", "balanced_accuracy", "auroc"} <= look.keys()
    best = max(
        e["values"]["balanced_accuracy"]
        for e in events_of(tmp_path / "run", "metrics")
        if e["split"] == "val"
    )
    assert best >= 0.75


def test_other_data_are_refused_on_resume(labelled_cohort, tmp_path) -> None:
    from VoCoCore.data.phantom import make_cohort

    run = tmp_path / "run"
    finetune(labelled_cohort.settings(), run, **stopping_after(1))
    before = (run / "private" / "index.json").read_text()
    other = make_cohort(tmp_path / "other", cases=6, size=(40, 40, 24), seed=5)
    with pytest.raises(SettingsError, match="not the cases that the run"):
        finetune(labelled_cohort.settings(data__source=str(other)), run, resume=True)
    assert (run / "private" / "index.json").read_text() == before


def test_a_resumed_run_keeps_its_division_whatever_its_cases_are_called_now(
    labelled_cohort, tmp_path
) -> None:
    """The last look must not score a case as held out that the first attempt has trained on."""
    run, divisions = tmp_path / "run", set()
    finetune(labelled_cohort.settings(), run, **stopping_after(3))
    index = index_source(labelled_cohort.source)
    ids = [case.id for case in index.cases]
    held = {member["content"] for member in json.loads((run / "private/cohort.json").read_text())["val"]}
    for turn in range(1, len(ids)):
        names = ids[turn:] + ids[:turn]
        cases = (replace(c, id=name, patient=name) for c, name in zip(index.cases, names, strict=True))
        save_index(replace(index, cases=tuple(cases)), tmp_path / f"{turn}.json")
        settings = labelled_cohort.settings(data__source=str(tmp_path / f"{turn}.json"))
        divisions.add(frozenset(c.images for c in labelled_index(settings)[0].cases if c.split == "val"))
    assert len(divisions) > 1, "names decide the division, or this test shows nothing"
    for turn in range(1, len(ids)):
        settings = labelled_cohort.settings(data__source=str(tmp_path / f"{turn}.json"))
        finetune(settings, run, resume=True, should_stop=lambda: True)
        listed = load_index(run / "private" / "index.json").cases
        assert {short_hash(case_content(c)) for c in listed if c.split == "val"} == held


def test_no_label_at_all_is_an_error_that_names_the_source(small_cohort, labelled_cohort, tmp_path) -> None:
    with pytest.raises(DataError, match="has a label"):
        finetune(labelled_cohort.settings(data__source=str(small_cohort.source)), tmp_path / "run")
