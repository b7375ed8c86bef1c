"""`voco compare` of classifications, against the scores of a diagnosis and a bootstrap by repeating cases."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from made_cohorts import SMALL_FINETUNE
from made_scores import scored

from VoCoCore.cli import main
from VoCoCore.data.images import write_image
from VoCoCore.downstream.scores import diagnosis_scores
from VoCoCore.errors import DataError, SettingsError
from VoCoCore.evaluation.compare_diagnoses import (
    are_diagnoses,
    compare_diagnoses,
    read_diagnosis_runs,
    weighted_scores,
)
from VoCoCore.evaluation.diagnoses_output import diagnosis_markdown
from VoCoCore.evaluation.diagnoses_table import DIAGNOSES, Diagnosis, read_diagnoses, write_diagnoses

CLASSES = ("ill", "unclear", "well")


def answers(cases: int, sharp: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True classes (cases,), the same for all seeds, and probabilities (cases, 3) that know them the better the more
    ``sharp``; with ties."""
    truth = np.random.default_rng(7).integers(0, 3, cases)
    logits = np.random.default_rng(seed).normal(0, 1, (cases, 3)) + sharp * np.eye(3)[truth]
    odds = np.exp(logits)
    return truth, np.round(odds / odds.sum(axis=1, keepdims=True), 2)


def run(folder: Path, cases: int, sharp: float, seed: int, where: str = "test", **facts) -> Path:
    truth, table = answers(cases, sharp, seed)
    (folder / where).mkdir(parents=True)
    seen = {f"c{n}": Diagnosis(int(t), row) for n, (t, row) in enumerate(zip(truth, table, strict=True))}
    write_diagnoses(folder / where / DIAGNOSES, CLASSES, seen)
    (folder / "environment.json").write_text(json.dumps({"finetune": facts}))
    return folder


def three(truth: np.ndarray, table: np.ndarray) -> list[float]:
    found = diagnosis_scores(table, truth)
    return [found["accuracy"], found["balanced_accuracy"], found["auroc"]]


def test_scores_of_drawn_cases_are_those_of_repeated_ones() -> None:
    truth, table = answers(14, 1.0, 3)
    often = np.random.default_rng(0).multinomial(14, np.full(14, 1 / 14), size=30)
    often[0], often[1] = 1, 14 * (truth == truth[0])  # all as they are; one class alone
    found = weighted_scores(table, truth, often.astype(float))
    for row, counts in zip(found, often, strict=True):
        again = np.repeat(np.arange(14), counts)
        assert row == pytest.approx(three(truth[again], table[again]), nan_ok=True)


def test_a_sharper_run_is_found_better(tmp_path, capsys) -> None:
    places = [run(tmp_path / n, 120, s, seed) for n, s, seed in (("a", 0.5, 1), ("b", 2.0, 2), ("c", 0.5, 3))]
    for place, rate in zip(places, (0.1, 0.2, 0.1), strict=True):
        (place / "settings.json").write_text(json.dumps({"optim": {"lr": rate}}))
    assert main(["compare", *map(str, places), "-o", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert text in capsys.readouterr().out and "120 cases" in text and "ill, unclear, well" in text
    assert "not trained alike, and a difference may come from that: optim.lr 0.1 (a, c) and 0.2 (b)" in text
    with open(tmp_path / "out" / "comparison.csv", newline="") as file:
        rows = {(row["method"], row["metric"]): row for row in csv.DictReader(file)}
    ours, base = three(*answers(120, 2.0, 2)), three(*answers(120, 0.5, 1))
    for place, metric in enumerate(("accuracy", "balanced accuracy", "AUROC")):
        row = rows["b", metric]
        assert float(row["value"]) == pytest.approx(ours[place], rel=1e-6) and row["baseline"] == "a"
        assert float(row["difference"]) == pytest.approx(ours[place] - base[place], rel=1e-5)
        assert 0 < float(row["difference_low"]) < float(row["difference"]) < float(row["difference_high"])
        other = rows["c", metric]
        assert float(other["difference_low"]) < 0 < float(other["difference_high"])
        assert rows["a", metric]["difference"] == "" and float(row["low"]) < ours[place] < float(row["high"])


def test_pairs_tell_more_than_two_intervals(tmp_path) -> None:
    """Two runs that err on nearly the same cases: the difference is known better than either score."""
    truth, table = answers(200, 0.7, 1)
    better = table.copy()
    wrong = np.flatnonzero(table.argmax(1) != truth)[:12]
    better[wrong] = np.eye(3)[truth[wrong]]
    for name, values in (("a", table), ("b", better)):
        (tmp_path / name / "test").mkdir(parents=True)
        seen = {f"c{n}": Diagnosis(int(t), row) for n, (t, row) in enumerate(zip(truth, values, strict=True))}
        write_diagnoses(tmp_path / name / "test" / DIAGNOSES, CLASSES, seen)
    found = compare_diagnoses(read_diagnosis_runs([tmp_path / "a", tmp_path / "b"], {}))
    a, b = found.groups
    assert a.high[0] > b.low[0], "each alone says nothing"
    assert b.difference_low[0] > 0 and b.difference[0] == pytest.approx(12 / 200)


def test_draws_and_folds(tmp_path) -> None:
    draws = [run(tmp_path / f"v{n}", 40, 1.0, n, train_cases=9) for n in (1, 2)]
    base = run(tmp_path / "scratch", 40, 0.2, 5, train_cases=9)
    names = {str(place): "voco" for place in draws}
    found = compare_diagnoses(read_diagnosis_runs([base, *draws], names))
    own = [three(*answers(40, 1.0, n)) for n in (1, 2)]
    assert found.groups[1].runs == 2 and found.groups[1].values == pytest.approx(np.mean(own, axis=0))
    assert "voco, 9 training cases: 2 runs" in diagnosis_markdown(found)
    truth, table = answers(40, 1.0, 1)
    for fold in (0, 1):
        (tmp_path / "cv" / f"fold-{fold}" / "validation").mkdir(parents=True)
        part = {f"c{n}": Diagnosis(int(truth[n]), table[n]) for n in range(fold, 40, 2)}
        write_diagnoses(tmp_path / "cv" / f"fold-{fold}" / "validation" / DIAGNOSES, CLASSES, part)
    (folds,) = read_diagnosis_runs([tmp_path / "cv"], {})
    assert folds.source == "its validation cases of 2 folds" and len(folds.cases) == 40
    compared = compare_diagnoses([folds, *read_diagnosis_runs([base], {})])
    assert compared.groups[0].values == pytest.approx(own[0])


def test_runs_that_cannot_be_compared(tmp_path) -> None:
    a = run(tmp_path / "a", 20, 1.0, 1)
    with pytest.raises(DataError, match="holds diagnoses"):
        are_diagnoses([a, scored(tmp_path / "s", {"c0": {"liver": 0.5}})])
    runs = read_diagnosis_runs([a, run(tmp_path / "b", 20, 1.0, 2)], {})
    with pytest.raises(SettingsError, match="no run called 'x'"):
        compare_diagnoses(runs, "x")
    table = tmp_path / "b" / "test" / DIAGNOSES
    text = table.read_text()
    for broken, says in (
        (text.replace("p:ill", "p:sick").replace(",ill", ",sick"), "classes differ"),
        (text.replace("\nc", "\nd"), "no case is in all runs"),
        ("\n".join(line.replace(",ill,", ",well,", 1) for line in text.split("\n")), "do not agree"),
        (text.replace("0.", "x."), "no table of diagnoses"),
        (text.split("\n")[0], "has no cases"),
        ("case,truth\nc0,ill\n", "no table of diagnoses"),
    ):
        table.write_text(broken)
        with pytest.raises(DataError, match=says):
            compare_diagnoses(read_diagnosis_runs([tmp_path / "a", tmp_path / "b"], {}))
    with pytest.raises(SettingsError, match="of segmentations"):
        main_or_raise(["compare", str(a), str(a), "--metric", "dice"])


def main_or_raise(words: list[str]) -> None:
    from VoCoCore.cli import compare

    compare.run(words[1:])


@pytest.mark.usefixtures("own_config")
def test_classifications_leave_a_table_that_names_nobody(tmp_path) -> None:
    """Of validation cases where there are no test cases; images alike are told apart."""
    rng = np.random.default_rng(0)
    arrays = rng.normal(0, 300, (6, 33, 34, 35)).astype(np.float32)
    arrays[5] = arrays[4]
    rows = ["image,target,split"]
    for number in range(6):
        write_image(tmp_path / f"miller{number}.nii.gz", arrays[number], np.eye(4))
        rows.append(
            f"miller{number}.nii.gz,{'ill' if number % 2 else 'well'},{'train' if number < 3 else 'val'}"
        )
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    places = {"data.source": tmp_path / "list.csv", "data.store": tmp_path / "store"}
    values = {**SMALL_FINETUNE, **places, "optim.steps": 1}
    words = [str(word) for name, value in values.items() for word in (f"--{name}", value)]
    place = tmp_path / "run"
    assert main(["finetune", "--run", str(place), "--task", "classification", *words]) == 0
    classes, seen = read_diagnoses(place / "validation" / DIAGNOSES)
    assert classes == ("ill", "well") and len(seen) == 3
    assert "miller" not in (place / "validation" / DIAGNOSES).read_text()
    called = json.loads((place / "private" / "cases.json").read_text())
    assert {called[case]: one.truth for case, one in seen.items()} == {
        "miller3": 0,
        "miller4": 1,
        "miller5": 0,
    }
    assert sum(name.endswith("-2") for name in seen) == 1, "two cases with the same image"
