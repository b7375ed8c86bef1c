"""The error that ends a run: its user reads which file it was, whoever the run is passed on to does not."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
from made_runs import make_run, started

from VoCoCore.cli import main
from VoCoCore.data.cases import Case, Index, Source, save_index
from VoCoCore.data.images import write_image
from VoCoCore.evaluation.report import write_report
from VoCoCore.runs.describe import describe
from VoCoCore.runs.privacy import without_names

pytestmark = pytest.mark.usefixtures("own_config")
SECRET = ("MUELLER_HANS_1950", "SCHMIDT")


def test_reports_take_what_is_no_text(tmp_path):
    long, half = "x" * 200_000, "a\ud800b"
    run = make_run(tmp_path / "run", environment={"vococore": half, "python": long, "device": half})
    page = write_report(run).read_text(encoding="utf-8")
    assert "a?b" in page and len(page) < 200_000


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "Station 7"
    made.mkdir()
    for name in ("one", "two"):
        write_image(made / f"{name}.nii.gz", np.random.default_rng(0).random((40, 40, 40)), np.eye(4))
    return made


def pretrain(source, run):
    """Exit code of a pre-training, and what of the run may be passed on."""
    words = ["--preset", "tiny", "--encoder", "unet", "--steps", "2", "--device", "cpu", "--workers", "0"]
    code = main(["pretrain", "--data", str(source), "--run", str(run), "--store", f"{run}-store", *words])
    files = [path for path in run.rglob("*") if path.is_file() and "private" not in path.parts]
    return code, {path.name: path.read_bytes().decode(errors="replace") for path in files}


@pytest.mark.parametrize("broken", [SECRET[:1], SECRET])
def test_cases_that_cannot_be_prepared_are_named_in_private_alone(folder, tmp_path, capsys, broken) -> None:
    for name in broken:
        (folder / f"{name}.nii.gz").write_bytes(b"broken")
    run = tmp_path / "run"
    code, files = pretrain(folder, run)
    assert code == 3 and "MUELLER_HANS_1950.nii.gz is" in capsys.readouterr().err
    for name in ("status.json", "events.jsonl", "report.html"):
        assert "[case]: [file] is a text file, not NIfTI" in files[name]
        assert not any(word in files[name] for word in (*broken, str(tmp_path)))
    assert main(["jobs", "show", str(run)]) == 0
    assert f"{folder}/MUELLER_HANS_1950.nii.gz is a text file" in capsys.readouterr().out
    shutil.rmtree(run / "private")
    assert "[case]: [file] is a text file" in describe(run).message


def test_an_error_before_the_cases_are_known_says_nothing_of_them(folder, tmp_path, capsys) -> None:
    rows = [("image", "id", "patient", "split"), ("one.nii.gz", "SCHMIDT", "Schmidt, Eva", "train")]
    with open(folder / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([*rows, ("two.nii.gz", "SCHMIDT2", "Schmidt, Eva", "val")])
    code, files = pretrain(folder / "list.csv", tmp_path / "run")
    assert code == 3 and "SCHMIDT and SCHMIDT2 are of one patient" in capsys.readouterr().err
    for name in ("status.json", "events.jsonl", "report.html"):
        assert "schmidt" not in files[name].lower() and "private/error.json" in files["events.jsonl"]
    assert "SCHMIDT and SCHMIDT2 are of one patient" in describe(tmp_path / "run").message


def test_names_in_the_events_of_an_older_run_are_not_in_its_report(tmp_path) -> None:
    told = {"type": "warning", "message": "MUELLER: odd; MUELLER-2 of Eva Schmidt: odd", "hint": "see 3"}
    run = make_run(tmp_path / "run", events=[started(), told])
    image = Source(str(tmp_path / "x.nii.gz"))
    cases = [Case(name, (image,), patient="Eva Schmidt") for name in ("MUELLER", "MUELLER-2", "3")]
    (run / "private").mkdir(exist_ok=True)
    save_index(Index(tuple(cases)), run / "private" / "index.json")
    page = write_report(run).read_text()
    assert "[case]: odd; [case] of [case]: odd" in page and "see 3" in page


def test_known_names_are_whole_words_and_known_paths_go_with_what_follows() -> None:
    names = {"ANNA", "ANNA-2", "7", "/data/Eva Schmidt"}
    shown = without_names("7 cases: ANNA, ANNA-2, ANNABEL; /data/Eva Schmidt/IM001 is cut", names)
    assert shown == "7 cases: [case], [case], ANNABEL; [file] is cut"
