"""The folder that predictions go to: what lies there already, what is never replaced, what was taken away again."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from faults import meet
from test_predict_job import WHOLE, model_in, names, place, words

from VoCoCore.cli import main

__all__ = ["place"]  # the fixture


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_predictions_never_replace_the_images_that_they_are_made_from(place, capsys, more):
    before = {path.name: path.read_bytes() for path in (place / "images").iterdir()}
    given = words(place, *more, output="images")
    says = ["images/c0.nii.gz is an image or a label map of the cases", "another folder"]
    meet(capsys, "predictions into the folder of their images", 2, given, says)
    assert {path.name: path.read_bytes() for path in (place / "images").iterdir()} == before


def test_predictions_never_replace_the_true_label_maps(place, capsys):
    (place / "true").mkdir()
    (place / "true" / "c0.nii.gz").write_bytes(b"drawn by hand")
    case = {"id": "c0", "images": ["images/c0.nii.gz"], "label": "true/c0.nii.gz"}
    index = {"format": "vococore-index", "version": 1, "channels": ["image"], "labels": None}
    (place / "index.json").write_text(json.dumps({**index, "cases": [case], "skipped": []}))
    given = words(place, "--overwrite", output="true")
    given[3] = str(place / "index.json")
    meet(capsys, "predictions into the folder of the true label maps", 2, given, ["would replace it"])
    assert names(place / "true") == {"c0.nii.gz"}


@pytest.mark.parametrize("name", ["c1.nii.gz", "volumes.csv", "labels.json"])
def test_files_that_no_prediction_has_left_are_replaced_only_when_asked(place, capsys, name):
    (place / "out").mkdir()
    (place / "out" / name).write_text("somebody's work")
    says = [f"{name} is there already", "--overwrite"]
    meet(capsys, "predictions over files of another program", 2, words(place), says)
    assert names(place / "out") == {name} and (place / "out" / name).read_text() == "somebody's work"
    assert main(words(place, "--overwrite")) == 0
    assert names(place / "out") == WHOLE


@pytest.mark.parametrize("gone", ["c1.nii.gz", "volumes.csv", "probabilities/c1.nii.gz"])
def test_what_was_deleted_is_predicted_again(place, capsys, gone):
    assert main(words(place, "--probabilities")) == 0
    (place / "out" / gone).unlink()
    capsys.readouterr()
    assert main(words(place, "--probabilities")) == 0
    assert f"{3 if gone == 'volumes.csv' else 1} case" in capsys.readouterr().out
    assert (place / "out" / gone).is_file()
    rows = list(csv.DictReader((place / "out" / "volumes.csv").open()))
    assert sorted(row["case"] for row in rows) == ["c0", "c1", "c2"]


def test_a_deleted_table_of_diagnoses_is_made_again(place):
    model_in(place / "model.safetensors", task="classification", prepare={"fit": "resize"})
    assert main(words(place)) == 0
    before = (place / "out" / "predictions.csv").read_text()
    (place / "out" / "predictions.csv").unlink()
    assert main(words(place)) == 0
    assert (place / "out" / "predictions.csv").read_text() == before


@pytest.mark.parametrize("form", [("utf-16", ","), ("utf-8", ";"), ("latin-1", ",")])
def test_a_table_that_another_program_has_saved_is_not_lost(place, capsys, form):
    assert main(words(place)) == 0
    table = place / "out" / "volumes.csv"
    encoding, comma = form
    changed = table.read_text().replace(",", comma).replace("c0", "cö").encode(encoding)
    table.write_bytes(changed)
    says = ["volumes.csv is not as it was written", "move it away"]
    meet(capsys, "a table of volumes that a spreadsheet has saved", 3, words(place), says)
    assert table.read_bytes() == changed and np.any([path.suffix == ".gz" for path in table.parent.iterdir()])
