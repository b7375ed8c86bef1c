"""The same image under two names: no division parts its cases, and where a list has done it, a run says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from made_cohorts import LabelledCohort
from made_labels import Cases

from VoCoCore.cli import main
from VoCoCore.data.cases import load_index
from VoCoCore.evaluation.finetune_report import judge, write_finetune_report
from VoCoCore.runs.events import read_events
from VoCoCore.training import labelled_cohort as labelled
from VoCoCore.training.finetune import finetune
from VoCoCore.training.pretrain import pretrain


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three volumes under two names each: a0 and b0 to a2 and b2; plain NIfTI, so that all have one size."""
    made = tmp_path / "images"
    made.mkdir()
    for number in range(3):
        voxels = np.random.default_rng(number).integers(-900, 300, (40, 40, 40)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), made / f"a{number}.nii")
        shutil.copy(made / f"a{number}.nii", made / f"b{number}.nii")
    return made


def splits(path: Path) -> dict[str, str | None]:
    return {case.id: case.split for case in load_index(path).cases}


@pytest.mark.parametrize("seed", range(3))
def test_a_list_is_not_divided_between_names_of_one_image(folder, tmp_path, seed) -> None:
    words = [
        "data",
        "index",
        str(folder),
        "-o",
        str(tmp_path / "i.json"),
        "--val",
        "0.3",
        "--seed",
        str(seed),
    ]
    assert main(words) == 0
    found = splits(tmp_path / "i.json")
    assert all(found[f"a{n}"] == found[f"b{n}"] for n in range(3)) and set(found.values()) == {"train", "val"}


def test_what_a_source_gives_stands_and_the_other_name_follows(folder, tmp_path) -> None:
    lines = ["a0.nii,train", "b0.nii,val", "a1.nii,val", "b1.nii,", "a2.nii,", "b2.nii,"]
    (folder / "list.csv").write_text("\n".join(["image,split", *lines]) + "\n")
    words = ["data", "index", str(folder / "list.csv"), "-o", str(tmp_path / "i.json"), "--val", "0.3"]
    assert main(words) == 0
    found = splits(tmp_path / "i.json")
    assert (found["a0"], found["b0"], found["a1"], found["b1"]) == ("train", "val", "val", "val")
    assert found["a2"] == found["b2"] == "train"


def test_a_pre_training_holds_out_what_it_does_not_train_on_or_says_so(
    folder, small_cohort, tmp_path
) -> None:
    settings = small_cohort.settings(data__source=str(folder), optim__steps=1, optim__warmup=0)
    pretrain(settings, tmp_path / "run")
    cohort = json.loads((tmp_path / "run" / "private" / "cohort.json").read_text())
    assert not {*cohort["train"]} & {*cohort["val"]}
    lines = ["a0.nii,train", "b0.nii,val", "a1.nii,train"]
    (folder / "list.csv").write_text("\n".join(["image,split", *lines]) + "\n")
    parted = small_cohort.settings(
        data__source=str(folder / "list.csv"),
        data__store=str(tmp_path / "store"),
        optim__steps=1,
        optim__warmup=0,
    )
    pretrain(parted, tmp_path / "parted")
    assert "1 held-out case has the same images as a case of another split" in warnings(tmp_path / "parted")
    named = json.loads((tmp_path / "parted" / "private" / "twins.json").read_text())
    assert named == [["a0 (train)", "b0 (val)"]]


def warnings(run: Path) -> str:
    return "\n".join(e["message"] for e in read_events(run / "events.jsonl") if e["type"] == "warning")


@pytest.fixture
def parted(tmp_path) -> LabelledCohort:
    """Five labelled cases, of which the test case is a training case under another name."""
    made = Cases(tmp_path / "cases", 4)
    shutil.copy(made.folder / "c0.nii.gz", made.folder / "again.nii.gz")
    names = [("c0", "train"), ("c1", "train"), ("c2", "val"), ("again", "test"), ("c3", "test")]
    lines = [f"{name}.nii.gz,l{number % 4}.nii.gz,{split}" for number, (name, split) in enumerate(names)]
    (made.folder / "list.csv").write_text("\n".join(["image,label,split", *lines]) + "\n")
    return LabelledCohort(made.folder / "list.csv", tmp_path / "store")


def test_test_cases_that_were_trained_on_are_told_and_not_called_unseen(parted, tmp_path) -> None:
    run = tmp_path / "run"
    assert finetune(parted.settings(optim__steps=1), run).finished
    assert "1 held-out case has the same images" in warnings(run) and "again" not in warnings(run)
    assert json.loads((run / "private" / "twins.json").read_text()) == [["c0 (train)", "again (test)"]]
    page = write_finetune_report(run).read_text()
    assert "1 held-out case has the same images as a case of another split, so scores flatter" in page
    scores = {"dice": 0.6, "cases": 9.0}
    assert "None of these cases was looked at" in judge(scores, scores, False).text
    assert "None of these cases was looked at" not in judge(scores, scores, False, twins=1).text


def test_a_run_that_was_divided_without_it_goes_on_as_divided(tmp_path, monkeypatch) -> None:
    cases = Cases(tmp_path / "cases", 3)
    for number in range(3):
        shutil.copy(cases.folder / f"c{number}.nii.gz", cases.folder / f"d{number}.nii.gz")
        cases.entries.append({**cases.entries[number], "image": f"d{number}.nii.gz"})
    made, run = LabelledCohort(cases.save(), tmp_path / "store"), tmp_path / "run"
    settings = made.settings(data__val_fraction=0.2, data__test_fraction=0.2, optim__steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(labelled, "with_twins_joined", lambda index: index)
        told: list[str] = []
        hear = [lambda event: told.append(event["type"])]
        assert not finetune(settings, run, listeners=hear, should_stop=lambda: "started" in told).finished
    kept = json.loads((run / "private" / "cohort.json").read_text())
    assert kept.pop("joined")
    (run / "private" / "cohort.json").write_text(json.dumps(kept))
    before = splits(run / "private" / "index.json")
    assert any(before[f"c{n}"] != before[f"d{n}"] for n in range(3))
    assert finetune(settings, run, resume=True).finished and splits(run / "private" / "index.json") == before
    finetune(settings, tmp_path / "new")
    after = splits(tmp_path / "new" / "private" / "index.json")
    assert all(after[f"c{n}"] == after[f"d{n}"] for n in range(3))
