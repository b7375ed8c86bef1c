"""Fine-tuning that cannot be: labels, lists, divisions, settings, weights and machines; one line each, nothing lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults import meet
from made_cohorts import SMALL_FINETUNE
from made_labels import Cases, body, mask, rows, write

from VoCoCore import devices
from VoCoCore.cli import main
from VoCoCore.data.store_volume import PLACES_FILE
from VoCoCore.errors import SettingsError
from VoCoCore.protocols import resolve_finetune
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.events import read_events
from VoCoCore.training.checkpoint import checkpoints
from VoCoCore.training.finetune import finetune
from VoCoCore.training.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("own_config")


@pytest.fixture
def cases(tmp_path) -> Cases:
    return Cases(tmp_path / "data")


@pytest.fixture
def call(tmp_path) -> Callable[..., list[str]]:
    """Words of a fine-tuning of one step on a source, in tmp_path/run."""

    def make(source: object, *more: object, **changes: Any) -> list[str]:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        values = {**SMALL_FINETUNE, "prepare.spacing": None, "optim.steps": 1, "run.validate_every": 1}
        values |= {"data.source": source, "data.store": tmp_path / "store", **named}
        options = [str(word) for n, v in values.items() if v is not None for word in (f"--{n}", v)]
        return ["finetune", "--run", str(tmp_path / "run"), *options, *map(str, more)]

    return make


def warnings_of(run: Path) -> list[str]:
    return [e["message"] for e in read_events(run / "events.jsonl") if e["type"] == "warning"]


# Settings: said before anything is made

SETTINGS: list[tuple[str, Sequence[str], Sequence[str]]] = [
    ("no labels to train on", ["--labels", "0"], ["cannot be 0", "data.labels"]),
    ("one and a half labels", ["--labels", "1.5"], ["cannot be 1.5", "data.labels"]),
    ("a fold that there is not", ["--fold", "5"], ["cannot be 5", "0 to 4", "data.fold"]),
    ("a fold that is a word", ["--fold", "first"], ["cannot be first", "or all", "data.fold"]),
    ("one fold of one", ["--data.folds", "1"], ["from 2", "data.folds"]),
    ("all folds in the background", ["--fold", "all", "--detach"], ["--detach", "--data.fold all"]),
    ("a crop that does not suit", ["--patches.size", "33,32,32"], ["multiples of 16", "patches.size"]),
    (
        "a feature size that does not suit",
        ["--encoder", "swin_unetr", "--model.feature_size", "10", "--patches.size", "64,64,64"],
        ["multiple of 12", "model.feature_size"],
    ),
    ("an unknown protocol", ["--protocol", "mmwh"], ["Did you mean 'mmwhs'", "protocol"]),
    ("a protocol of another task", ["--protocol", "ccii", "--task", "segmentation"], ["ccii", "--task"]),
    ("no time to train in", ["--hours", "0"], ["from 0.001", "run.hours"]),
    ("an unknown loss", ["--loss.kind", "dice_cee"], ["Did you mean 'dice_ce'", "loss.kind"]),
    (
        "shares that leave no case",
        ["--data.val_fraction", "0.5", "--data.test_fraction", "0.5"],
        ["leave no case", "data.val_fraction"],
    ),
    ("a segmentation that is stretched", ["--prepare.fit", "resize"], ["must be pad", "prepare.fit"]),
    (
        "a classification of a part of a case",
        ["--task", "classification", "--prepare.fit", "pad"],
        ["must be resize", "prepare.fit"],
    ),
    ("flips without all axes", ["--augment.flip", "0.5"], ["3 numbers", "augment.flip"]),
    ("an unknown setting of fine-tuning", ["--optim.freez", "stem"], ["Did you mean '--optim.freeze'"]),
]


@pytest.mark.parametrize(("kind", "more", "says"), SETTINGS, ids=[entry[0] for entry in SETTINGS])
def test_settings(kind, more, says, call, capsys, tmp_path) -> None:
    meet(capsys, kind, 2, call("no-such-folder", *more), says)
    assert not (tmp_path / "run").exists()


# Labels


def on_another_grid(cases: Cases) -> None:
    write(cases.folder / "l1.nii.gz", mask(1, 2, shape=(36, 34, 20)))


def undeclared(cases: Cases) -> None:
    write(cases.folder / "l2.nii.gz", mask(1, 7))


def fractions(cases: Cases) -> None:
    write(cases.folder / "l0.nii.gz", mask(0.5, 1, kind=np.float32))


def label_is_image(cases: Cases) -> None:
    cases.entries[2]["label"] = cases.entries[2]["image"]


def label_gone(cases: Cases) -> None:
    (cases.folder / "l3.nii.gz").unlink()


def label_cut(cases: Cases) -> None:
    path = cases.folder / "l3.nii.gz"
    path.write_bytes(path.read_bytes()[:80])


def not_a_number(cases: Cases) -> None:
    array = body().astype(np.float32)
    array[6, 8, 8] = np.nan  # below the label
    write(cases.folder / "c1.nii.gz", array)


def only_background(cases: Cases) -> None:
    cases.labels = {"background": 0}


def nothing_marked(cases: Cases) -> None:
    for number in range(4):
        write(cases.folder / f"l{number}.nii.gz", mask())


def nothing_marked_and_no_names(cases: Cases) -> None:
    nothing_marked(cases)
    cases.labels = {}


def other_channels(cases: Cases) -> None:
    for entry in cases.entries:
        entry["image"] = [entry["image"], entry["image"]]
    cases.entries[0]["image"] = cases.entries[0]["image"][:1]


def no_labels(cases: Cases) -> None:
    for entry in cases.entries:
        del entry["label"]


LABELS: list[tuple[str, Callable[[Cases], None], Sequence[str]]] = [
    (
        "a label of training on another grid",
        on_another_grid,
        ["not on the grid", "36 x 34 x 20", "l1.nii.gz"],
    ),
    ("undeclared label values", undeclared, ["holds 7, declared are 0, 1, 2", "l2.nii.gz"]),
    ("a label with fractions", fractions, ["not whole numbers", "l0.nii.gz"]),
    ("an image as its own label", label_is_image, ["its own image", "c2.nii.gz"]),
    ("a label that is gone", label_gone, ["l3.nii.gz"]),
    ("a label cut off", label_cut, ["l3.nii.gz"]),
    ("NaN below a label", not_a_number, ["not finite", "c1.nii.gz"]),
    ("a list of labels without a class", only_background, ["mark nothing", "only the background"]),
    ("labels that are all empty", nothing_marked, ["are empty", "nothing to learn"]),
    ("labels that are all empty, and no list", nothing_marked_and_no_names, ["mark nothing"]),
    ("cases with other channels than the others", other_channels, ["has no file for"]),
    ("no labelled case", no_labels, ["no case in", "has a label", "dataset.json"]),
]


@pytest.mark.parametrize(("kind", "spoil", "says"), LABELS, ids=[entry[0] for entry in LABELS])
def test_labels(kind, spoil, says, cases, call, capsys, tmp_path) -> None:
    spoil(cases)
    meet(capsys, kind, 3, call(cases.save()), says)
    assert not checkpoints(tmp_path / "run" / "checkpoints")
    assert RunDirectory(tmp_path / "run").state() == "failed"


def test_a_case_that_cannot_be_used_is_left_out_where_that_is_wanted(cases, call, tmp_path) -> None:
    not_a_number(cases)
    label_cut(cases)
    cases.labels = {}
    assert main(call(cases.save(), "--skip-bad", prepare__spacing=None, prepare__window="-200,300")) == 0
    assert any("2 cases cannot be used" in text for text in warnings_of(tmp_path / "run"))


# Divisions


def test_divisions_that_leave_nothing(call, capsys, tmp_path) -> None:
    lists = {
        "all labelled cases kept for the end": ["c0.nii.gz,l0.nii.gz,test,", "c1.nii.gz,l1.nii.gz,test,"],
        "all labelled cases to validate on": ["c0.nii.gz,l0.nii.gz,val,", "c1.nii.gz,l1.nii.gz,val,"],
    }
    for number, (kind, lines) in enumerate(lists.items()):
        source = rows(tmp_path / str(number), *lines)
        meet(capsys, kind, 3, call(source), ["no labelled case in", "left to train on", "list.csv"])
        shutil.rmtree(tmp_path / "run")
    whose = [f"c{n}.nii.gz,l{n}.nii.gz,,meier" for n in range(4)]
    source = rows(tmp_path / "one", *whose)
    meet(capsys, "folds of one patient", 2, call(source, "--fold", "0"), ["1 patient does not make 5 folds"])


def test_no_usable_training_case_is_left(call, capsys, tmp_path) -> None:
    source = rows(tmp_path / "data", "c0.nii.gz,l0.nii.gz,train,", "c1.nii.gz,l1.nii.gz,val,")
    write(tmp_path / "data" / "l0.nii.gz", mask(1, 2, shape=(36, 34, 20)))
    words = call(source, "--skip-bad", prepare__spacing="8,8,10", prepare__window="-200,300")
    meet(capsys, "no usable case to train on", 3, words, ["no usable case is left to train on"])


def test_more_is_asked_than_there_is(cases, call, capsys, tmp_path) -> None:
    source = cases.save()
    meet(capsys, "more labels than cases", 2, call(source, "--labels", "50"), ["asks for 50", "data.labels"])
    shutil.rmtree(tmp_path / "run")
    meet(
        capsys, "more folds than patients", 2, call(source, "--fold", "0"), ["4 patients do not make 5 folds"]
    )
    settings = resolve_finetune({}, {**SMALL_FINETUNE, "data.fold": "all", "data.source": str(source)})
    with pytest.raises(SettingsError, match="one run trains one fold"):
        finetune(settings, tmp_path / "other")


def test_a_list_says_how_many_folds_there_are(cases, call, capsys, tmp_path) -> None:
    cases.save()
    listed = [f"c{n}.nii.gz,l{n}.nii.gz,{n % 3}" for n in range(4)]
    source = tmp_path / "data" / "folds.csv"
    source.write_text("\n".join(["image,label,fold", *listed]))
    words = call(source, "--fold", "all", prepare__spacing="8,8,10", prepare__window="-200,300")
    for number in (2, 5):
        assert main([*words, "--data.folds", str(number)]) == 2
        assert f"data.folds is {number}" in (said := capsys.readouterr().err) and "has 3 folds" in said
    assert not (tmp_path / "run").exists()
    assert main([*words, "--estimate"]) == 0 and "each of 3 folds" in capsys.readouterr().out
    assert main(words) == 0 and "ensemble of 3 folds" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "run").glob("fold-*")) == ["fold-0", "fold-1", "fold-2"]
    assert RunDirectory(tmp_path / "run" / "fold-2").read_settings()["data"]["folds"] == 3
    assert main([*words, "--resume"]) == 0


@pytest.mark.parametrize("given_test", [False, True])
def test_a_single_case_is_trained_on_with_a_warning(given_test, call, tmp_path) -> None:
    """Also where other cases are kept for the end."""
    lines = ["c0.nii.gz,l0.nii.gz,,"] + ["c1.nii.gz,l1.nii.gz,test,"] * given_test
    assert main(call(rows(tmp_path / "data", *lines))) == 0
    said = warnings_of(tmp_path / "run")
    assert len(said) == 1 and "no case is left to validate on" in said[0]
    assert (tmp_path / "run" / "weights" / "model.safetensors").is_file()
    splits = [e["split"] for e in read_events(tmp_path / "run" / "events.jsonl") if e["type"] == "metrics"]
    assert splits == ["train", "test"] if given_test else ["train"]


def test_a_class_that_no_training_case_shows_is_named(cases, call, tmp_path) -> None:
    for number in range(4):
        write(cases.folder / f"l{number}.nii.gz", mask(1))
    assert main(call(cases.save())) == 0
    said = [text for text in warnings_of(tmp_path / "run") if "cannot be learned" in text]
    assert said == ["no training case shows 'other': it cannot be learned"]


# Classes of cases


def test_classes_of_cases(call, capsys, tmp_path) -> None:
    task = ["--task", "classification"]
    Cases(tmp_path / "data")
    lists = {
        "a classification without classes": ("image,label\nc0.nii.gz,l0.nii.gz\n", ["has a class (target)"]),
        "a classification of one class": (
            "image,target\nc0.nii.gz,ill\nc1.nii.gz,ill\n",
            ["one class, 'ill'"],
        ),
    }
    for kind, (text, says) in lists.items():
        (tmp_path / "data" / "list.csv").write_text(text)
        meet(capsys, kind, 3, call(tmp_path / "data" / "list.csv", *task), says)
        shutil.rmtree(tmp_path / "run")


# Weights to start from


@pytest.fixture(scope="module")
def parent(small_cohort, tmp_path_factory) -> Path:
    """A finished pre-training of one step."""
    run = tmp_path_factory.mktemp("parent") / "run"
    pretrain(small_cohort.settings(optim__steps=1), run)
    return run


def unfinished(parent: Path, folder: Path) -> Path:
    shutil.copytree(parent, folder / "begun")
    shutil.rmtree(folder / "begun" / "weights")
    return folder / "begun"


def web_page(parent: Path, folder: Path) -> Path:
    (folder / "page.pt").write_text("<!DOCTYPE html><html></html>" * 20)
    return folder / "page.pt"


def several_folds(parent: Path, folder: Path) -> Path:
    for number in range(2):
        shutil.copytree(parent, folder / "folds" / f"fold-{number}")
    return folder / "folds"


INITS: list[tuple[str, Callable[[Path, Path], Path], dict[str, Any], Sequence[str]]] = [
    ("weights to start from that are gone", lambda p, f: f / "gone.pt", {}, ["gone.pt"]),
    ("a web page to start from", web_page, {}, ["web page", "page.pt"]),
    ("a folder to start from that is no run", lambda p, f: f, {}, ["neither a run nor"]),
    ("a run to start from that is not finished", unfinished, {}, ["has no weights yet", "begun"]),
    ("several folds to start from", several_folds, {}, ["several folds", "fold-0"]),
    (
        "weights of another encoder to start from",
        lambda p, f: p,
        {"model__encoder": "unetr"},
        ["unetr", "encoder.safetensors"],
    ),
    (
        "weights of another feature size to start from",
        lambda p, f: p,
        {"model__feature_size": 8},
        ["8", "encoder.safetensors"],
    ),
]


@pytest.mark.parametrize(("kind", "make", "changes", "says"), INITS, ids=[entry[0] for entry in INITS])
def test_weights(kind, make, changes, says, parent, cases, call, capsys, tmp_path) -> None:
    init = make(parent, tmp_path)
    meet(capsys, kind, 3, call(cases.save(), "--init", init, **changes), says)
    assert not checkpoints(tmp_path / "run" / "checkpoints")


# Runs


def test_runs_of_another_kind_or_with_other_settings(parent, cases, call, capsys, tmp_path) -> None:
    words = ["finetune", "--run", parent, "--resume"]
    says = ["run of 'voco pretrain'", "voco jobs resume", parent]
    meet(capsys, "resuming a pre-training as a fine-tuning", 2, words, says)
    assert main(call(cases.save())) == 0
    meet(capsys, "a fine-tuning where there is a run", 2, call(cases.save()), [tmp_path / "run"])
    words = ["finetune", "--run", tmp_path / "run", "--resume", "--optim.lr", "0.5"]
    meet(capsys, "resuming a fine-tuning with another rate", 2, words, ["other settings: optim.lr"])
    write(cases.folder / "l0.nii.gz", np.roll(mask(1, 2), 2, axis=1))
    words = ["finetune", "--run", tmp_path / "run", "--resume"]
    meet(
        capsys, "resuming with corrected labels", 2, words, ["not the cases that the run", "content differs"]
    )
    words = ["pretrain", "--run", tmp_path / "run", "--resume"]
    says = ["run of 'voco finetune'", "voco jobs resume", tmp_path / "run"]
    meet(capsys, "resuming a fine-tuning as a pre-training", 2, words, says)


def test_a_crop_that_does_not_suit_a_network_that_is_chosen(cases, call, capsys, tmp_path) -> None:
    """Said when the network is chosen, before cases are prepared."""
    words = call(cases.save(), model__encoder=None, patches__size="40,40,40")
    meet(capsys, "a crop that does not suit the chosen network", 2, words, ["patches.size", "suit unet"])
    assert not (tmp_path / "store").exists()
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
    # Nothing is computed yet, so the same folder may be used with other settings.
    assert main(["finetune", "--run", str(tmp_path / "run"), "--resume", "--patches.size", "32,32,32"]) == 0


# The machine


def test_ranks_that_do_not_divide_the_batch(cases, call, capsys, monkeypatch) -> None:
    one = devices.choose

    monkeypatch.setattr("VoCoCore.training.attempt.choose", lambda run: replace(one(run), ranks=3))
    words = call(cases.save(), "--batch", "4")
    meet(
        capsys,
        "a batch that ranks cannot share",
        2,
        words,
        ["4 cannot be divided among 3 ranks", "optim.batch"],
    )


def test_disks_that_are_too_small(cases, call, capsys, tmp_path, monkeypatch) -> None:
    little = shutil.disk_usage(tmp_path)._replace(free=100_000)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: little)
        says = ["4 cases need about", "are free", tmp_path / "store"]
        meet(capsys, "a disk too small for labelled cases", 4, call(cases.save()), says)
    shutil.rmtree(tmp_path / "run")
    assert main(call(cases.save())) == 0
    shutil.rmtree(tmp_path / "run")
    monkeypatch.setattr("shutil.disk_usage", lambda path: little)
    says = ["the checkpoints need", tmp_path / "run"]
    meet(capsys, "a disk too small for a fine-tuning's checkpoints", 4, call(cases.save()), says)
    assert not checkpoints(tmp_path / "run" / "checkpoints")


def test_memory_that_runs_out(cases, call, capsys, tmp_path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("VoCoCore.downstream.segmentation.segmentation_loss", full)
    tries = [
        ({"patches__per_case": 4}, "--patches.per_case 2"),
        ({"patches__per_case": 1, "optim__batch": 2}, "--optim.batch 1 --optim.accumulate 2"),
        ({"patches__per_case": 1, "optim__batch": 1}, "--model.checkpointing true"),
        (
            {"patches__per_case": 1, "optim__batch": 1, "model__checkpointing": "true"},
            "lower patches.per_case",
        ),
    ]
    for changes, says in tries:
        words = call(cases.save(), **changes)
        meet(capsys, "out of memory in fine-tuning", 4, words, ["out of memory on the CPU", says])
        assert RunDirectory(tmp_path / "run").state() == "failed"
        shutil.rmtree(tmp_path / "run")


def test_places_that_are_damaged_meanwhile(cases, call, capsys, tmp_path) -> None:
    assert main(call(cases.save())) == 0
    shutil.rmtree(tmp_path / "run")
    for path in (tmp_path / "store").rglob(PLACES_FILE):
        path.write_bytes(b"nothing")
    says = ["is damaged", "prepare the cases again", tmp_path / "store"]
    meet(capsys, "a prepared label is damaged", 3, call(cases.save()), says)
