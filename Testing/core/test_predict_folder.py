"""The folder that predictions go to: what lies there already, what is never replaced, what was taken away again."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest
from faults import meet
from test_predict import blobs
from test_predict_job import AFFINE, WHOLE, model_in, names, place, words

from VoCoCore.cli import main
from VoCoCore.data.images import write_image
from VoCoCore.inference import results_table
from VoCoCore.inference.job import Predictions
from VoCoCore.inference.predict import Predictor

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


def cases_in(place) -> list[str]:
    """The cases of the table, each as often as it has rows."""
    return [row["case"] for row in csv.DictReader((place / "out" / "volumes.csv").open())]


def killed_in_case(number: int, monkeypatch) -> None:
    """Let the process end within a case, as a kill does: nothing is tidied up."""
    usual, seen = Predictor.segment_prepared, []

    def last(self, *given, **named):
        seen.append(1)
        if len(seen) > number:
            raise SystemExit
        return usual(self, *given, **named)

    monkeypatch.setattr(Predictor, "segment_prepared", last)


def test_a_case_adds_lines_and_a_kill_loses_none_that_is_done(place, capsys, monkeypatch):
    written = []
    usual = results_table.write_table
    monkeypatch.setattr(results_table, "write_table", lambda *given: written.append(1) or usual(*given))
    with monkeypatch.context() as within:
        killed_in_case(2, within)
        with pytest.raises(SystemExit):
            main(words(place))
    assert cases_in(place) == ["c0", "c1"] and len(written) == 1
    assert main(words(place)) == 0
    assert "1 case predicted" in (said := capsys.readouterr().out) and "2 were done before" in said
    assert cases_in(place) == ["c0", "c1", "c2"] and len(written) == 1


def test_lines_that_a_kill_has_cut_off_are_as_if_they_were_not_there(place, capsys):
    assert main(words(place)) == 0
    for name in ("volumes.csv", ".voco-predictions.jsonl"):
        path = place / "out" / name
        path.write_bytes(path.read_bytes()[:-12])
    capsys.readouterr()
    assert main(words(place)) == 0
    assert "1 case predicted" in capsys.readouterr().out
    assert cases_in(place) == ["c0", "c1", "c2"]
    assert main(words(place)) == 0
    assert "0 cases predicted" in capsys.readouterr().out


def test_a_case_predicted_again_stands_once_in_the_table(place, monkeypatch):
    assert main(words(place)) == 0
    write_image(place / "images" / "c0.nii.gz", blobs((36, 33, 20), 9) * 100, AFFINE)
    before = (place / "out" / "volumes.csv").read_text()
    with monkeypatch.context() as within:
        (place / "out" / "c1.nii.gz").unlink()
        killed_in_case(1, within)
        with pytest.raises(SystemExit):
            main(words(place))
    assert (place / "out" / "volumes.csv").read_text().startswith(before)
    assert main(words(place)) == 0
    assert sorted(cases_in(place)) == ["c0", "c1", "c2"]
    assert (place / "out" / "volumes.csv").read_text() != before


def test_what_another_model_made_of_other_cases_is_said_until_it_is_gone(place, capsys):
    assert main(words(place, "--probabilities")) == 0
    for name in ("c1", "c2"):
        (place / "images" / f"{name}.nii.gz").rename(place / f"{name}.nii.gz")
    model_in(place / "model.safetensors", seed=1)
    says = "of another model or with other options"
    meet(capsys, "predictions into another model's folder", 2, words(place), [says, "--overwrite"])
    assert main(words(place, "--overwrite")) == 0
    said = capsys.readouterr().out
    theirs = "probabilities/c0.nii.gz, c1.nii.gz, probabilities/c1.nii.gz, c2.nii.gz, probabilities/c2.nii.gz"
    assert f"5 files are by another model, or with other options: {theirs}  (" in said
    assert cases_in(place) == ["c0"]
    (place / "c1.nii.gz").rename(place / "images" / "c1.nii.gz")
    (place / "out" / "c2.nii.gz").unlink()
    for path in (place / "out" / "probabilities").iterdir():
        path.unlink()
    assert main(words(place)) == 0
    said = capsys.readouterr().out
    assert "1 case predicted" in said and "1 was done before" in said and "warning" not in said
    assert cases_in(place) == ["c0", "c1"]


def test_no_row_of_another_model_outlives_a_call_that_is_stopped_before_its_first_case(place, monkeypatch):
    """Three calls of two makers, the last of them ended at once: the folder then holds label maps of the first."""
    first = (place / "model.safetensors").read_bytes()
    assert main(words(place)) == 0
    model_in(place / "model.safetensors", seed=1)
    assert main(words(place, "--overwrite", "--format", "nrrd")) == 0
    (place / "model.safetensors").write_bytes(first)
    rows = cases_in(place)
    with monkeypatch.context() as within:
        killed_in_case(0, within)
        with pytest.raises(SystemExit):
            main(words(place, "--overwrite"))
    assert rows and not cases_in(place)
    assert main(words(place)) == 0 and cases_in(place) == rows


@pytest.mark.parametrize("end", [b'"c2, left', b"c2,\xc3"])
def test_a_line_that_was_cut_within_a_cell_or_a_letter_is_left_out(place, capsys, end):
    assert main(words(place)) == 0
    with (place / "out" / "volumes.csv").open("ab") as file:
        file.write(end)
    capsys.readouterr()
    assert main(words(place)) == 0
    assert "0 cases predicted" in capsys.readouterr().out and cases_in(place) == ["c0", "c1", "c2"]


def test_the_same_call_again_goes_on_beside_the_images(place, capsys):
    given = words(place, "--format", "seg.nrrd", output="images")
    assert main(given) == 0 == main(given)
    assert "0 cases predicted" in capsys.readouterr().out


def test_an_image_of_the_same_name_from_another_folder_takes_no_ones_place(place, capsys):
    for folder, number in (("P1", 1), ("P2", 2)):
        (place / folder).mkdir()
        write_image(place / folder / "ct.nii.gz", blobs((34, 33, 20), number) * 100, AFFINE)
    first, second = (
        [word.replace(str(place / "images"), str(place / folder)) for word in words(place)]
        for folder in ("P1", "P2")
    )
    assert main(first) == 0
    before = (place / "out" / "ct.nii.gz").read_bytes()
    says = ["ct: another image of this name", "name another folder"]
    meet(capsys, "predictions of images of one name from several folders", 3, second, says)
    assert (place / "out" / "ct.nii.gz").read_bytes() == before and cases_in(place) == ["ct"]
    (place / "P1").rename(place / "moved")
    moved = [word.replace(str(place / "P1"), str(place / "moved")) for word in first]
    assert main(moved) == 0 and "1 was done before" in capsys.readouterr().out
    assert main([*second, "--overwrite"]) == 0


def test_a_case_that_is_called_almost_alike_takes_no_ones_place(place, capsys):
    """Files of "c 1" and "c_1" have one name: together they are told apart, one call after the other they must be."""
    for number, name in enumerate(("c 1", "c_1")):
        (place / "images" / f"c{number}.nii.gz").rename(place / "images" / f"{name}.nii.gz")
    first, second = (
        [
            word.replace(str(place / "images"), str(place / "images" / f"{name}.nii.gz"))
            for word in words(place)
        ]
        for name in ("c 1", "c_1")
    )
    assert main(first) == 0
    before = (place / "out" / "c_1.nii.gz").read_bytes()
    capsys.readouterr()
    assert main(second) == 3
    told = capsys.readouterr()
    assert "c_1.nii.gz is the prediction of case 'c 1'" in told.out and "--overwrite" in told.err
    assert (place / "out" / "c_1.nii.gz").read_bytes() == before and cases_in(place) == ["c 1"]
    assert main(first) == 0 and "1 was done before" in capsys.readouterr().out
    assert main([*second, "--overwrite"]) == 0
    assert (place / "out" / "c_1.nii.gz").read_bytes() != before
    assert cases_in(place) == ["c_1"], "volumes of a label map that is gone"
    assert main([*first, "--overwrite"]) == 0 and cases_in(place) == ["c 1"]
    assert main([*first, "--format", "nrrd"]) == 0 and main([*second, "--overwrite"]) == 0
    assert sorted(cases_in(place)) == ["c 1", "c_1"], "of c 1 there is c_1.nrrd still"


def test_nor_one_in_other_letters_where_these_are_one_name(place, capsys):
    assert main(words(place)) == 0
    if not (place / "out" / "C0.nii.gz").exists():  # as it is on disks of Windows and macOS
        os.link(place / "out" / "c0.nii.gz", place / "out" / "C0.nii.gz")
    before = (place / "out" / "C0.nii.gz").read_bytes()
    (place / "images" / "c0.nii.gz").unlink()
    (place / "images" / "c1.nii.gz").rename(place / "images" / "C0.nii.gz")
    capsys.readouterr()
    assert main(words(place)) == 3
    assert "C0.nii.gz is the prediction of case 'c0'" in capsys.readouterr().out
    assert (place / "out" / "C0.nii.gz").read_bytes() == before


def test_an_image_that_is_named_twice_is_predicted_once(place):
    both = words(place)
    both.insert(4, str(place / "images" / "c1.nii.gz"))
    assert main(both) == 0
    assert names(place / "out") == WHOLE and cases_in(place) == ["c0", "c1", "c2"]


def meanwhile(monkeypatch, do) -> None:
    """Let ``do`` happen within the first case, as another process may."""
    usual = Predictor.segment_prepared

    def first(self, *given, **named):
        monkeypatch.setattr(Predictor, "segment_prepared", usual)
        do()
        return usual(self, *given, **named)

    monkeypatch.setattr(Predictor, "segment_prepared", first)


def test_two_calls_into_one_folder_at_a_time_lose_no_row(place, monkeypatch):
    (place / "others").mkdir()
    write_image(place / "others" / "d0.nii.gz", blobs((34, 33, 20), 5) * 100, AFFINE)
    others = [word if word != str(place / "images") else str(place / "others") for word in words(place)]
    meanwhile(monkeypatch, lambda: main(others))
    assert main(words(place)) == 0
    assert sorted(set(cases_in(place))) == ["c0", "c1", "c2", "d0"]
    done = (place / "out" / "volumes.csv").read_bytes()
    assert main(words(place)) == main(others) == 0
    assert (place / "out" / "volumes.csv").read_bytes() == done


def test_two_calls_for_the_same_cases_leave_each_row_once(place, monkeypatch):
    meanwhile(monkeypatch, lambda: main(words(place)))
    assert main(words(place)) == 0
    with open(place / "out" / "volumes.csv") as file:
        rows = [tuple(row[:2]) for row in csv.reader(file)][1:]
    assert len(rows) == len(set(rows)) and {case for case, _ in rows} == {"c0", "c1", "c2"}


def test_of_two_models_that_begin_in_one_folder_at_a_time_one_is_refused(place, capsys, monkeypatch):
    model_in(place / "second.safetensors", seed=1)
    second = [word.replace("model.safetensors", "second.safetensors") for word in words(place)]
    usual = Predictions.predict

    def late(self, *given):
        monkeypatch.setattr(Predictions, "predict", usual)
        assert main(second) == 0
        return usual(self, *given)

    monkeypatch.setattr(Predictions, "predict", late)
    says = ["of another model or with other options", "--overwrite"]
    meet(capsys, "predictions into a folder that another model has just begun", 2, words(place), says)
    assert cases_in(place)
