"""What goes wrong with `voco evaluate` and `voco compare`: one line each, and nothing half written."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from faults import meet
from made_scores import AFFINE, SHAPE, cohort, dataset, organs, save, scored

from VoCoCore.cli import main
from VoCoCore.data.images import write_image
from VoCoCore.errors import DataError
from VoCoCore.evaluation.cases_table import read_per_case
from VoCoCore.evaluation.pairs import find_predictions

POSIX = pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")


def words(
    root: Path, *more: object, predictions: Path | None = None, references: Path | None = None
) -> list[object]:
    return [
        "evaluate", "--predictions", predictions or root / "predictions", "--references",
        references or root / "references", "-o", root / "out", "--workers", 0, *more,
    ]  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    cohort(tmp_path, 2)
    return tmp_path


def test_a_reference_without_a_prediction(capsys, folders):
    (folders / "predictions" / "case1.nii.gz").unlink()
    says = ["1 reference has no prediction", "--allow-missing", "case1"]
    meet(capsys, "a reference without a prediction", 3, words(folders), says)
    assert (folders / "out" / "summary.json").is_file(), "what could be scored was"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are Unicode there")
def test_names_of_files_that_are_no_unicode(capsys, folders):
    for folder in ("references", "predictions"):
        os.rename(folders / folder / "case1.nii.gz", os.fsencode(folders / folder) + b"/M\xfcller.nii.gz")
    assert main([str(word) for word in words(folders)]) == 0
    assert "M?ller" in read_per_case(folders / "out" / "per_case.csv")


def test_a_prediction_without_a_reference(capsys, folders):
    (folders / "references" / "case1.nii.gz").unlink()
    says = ["1 prediction has no reference", "case1.nii.gz"]
    meet(capsys, "a prediction without a reference", 3, words(folders), says)


def test_nothing_that_pairs(capsys, folders):
    for number in range(2):
        (folders / "predictions" / f"case{number}.nii.gz").rename(
            folders / "predictions" / f"p{number}.nii.gz"
        )
    says = ["no prediction is named like a reference", "p0, p1", "case0, case1"]
    meet(capsys, "predictions named otherwise than the references", 3, words(folders), says)


def test_a_prediction_on_another_grid(capsys, folders):
    moved = AFFINE.copy()
    moved[0, 3] = 5
    path = save(folders / "predictions" / "case0.nii.gz", organs(0), moved)
    says = ["they lie up to 5.00 mm apart", "--resample", path]
    meet(capsys, "a prediction on another grid", 3, words(folders), says)


def test_values_that_nobody_declared(capsys, tmp_path):
    root = dataset(tmp_path, 2)
    array = organs(1)
    array[0, 0, :3] = 7, 8, 9
    path = save(root / "predictions" / "case1.nii.gz", array)
    given = words(root, references=root / "dataset.json")
    meet(
        capsys,
        "a prediction with undeclared values",
        3,
        given,
        ["values 7, 8, 9, declared are 0, 1, 2", path],
    )
    save(root / "predictions" / "case1.nii.gz", organs(1))
    path = save(root / "labelsTr" / "case1.nii.gz", array)
    meet(capsys, "a reference with undeclared values", 3, given, ["values 7, 8, 9", path])


MAPS = [
    (
        "a prediction of probabilities",
        np.linspace(0, 1, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE),
        "whole",
    ),
    ("a prediction with NaN", np.full(SHAPE, np.nan, np.float32), "nan"),
    ("a prediction with values below zero", np.full(SHAPE, -1, np.int16), "from -1 to -1"),
    ("a prediction with values beyond 65535", np.full(SHAPE, 70_000, np.int32), "70000"),
    ("a prediction that is 4D", np.zeros((*SHAPE, 2), np.uint8), "one 3D map in which each label"),
]


@pytest.mark.parametrize(("kind", "array", "says"), MAPS, ids=[entry[0] for entry in MAPS])
def test_a_prediction_that_is_no_label_map(kind, array, says, capsys, folders):
    path = save(folders / "predictions" / "case0.nii.gz", array)
    meet(capsys, kind, 3, words(folders), ["1 of 2 cases could not be scored", says, path])


def test_a_prediction_that_is_cut_off(capsys, folders):
    path = folders / "predictions" / "case0.nii.gz"
    path.write_bytes(path.read_bytes()[:60])
    meet(capsys, "a prediction that is cut off", 3, words(folders), ["1 of 2 cases", "case0.nii.gz"])
    (folders / "predictions" / "case1.nii.gz").write_bytes(b"")
    says = ["none of 2 predictions can be scored", "case0.nii.gz"]
    meet(capsys, "predictions of which none can be read", 3, words(folders), says)


def test_folders_that_hold_nothing(capsys, folders):
    empty = folders / "empty"
    empty.mkdir()
    meet(
        capsys, "a folder without predictions", 3, words(folders, predictions=empty), ["no prediction", empty]
    )
    meet(capsys, "a folder without references", 3, words(folders, references=empty), ["no reference", empty])
    gone = folders / "gone"
    meet(
        capsys,
        "a folder of predictions that is gone",
        3,
        words(folders, predictions=gone),
        ["is no folder", gone],
    )
    meet(capsys, "references that are gone", 3, words(folders, references=gone), ["is not there", gone])


def test_two_predictions_of_one_name(capsys, folders):
    write_image(folders / "predictions" / "case0.nrrd", organs(0), AFFINE)
    says = ["predictions of one name", "case0.nii.gz", "case0.nrrd"]
    meet(capsys, "two predictions of one name", 3, words(folders), says)


def test_probabilities_beside_label_maps_are_no_predictions(folders):
    (folders / "predictions" / "probabilities").mkdir()
    write_image(folders / "predictions" / "probabilities" / "case0.nii.gz", organs(0) * 0.5, AFFINE)
    with pytest.raises(DataError, match="of one name"):
        find_predictions(folders / "predictions")
    (folders / "predictions" / "labels.json").write_text("{}")  # as `voco predict` leaves it
    assert all(path.parent.name == "predictions" for path in find_predictions(folders / "predictions"))


def test_lists_without_what_is_needed(capsys, tmp_path):
    root = dataset(tmp_path, 1)
    given = words(root, "--split", "test", references=root / "dataset.json")
    meet(
        capsys,
        "a split without references",
        3,
        given,
        ["no case with a reference in split 'test'", "dataset.json"],
    )
    given = words(root, "--split", "train", references=root / "labelsTr")
    (root / "dataset.json").unlink()
    meet(capsys, "a split of a folder of label maps", 3, given, ["have no split", "labelsTr"])
    (root / "l.json").write_text(json.dumps([str(root / "imagesTr" / "case0_0000.nii.gz")]))
    given = words(root, references=root / "l.json")
    meet(capsys, "a list of cases without labels", 3, given, ["names no case with a label", "l.json"])


def test_labels_that_contradict_each_other(capsys, tmp_path):
    root = dataset(tmp_path, 1)
    path = root / "predictions" / "labels.json"
    path.write_text('{"labels": {"liver": 2, "spleen": 1}}')
    given = words(root, references=root / "dataset.json")
    says = ["label 'liver' is 1 in the references and 2 in", path]
    meet(capsys, "labels of other values on both sides", 3, given, says)
    path.write_text('{"labels": {"liver": "x"}}')
    meet(capsys, "a labels.json of texts", 3, given, ["does not say which labels", path])
    path.write_text("{")
    meet(capsys, "a broken labels.json", 3, given, ["not valid JSON", path])


OPTIONS = [
    ("a tolerance below zero", ["--tolerance", "-1"], "--tolerance cannot be -1 mm"),
    ("a tolerance that is no number", ["--tolerance", "nan"], "--tolerance cannot be nan mm"),
    ("no folder of predictions", ["--predictions", ""], "--predictions is empty"),
    ("a label that is not known", ["--labels", "liver"], "there is no label 'liver'"),
    ("a label that is the background", ["--labels", "air=0"], "'0' is no value of a label"),
    ("a label beyond what maps hold", ["--labels", "x=70000"], "label 'x' cannot have the values"),
    ("a split that there is not", ["--split", "tset"], "there is no split 'tset'"),
    ("fewer than no workers to evaluate", ["--workers", "-2"], "--workers cannot be -2"),
]


@pytest.mark.parametrize(("kind", "given", "says"), OPTIONS, ids=[entry[0] for entry in OPTIONS])
def test_an_option_that_cannot_be(kind, given, says, capsys, folders):
    meet(capsys, kind, 2, words(folders, *given), [says])
    assert not list((folders / "out").glob("*"))


def test_a_folder_for_results_that_is_not_free(capsys, folders):
    (folders / "out").mkdir()
    (folders / "out" / "thesis.doc").write_text("")
    meet(
        capsys, "an evaluation into a folder in use", 2, words(folders), ["holds thesis.doc", folders / "out"]
    )
    (folders / "out" / "thesis.doc").unlink()
    (folders / "out").rmdir()
    (folders / "out").write_text("")
    meet(capsys, "an evaluation into a file", 4, words(folders), ["is a file", folders / "out"])


@POSIX
def test_a_folder_for_results_that_may_not_be_written(capsys, folders):
    (folders / "out").mkdir(mode=0o500)
    meet(capsys, "an evaluation into a folder that is read-only", 4, words(folders), ["permission denied"])


DICE = {"c0": {"liver": 0.5}, "c1": {"liver": 0.6}}


def test_a_comparison_of_too_little(capsys, tmp_path):
    a = scored(tmp_path / "a", DICE)
    meet(capsys, "a comparison of one run", 2, ["compare", a], ["a comparison needs two runs"])
    meet(capsys, "a run compared with itself", 2, ["compare", a, a], ["named twice", a])
    b = scored(tmp_path / "b", DICE)
    given = ["compare", a, b, "--name", f"{a}=x", "--name", f"{b}=x"]
    meet(capsys, "a comparison of one method", 2, given, ["all 2 runs are called 'x'"])
    c = scored(tmp_path / "c", {"other": {"liver": 0.5}})
    meet(capsys, "a comparison without common cases", 3, ["compare", a, c], ["no case is in all runs", c])


def test_a_comparison_of_what_is_no_evaluation(capsys, tmp_path):
    a, b = scored(tmp_path / "a", DICE), tmp_path / "b"
    meet(capsys, "a comparison with what is gone", 3, ["compare", a, b], ["is not there", b])
    b.mkdir()
    meet(capsys, "a comparison with what is no evaluation", 3, ["compare", a, b], ["is no evaluation", b])
    for kind, text, says in (
        ("an evaluation without rows", "case,label,dice\n", "has no cases"),
        ("an evaluation saved with semicolons", "case;label;dice\nx;liver;1\n", "another program"),
        ("an evaluation of other columns", "case,label,score\n1,2,3\n", "no column 'dice'"),
        ("an evaluation with a text as score", "case,label,dice\nx,liver,good\n", "'good' is no number"),
        ("an evaluation with a case twice", "case,label,dice\nx,liver,1\nx,liver,1\n", "twice"),
        ("an evaluation with a row cut off", "case,label,dice\nx,liver\n", "ends early"),
    ):
        (b / "per_case.csv").write_text(text)
        meet(capsys, kind, 3, ["compare", a, b], [says, b / "per_case.csv"])
    (b / "per_case.csv").write_bytes(b"\xff\xfe\x00")
    meet(capsys, "an evaluation of bytes", 3, ["compare", a, b], ["is no table", b / "per_case.csv"])


def test_options_of_a_comparison(capsys, tmp_path):
    a, b = scored(tmp_path / "a", DICE), scored(tmp_path / "bee", DICE)
    given = ["compare", a, b, "--baseline", "be"]
    meet(
        capsys, "a baseline that there is not", 2, given, ["there is no run called 'be'. Did you mean 'bee'?"]
    )
    meet(capsys, "a name without a folder", 2, ["compare", a, b, "--name", "x"], ["FOLDER=NAME, not 'x'"])
    given = ["compare", a, b, "--name", f"{tmp_path / 'beee'}=x"]
    meet(capsys, "a name for what is not compared", 2, given, ["none of what is compared", "bee'?"])
    given = ["compare", a, b, "--metric", "dise"]
    meet(capsys, "a figure that there is not", 2, given, ["--metric"])
    meet(capsys, "no folder for a comparison", 2, ["compare", a, b, "-o", ""], ["--output is empty"])
    (tmp_path / "file").write_text("")
    given = ["compare", a, b, "-o", tmp_path / "file"]
    meet(capsys, "a comparison into a file", 4, given, [tmp_path / "file"])
