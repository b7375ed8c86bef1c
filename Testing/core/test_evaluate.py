"""`voco evaluate`: pairs by name, on the reference's grid, with the scores written, summed up and shown."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_scores import AFFINE, SHAPE, SPACING, cohort, dataset, moved, organs, save
from test_report import BROWSERS, Page

from VoCoCore.cli import main
from VoCoCore.data.images import write_image
from VoCoCore.data.volume import Volume
from VoCoCore.errors import SettingsError
from VoCoCore.evaluation.cases_table import read_per_case, summarise, write_per_case
from VoCoCore.evaluation.evaluate import evaluate, write_evaluation
from VoCoCore.evaluation.evaluation_page import overlay_of
from VoCoCore.evaluation.label_names import choose_labels, parse_asked
from VoCoCore.evaluation.metrics import LabelMetrics, case_metrics
from VoCoCore.evaluation.overlay import Overlay, overlay_figure, voxel_borders, worst_slice
from VoCoCore.evaluation.score_pair import resampled

score = partial(evaluate, workers=0)
NAMED = {"liver": (1,), "spleen": (2,)}


def command(predictions: Path, references: Path, folder: Path, *more: object) -> int:
    words = [
        "evaluate",
        "--predictions",
        predictions,
        "--references",
        references,
        "-o",
        folder,
        "--workers",
        0,
    ]
    return main([str(word) for word in [*words, *more]])


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "per_case.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_data_set_is_scored_by_case_and_label(tmp_path, capsys):
    root = dataset(tmp_path / "data")
    assert command(root / "predictions", root / "dataset.json", tmp_path / "out") == 0
    found = rows(tmp_path / "out")
    assert [(row["case"], row["label"]) for row in found] == [
        (f"case{n}", label) for n in range(4) for label in ("liver", "spleen")
    ]
    for number in range(4):
        expected = case_metrics(organs(number), moved(organs(number)), SPACING, NAMED)
        for row in found[2 * number : 2 * number + 2]:
            ours = expected[row["label"]]
            assert float(row["dice"]) == pytest.approx(ours.dice, rel=1e-6)
            assert float(row["hd95_mm"]) == pytest.approx(ours.hd95, rel=1e-6)
            assert float(row["volume_error_ml"]) == ours.volume_error_ml
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    dices = [float(row["dice"]) for row in found if row["label"] == "liver"]
    liver = summary["labels"]["liver"]["dice"]
    assert liver["mean"] == pytest.approx(np.mean(dices)) and liver["sd"] == pytest.approx(
        np.std(dices, ddof=1)
    )
    assert liver["low"] <= liver["mean"] <= liver["high"] and liver["n"] == 4
    assert summary["tolerance_mm"] == 1 and summary["cases"] == 4
    assert "4 cases scored" in capsys.readouterr().out


def test_the_page_is_one_file_without_paths(tmp_path):
    root = dataset(tmp_path / "Anna Meier")
    (root / "predictions" / "case1.nii.gz").write_bytes(b"")
    assert command(root / "predictions", root, tmp_path / "out") == 3
    source = (tmp_path / "out" / "evaluation.html").read_text()
    page = Page(source)
    assert not re.search(r"(https?:)?//\w", re.sub(r"base64,[\w+/=\s]+", "", source))
    assert all(value.startswith(("#", "data:image/png")) for value in page.loads)
    assert "script" not in page.tags and len(page.ids) == len(set(page.ids))
    for text in (source, (tmp_path / "out" / "summary.json").read_text()):
        assert "Meier" not in text and str(tmp_path) not in text
    assert page.tags.count("svg") == 1 + 3, "box plots, and a picture for each case that was scored"
    assert "case1" in page.text and "Not every case was scored" in page.text
    assert "within 1 mm" in page.text and "names of cases" in page.text


def test_the_worst_cases_come_first(tmp_path):
    references, predictions = cohort(tmp_path, 6)
    (predictions / "case4.nii.gz").unlink()
    save(predictions / "case4.nii.gz", np.zeros(SHAPE, np.uint8))
    done = score(predictions, references)
    page = Page((write_evaluation(tmp_path, done) / "evaluation.html").read_text())
    assert "1. case4 mean Dice 0.0 %; lowest: label 1 0.0 % (missed)" in page.text
    assert "2. case5 mean Dice" in page.text and "5. case" not in page.text


def test_workers_find_the_same_and_one_bad_case_stops_nobody(tmp_path, capsys):
    references, predictions = cohort(tmp_path, 5)
    (predictions / "case2.nii.gz").write_text("hello")
    alone = score(predictions, references)
    shared = evaluate(predictions, references, workers=2)
    assert alone.scores == shared.scores and list(alone.scores) == ["case0", "case1", "case3", "case4"]
    assert [one.case for one in shared.problems.failed] == ["case2"]
    assert command(predictions, references, tmp_path / "told") == 3
    told = capsys.readouterr()
    assert "not scored: case2" in told.out and "1 of 5 cases could not be scored" in told.err
    assert len(rows(tmp_path / "told")) == 8


def test_missing_ones_are_named_and_allowed_only_when_asked(tmp_path, capsys):
    references, predictions = cohort(tmp_path, 4)
    (predictions / "case0.nii.gz").unlink()
    save(predictions / "other.nii.gz", organs())
    assert command(predictions, references, tmp_path / "out") == 3
    told = capsys.readouterr()
    assert "no prediction for case0" in told.out and "no reference for other.nii.gz" in told.out
    assert command(predictions, references, tmp_path / "out", "--allow-missing") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["without_prediction"] == ["case0"] and summary["without_reference"] == ["other.nii.gz"]
    assert summary["cases"] == 3


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".seg.nrrd", "_seg.nii.gz", ".mha"])
def test_files_are_paired_whatever_their_format(tmp_path, ending):
    references, predictions = cohort(tmp_path, 2)
    shutil.rmtree(predictions)
    predictions.mkdir()
    for number in range(2):
        write_image(predictions / f"case{number}{ending}", moved(organs(number)), AFFINE)
    done = score(predictions, references)
    assert (
        done.scores["case1"]["label 1"]
        == case_metrics(organs(1), moved(organs(1)), SPACING, {"x": (1,)})["x"]
    )


def test_a_prediction_with_turned_axes_lies_on_the_same_grid(tmp_path):
    references, predictions = cohort(tmp_path, 1)
    array = moved(organs(0))
    turned = AFFINE[:, [2, 0, 1, 3]].copy()
    turned[:3, 0] *= -1
    turned[:3, 3] = AFFINE[:3, 2] * (SHAPE[2] - 1)
    save(predictions / "case0.nii.gz", array.transpose(2, 0, 1)[::-1], turned)
    done = score(predictions, references)
    expected = case_metrics(organs(0), array, SPACING, {"label 1": (1,), "label 2": (2,)})
    for label, found in done.scores["case0"].items():
        assert found.dice == expected[label].dice and found.hd95 == pytest.approx(expected[label].hd95)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_resampling_takes_the_nearest_voxel(seed):
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 5, rng.integers(1, 7, 3)).astype(np.uint8)
    ours, theirs = np.eye(4), np.eye(4)
    for affine in (ours, theirs):
        affine[:3, :3] = np.diag(rng.choice([0.7, 1.0, 2.3], 3)) @ np.eye(3)[rng.permutation(3)]
        affine[:3, 3] = rng.uniform(-3, 3, 3)
    shape = tuple(rng.integers(1, 7, 3))
    found = resampled(Volume(array, theirs), Volume(np.zeros(shape, np.uint8), ours)).array
    for voxel in np.ndindex(*shape):
        at = np.linalg.solve(theirs, ours @ [*voxel, 1])[:3]
        if np.abs(at - np.floor(at) - 0.5).min() < 1e-9:
            continue  # as near to one as to the other
        near = np.rint(at).astype(int)
        inside = np.all((near >= 0) & (near < array.shape))
        assert found[voxel] == (array[tuple(near)] if inside else 0)


def test_axes_halfway_between_two_of_the_patient_lie_on_the_same_grid(tmp_path):
    # At 45 degrees the rounding of a header decides which axis is called R and which A.
    half = np.sqrt(0.5)
    affine = np.array([[half, -half, 0, 1], [half, half, 0, 2], [0, 0, 2.5, 3], [0, 0, 0, 1]])
    (tmp_path / "references").mkdir()
    (tmp_path / "predictions").mkdir()
    for number, noise in enumerate((0, 1e-7, -1e-7)):
        other = affine.copy()
        other[0, 0] += noise
        write_image(tmp_path / "references" / f"c{number}.nii.gz", organs(), affine)
        write_image(tmp_path / "predictions" / f"c{number}.mha", organs(), other)
    done = score(tmp_path / "predictions", tmp_path / "references")
    assert not done.problems.failed
    assert all(found["label 1"].dice == 1.0 for found in done.scores.values()) and len(done.scores) == 3


def test_another_grid_is_refused_or_resampled_when_asked(tmp_path, capsys):
    references, predictions = cohort(tmp_path, 2)
    coarse, affine = moved(organs(0))[::2], AFFINE.copy()
    affine[0, 0] *= 2
    save(predictions / "case0.nii.gz", coarse, affine)
    assert command(predictions, references, tmp_path / "out") == 3
    assert "their sizes differ: 20 x 18 x 12 and 10 x 18 x 12" in capsys.readouterr().err
    assert command(predictions, references, tmp_path / "out", "--resample") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["cases"] == 2 and "brought onto the reference's grid" in summary["notes"][0]["note"]
    assert 0.7 < float(rows(tmp_path / "out")[0]["dice"]) < 1


def test_where_labels_come_from(tmp_path):
    root = dataset(tmp_path)
    predictions = root / "predictions"
    assert set(score(predictions, root / "labelsTr").summary["labels"]) == {
        "liver",
        "spleen",
    }
    (root / "dataset.json").unlink()
    assert set(score(predictions, root / "labelsTr").summary["labels"]) == {
        "label 1",
        "label 2",
    }
    content = {"labels": {"Leber": 1, "Milz": 2}, "colours": {"Milz": [9, 8, 7]}}
    (predictions / "labels.json").write_text(json.dumps(content))
    done = score(predictions, root / "labelsTr")
    assert set(done.summary["labels"]) == {"Leber", "Milz"}
    assert choose_labels("", None, predictions).colours == {"Milz": (9, 8, 7)}
    done = score(predictions, root / "labelsTr", labels="Milz,both=1+2")
    assert done.summary["labels"]["both"]["values"] == [1, 2] and set(done.scores["case0"]) == {
        "Milz",
        "both",
    }


@pytest.mark.parametrize("spleen", [2, [2]])
def test_regions_are_scored_as_wholes(tmp_path, spleen):
    root = dataset(tmp_path, 2, {"background": 0, "all": [1, 2], "spleen": spleen})
    done = score(root / "predictions", root / "dataset.json")
    found = done.scores["case0"]
    assert set(found) == {"all", "spleen"}
    expected = case_metrics(organs(0), moved(organs(0)), SPACING, {"all": (1, 2), "spleen": (2,)})
    assert found["all"].dice == expected["all"].dice
    (root / "predictions" / "labels.json").write_text('{"labels": {"all": 1, "spleen": 2}}')
    assert score(root / "predictions", root / "dataset.json").scores == done.scores


@pytest.mark.parametrize(
    ("asked", "says"), [("", "without a name"), ("a=", "no value"), ("a=0", "no value"), ("a=1,a=2", "twice"),
                        ("a=1.5", "no value"), ("leber", "Did you mean 'liver'")]
)  # fmt: skip
def test_labels_that_cannot_be_understood(asked, says):
    with pytest.raises(SettingsError, match=re.escape(says)):
        parse_asked(asked, {"liver": (1,)})


def test_files_of_a_tilted_gantry_are_scored_in_the_patients_millimetres(tmp_path):
    affine = np.diag([0.5, -0.5, 5.0, 1.0])  # an axis the other way round, as files have them
    affine[1, 2] = 5 * np.tan(np.radians(20))
    for name, voxel in (("references", (5, 10, 3)), ("predictions", (5, 14, 5))):
        array = np.zeros((20, 40, 12), np.uint8)
        array[voxel] = 1
        save(tmp_path / name / "a.nii.gz", array, affine)
    found = score(tmp_path / "predictions", tmp_path / "references", labels="spot=1").scores["a"]["spot"]
    assert found.reference_ml == pytest.approx(0.5 * 0.5 * 5 / 1000)
    assert found.hd95 == pytest.approx(np.linalg.norm(affine[:3, :3] @ (0, 4, 2)))


def test_only_a_split_is_scored(tmp_path):
    references, predictions = cohort(tmp_path, 3)
    cases = [
        {
            "image": str(references / f"case{n}.nii.gz"),
            "label": str(references / f"case{n}.nii.gz"),
            "split": s,
        }
        for n, s in enumerate(("train", "test", "test"))
    ]
    (tmp_path / "list.json").write_text(json.dumps(cases))
    (predictions / "case0.nii.gz").unlink()
    done = score(predictions, tmp_path / "list.json", split="test")
    assert list(done.scores) == ["case1", "case2"] and not done.problems.unpredicted


def test_a_label_that_only_some_cases_have(tmp_path):
    references, predictions = cohort(tmp_path, 3)
    for number in (0, 1):
        save(references / f"case{number}.nii.gz", np.where(organs(number) == 2, 0, organs(number)))
    save(predictions / "case0.nii.gz", np.where(organs(0) == 2, 0, organs(0)).astype(np.uint8))
    done = score(predictions, references)
    states = [done.scores[f"case{n}"]["label 2"].state for n in range(3)]
    assert states == ["absent", "invented", ""]
    spleen = done.summary["labels"]["label 2"]
    assert (spleen["absent"], spleen["invented"], spleen["missed"]) == (1, 1, 0)
    assert spleen["dice"]["n"] == 2 and spleen["hd95"]["n"] == 1
    by_hand = [0.0, case_metrics(organs(2), moved(organs(2), 2), SPACING, {"x": (2,)})["x"].dice]
    assert spleen["dice"]["mean"] == pytest.approx(np.mean(by_hand))
    liver = done.summary["labels"]["label 1"]["dice"]["mean"]
    assert done.summary["overall"]["dice"]["mean"] == pytest.approx((liver + np.mean(by_hand)) / 2)


FIGURE = st.floats(0, 1e4, allow_nan=False) | st.just(nan)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.tuples(FIGURE, FIGURE), min_size=1, max_size=8), odd=st.text('a,"\n é', max_size=6))
def test_tables_come_back_as_they_were_written(tmp_path_factory, values, odd):
    path = tmp_path_factory.mktemp("table") / "per_case.csv"
    scores = {f"c{n}": {f"l{odd}": LabelMetrics(dice=a, hd95=b)} for n, (a, b) in enumerate(values)}
    write_per_case(path, scores)
    for name in ("dice", "hd95"):
        found = read_per_case(path, name)
        assert list(found) == list(scores)
        for case, labels in found.items():
            ours = getattr(scores[case][f"l{odd}"], name)
            assert labels[f"l{odd}"] == pytest.approx(ours, rel=1e-6, nan_ok=True)


def test_one_case_has_no_interval_and_no_deviation():
    found = summarise({"a": {"x": LabelMetrics(dice=0.5, state="")}}, {"x": (1,)})
    assert found["labels"]["x"]["dice"] == {
        "mean": 0.5,
        "sd": None,
        "median": 0.5,
        "low": None,
        "high": None,
        "n": 1,
    }
    assert found["overall"]["hd95"]["mean"] is None and found["overall"]["hd95"]["n"] == 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_outlines_run_between_inside_and_outside(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 6, 2)) < 0.5
    expected = set()
    for (i, j), inside in np.ndenumerate(np.pad(mask, 1)):
        if inside:
            x, y = i - 1, j - 1  # the voxel's lower corner in box coordinates
            padded = np.pad(mask, 1)
            beside = {(-1, 0): ((x, y), (x, y + 1)), (1, 0): ((x + 1, y), (x + 1, y + 1)),
                      (0, -1): ((x, y), (x + 1, y)), (0, 1): ((x, y + 1), (x + 1, y + 1))}  # fmt: skip
            expected |= {line for (di, dj), line in beside.items() if not padded[i + di, j + dj]}
    found = [tuple(tuple(int(v) for v in point) for point in line) for line in voxel_borders(mask)]
    assert set(found) == expected and len(found) == len(expected)


def test_pictures_show_the_worst_slice_with_the_patients_right_on_the_left():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    reference = organs(0)
    prediction = reference.copy()
    prediction[:, :, 4][reference[:, :, 4] == 1] = 0
    overlay = Overlay(
        reference, prediction, None, SPACING, NAMED, {"liver": (255, 0, 0), "spleen": (0, 0, 255)}
    )
    assert worst_slice(overlay, 2) == 4
    figure = overlay_figure(overlay)
    FigureCanvasAgg(figure).draw()
    shown = [axes.get_title(loc="left") for axes in figure.axes]
    assert shown[0] == "reference, axial 5/12" and shown[1] == "prediction, axial 5/12"
    axes = figure.axes[0]
    right, left = (axes.transData.transform((x, 5))[0] for x in (18, 2))
    assert right < left, "x grows towards the patient's right, which is on the left of the picture"
    front, back = (axes.transData.transform((5, y))[1] for y in (16, 2))
    assert front > back
    assert (
        axes.get_aspect() == SPACING[1] / SPACING[0]
        and figure.axes[2].get_aspect() == SPACING[2] / SPACING[0]
    )
    with pytest.raises(SettingsError):
        Overlay(reference, prediction[1:], None, SPACING, NAMED, {})


def test_what_is_not_scored_does_not_choose_the_slice(tmp_path):
    references, predictions = cohort(tmp_path, 1)
    array = moved(organs(0))
    array[:, :, 11] = 9
    save(predictions / "case0.nii.gz", array)
    done = score(predictions, references, labels="liver=1")
    drawn = overlay_of(done.pairs[0], done.rules, {"liver": (1, 2, 3)})
    assert set(np.unique(drawn.prediction)) == {0, 1} and worst_slice(drawn, 2) != 11


def test_evaluating_needs_no_torch(tmp_path):
    references, predictions = cohort(tmp_path, 2)
    code = (
        "import sys; from VoCoCore.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(code or len({'torch', 'monai'} & {*sys.modules}))"
    )
    words = ["evaluate", "--predictions", predictions, "--references", references, "-o", tmp_path / "out"]
    assert subprocess.run([sys.executable, "-c", code, *map(str, words)], check=False).returncode == 0


def test_nothing_marked_anywhere_scores_nothing(tmp_path):
    empty = np.zeros(SHAPE, np.uint8)
    for folder in ("references", "predictions"):
        save(tmp_path / folder / "a.nii.gz", empty)
    done = score(tmp_path / "predictions", tmp_path / "references", labels="liver=1")
    assert done.scores["a"]["liver"].state == "absent" and isnan(done.scores["a"]["liver"].dice)


def test_the_page_opens_in_a_browser(tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    root = dataset(tmp_path)
    done = score(root / "predictions", root / "dataset.json")
    page = write_evaluation(tmp_path, done) / "evaluation.html"
    command = [
        *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *(
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--hide-scrollbars",
        ),
        *("--window-size=1200,1600", f"--screenshot={tmp_path / 'shot.png'}"),
        page.as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    from matplotlib.image import imread

    shot = imread(tmp_path / "shot.png")[..., :3]
    assert shot.shape[:2] == (1600, 1200)
    assert (np.ptp(shot, axis=-1) > 0.3).mean() > 0.001  # the labels' colours
