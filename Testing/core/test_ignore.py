"""The label that nnU-Net calls "ignore": its voxels are no class, are not trained on and are not scored."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import torch
from made_cohorts import SMALL_FINETUNE
from made_labels import Cases, mask, write

from VoCoCore.data.cases import Case, Source
from VoCoCore.data.label_maps import NOT_COUNTED, read_label
from VoCoCore.data.places import places_of
from VoCoCore.data.store import Store
from VoCoCore.downstream.segmentation import lookup_table
from VoCoCore.errors import DataError
from VoCoCore.evaluation.evaluate import evaluate, write_evaluation
from VoCoCore.evaluation.final import examine
from VoCoCore.models.model_files import load_model
from VoCoCore.protocols import resolve_finetune
from VoCoCore.training.case_facts import facts_of
from VoCoCore.training.finetune import finetune
from VoCoCore.training.labelled_cohort import labelled_index

LABELS = {"background": 0, "blob": 1, "ignore": 2}


def settings(cases: Cases, **changes):
    places = {"data.source": str(cases.save()), "data.store": str(cases.folder / "store"), "optim.steps": 1}
    own = {**SMALL_FINETUNE, "prepare.spacing": "1,1,1", "prepare.window": "-900,300", **places, **changes}
    return resolve_finetune({}, own)


@pytest.fixture
def cases(tmp_path) -> Cases:
    made = Cases(tmp_path / "cases")
    made.labels = dict(LABELS)
    return made


@pytest.mark.parametrize("regions", [False, True])
def test_it_is_neither_trained_nor_scored(cases, tmp_path, regions) -> None:
    if regions:
        cases.labels["blob"] = [1]
    finetune(settings(cases), tmp_path / "run")
    _, card = load_model(tmp_path / "run" / "weights" / "model.safetensors")
    assert [kind.name for kind in card.classes] == (["blob"] if regions else ["background", "blob"])
    store = Store(cases.folder / "store")
    keys = store.keys()
    for key in keys:
        label = store.open(key).read()[-1]
        assert (
            np.count_nonzero(label == NOT_COUNTED) == np.count_nonzero(mask(1, 2) == 2) and label.max() == 1
        )
        assert store.header(key)["labels"]["values"] == [0, 1], "no crop is centred on such voxels"
    target = lookup_table(card.classes, card.activation)[torch.tensor([NOT_COUNTED]) + 1]
    assert regions or target.item() == -1
    examine(tmp_path / "run")
    with open(tmp_path / "run" / "validation" / "per_case.csv", newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"blob"}


def test_its_values_do_not_choose_the_window(cases) -> None:
    for number in range(4):
        array = np.zeros((36, 34, 33), np.int16)
        array[mask(1, 2) == 1], array[mask(1, 2) == 2] = 100, 900
        write(cases.folder / f"c{number}.nii.gz", array)
    made = settings(cases)
    assert facts_of(labelled_index(made)[0], made).under_labels == (100.0, 100.0)


def test_predictions_there_do_not_count(cases, tmp_path) -> None:
    """Of a perfect prediction that also marks much of it."""
    cases.save()
    predicted = mask(1)
    predicted[12:19, 10:20, 10:20] = 1
    for number in range(4):
        write(tmp_path / "predicted" / f"c{number}.nii.gz", predicted)
    done = evaluate(tmp_path / "predicted", cases.folder / "dataset.json", workers=0)
    assert list(done.labels) == ["blob"]
    assert all(found["blob"].dice == 1.0 and found["blob"].hd95 == 0 for found in done.scores.values())
    page = (write_evaluation(tmp_path / "scores", done) / "evaluation.html").read_text()
    shown = set(re.findall(r"prediction, \w+ \d+/\d+", page))
    assert shown == {"prediction, axial 7/33", "prediction, coronal 7/34"}, "nor do they choose what is shown"
    (cases.folder / "dataset.json").write_text(
        json.dumps({**json.loads((cases.folder / "dataset.json").read_text()), "labels": {"blob": 1, "x": 2}})
    )
    done = evaluate(tmp_path / "predicted", cases.folder / "dataset.json", workers=0)
    assert all(found["blob"].dice < 0.8 for found in done.scores.values()), "another name counts"


def test_where_it_cuts_a_label_there_is_no_surface(cases, tmp_path) -> None:
    """Of a column that runs into it; the prediction goes three voxels too far at the other end."""
    cases.save()
    reference = np.zeros((36, 34, 33), np.uint8)
    reference[10:20, 10:20, 4:20], reference[:, :, 20:] = 1, 2
    predicted = np.zeros_like(reference)
    predicted[10:20, 10:20, 1:] = 1
    for number in range(4):
        write(cases.folder / f"l{number}.nii.gz", reference)
        write(tmp_path / "predicted" / f"c{number}.nii.gz", predicted)
    found = evaluate(tmp_path / "predicted", cases.folder / "dataset.json", workers=0).scores["c0"]["blob"]
    assert found.dice == pytest.approx(2 * 1600 / (1600 + 1900))
    # Sides of 36 voxels a slice and one lid of 64 more each. Of the reference's lid the 28 beside the sides are within
    # 1 mm, of the prediction the sides to 1 mm below that lid.
    assert found.surface_dice == pytest.approx((16 * 36 + 28 + 17 * 36) / (16 * 36 + 64 + 19 * 36 + 64))


def test_a_label_of_nothing_else_is_an_error(tmp_path) -> None:
    write(tmp_path / "l.nii.gz", np.full((4, 4, 4), 2, np.uint8))
    case = Case("a", (Source("i"),), label=Source(str(tmp_path / "l.nii.gz")), patient="a")
    with pytest.raises(DataError, match="says of no voxel"):
        read_label(case, (4, 4, 4), np.eye(4), (0, 1, 2), ignored=2)
    assert (read_label(case, (4, 4, 4), np.eye(4), (0, 1, 2)) == 2).all()
    assert places_of(np.array([[[-1, 0, 3, 3]]], np.int16), 0).values.tolist() == [0, 3]


def test_a_label_of_which_preparing_leaves_nothing_is_an_error(cases) -> None:
    label = np.full((36, 34, 33), 2, np.uint8)
    label[:, :, 5] = 1  # a plane between those of the prepared image
    write(cases.folder / "l0.nii.gz", label)
    with pytest.raises(DataError, match=r"l0\.nii\.gz says of no voxel that is left"):
        finetune(settings(cases, **{"prepare.spacing": "1,1,2"}), cases.folder / "run")
