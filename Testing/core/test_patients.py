"""Several cases of one patient: intervals and tests draw patients, whatever way the cases came together."""

from __future__ import annotations

import csv
import itertools
import json
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_cohorts import LabelledCohort
from made_labels import body, mask, write
from made_scores import moved, organs, save, scored
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from VoCoCore.cli import main
from VoCoCore.data.patients import cases_of, first_cases, merged
from VoCoCore.evaluation.compare_diagnoses import compare_diagnoses, read_diagnosis_runs
from VoCoCore.evaluation.diagnoses_output import diagnosis_markdown
from VoCoCore.evaluation.diagnoses_table import DIAGNOSES, Diagnosis, read_diagnoses, write_diagnoses
from VoCoCore.evaluation.final import examine
from VoCoCore.evaluation.finetune_report import write_finetune_report
from VoCoCore.evaluation.report import write_report
from VoCoCore.evaluation.statistics import paired, wilcoxon
from VoCoCore.evaluation.verdict import judge
from VoCoCore.runs.events import read_events
from VoCoCore.runs.narrate import narrate
from VoCoCore.training.finetune import finetune
from VoCoCore.training.intervals import bootstrap_interval
from VoCoCore.training.pretrain import pretrain

WHOSE = ["p", "q", "p", "r", "p", "q"]
SCORES = np.array([0.9, 0.2, 0.7, 0.5, nan, 0.4])


def all_draws(values: np.ndarray, whose: list[str]) -> list[float]:
    """Means over every way to draw as many patients as there are, each with all of his cases."""
    own = {name: [v for v, who in zip(values, whose, strict=True) if who == name] for name in set(whose)}
    draws = itertools.product(own, repeat=len(own))
    return [float(np.nanmean(np.concatenate([own[name] for name in drawn]))) for drawn in draws]


def test_an_interval_draws_patients_with_all_their_cases():
    # Of three patients there are 27 draws: each end is met more often than in 2.5 % of them.
    means = all_draws(SCORES, WHOSE)
    assert bootstrap_interval(SCORES, WHOSE) == pytest.approx((min(means), max(means)))
    assert bootstrap_interval(SCORES, list("abcdef")) == bootstrap_interval(SCORES)
    assert all(map(isnan, bootstrap_interval(SCORES, ["one"] * 6)))


def test_drawn_means_are_spread_as_all_draws_are():
    rng = np.random.default_rng(5)
    whose = [f"p{n % 5}" for n in range(12)]
    values = rng.uniform(size=12)
    for share in (0.5, 0.8):
        ends = np.quantile(all_draws(values, whose), [(1 - share) / 2, (1 + share) / 2])
        assert bootstrap_interval(values, whose, share=share) == pytest.approx(ends, abs=0.01)


def test_a_second_scan_that_tells_nothing_new_leaves_interval_and_p_as_they_are():
    rng = np.random.default_rng(1)
    one, other = rng.uniform(size=(2, 14, 3))
    whose = [f"p{n}" for n in range(14)] * 2
    single, double = paired(one, other), paired(np.tile(one, (2, 1)), np.tile(other, (2, 1)), whose)
    assert (double.pairs, double.patients, double.ties) == (28, 14, single.ties)
    assert (double.low, double.high, double.mean) == pytest.approx((single.low, single.high, single.mean))
    assert double.p == single.p
    blind = paired(np.tile(one, (2, 1)), np.tile(other, (2, 1)))
    assert blind.high - blind.low < 0.8 * (double.high - double.low)


def test_what_is_tested_is_each_patients_mean_difference():
    rng = np.random.default_rng(2)
    one, other = rng.uniform(size=(2, 24))
    one[3] = nan
    whose = [f"p{n // 3}" for n in range(24)]
    by_hand = [np.nanmean((other - one)[3 * n : 3 * n + 3]) for n in range(8)]
    found = paired(one, other, whose)
    assert (found.pairs, found.patients) == (23, 8) and found.p == wilcoxon(np.array(by_hand))


PAIRS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=14)


@given(several=st.lists(PAIRS, min_size=1, max_size=3))
def test_tables_that_know_each_a_part_are_joined(several):
    tables = [{f"c{case}": f"c{first}" for case, first in pairs} for pairs in several]
    found = merged(tables)
    links = [(int(case[1:]), int(first[1:])) for table in tables for case, first in table.items()]
    rows, columns = zip(*links, strict=True) if links else ((), ())
    _, parts = connected_components(coo_matrix((np.ones(len(links)), (rows, columns)), (12, 12)), False)
    for one, other in itertools.combinations(range(12), 2):
        names = (f"c{one}", f"c{other}")
        assert (found.get(names[0], names[0]) == found.get(names[1], names[1])) == (
            parts[one] == parts[other]
        )


def test_a_patient_goes_by_his_first_case():
    given_cases = [("a", "P"), ("b", ""), ("c", "P"), ("d", "")]
    assert first_cases(given_cases) == {"a": "a", "b": "b", "c": "a", "d": "d"}
    assert cases_of(4, 3) == "4 cases of 3 patients" and cases_of(1, 1, "volume") == "1 volume"


# Evaluations and comparisons


def listed(folder: Path, patients: str) -> Path:
    """References and predictions of as many cases, and a list that says whose each is."""
    lines = []
    for number, patient in enumerate(patients):
        array = organs(number)
        save(folder / f"i{number}.nii.gz", array.astype(np.int16))
        save(folder / f"l{number}.nii.gz", array)
        save(folder / "predictions" / f"c{number}.nii.gz", moved(array, 1 + number % 2))
        lines.append(f"c{number},i{number}.nii.gz,l{number}.nii.gz,{patient}")
    (folder / "list.csv").write_text("\n".join(["id,image,label,patient", *lines]) + "\n")
    return folder / "list.csv"


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_an_evaluation_knows_the_patients_of_a_list(tmp_path, capsys):
    references = listed(tmp_path / "data", "MNMOO")
    command = ["evaluate", "--predictions", tmp_path / "data" / "predictions", "--references", references]
    assert main([str(word) for word in (*command, "-o", tmp_path / "out", "--workers", 0)]) == 0
    table = rows(tmp_path / "out" / "per_case.csv")
    owners = {row["case"]: row["patient"] for row in table}
    assert owners == {"c0": "c0", "c1": "c1", "c2": "c0", "c3": "c3", "c4": "c3"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["cases"], summary["patients"]) == (5, 3)
    by_label = {name: [float(r["dice"]) for r in table if r["label"] == name] for name in summary["labels"]}
    for name, values in by_label.items():
        means, found = all_draws(np.array(values), list("MNMOO")), summary["labels"][name]["dice"]
        assert (found["low"], found["high"]) == pytest.approx((min(means), max(means)), rel=1e-5)
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "bootstrap by patient" in page and "Only 5 cases of 3 patients" in page
    assert "5 cases of 3 patients scored" in capsys.readouterr().out


def test_a_comparison_draws_and_tests_patients(tmp_path, capsys):
    rng = np.random.default_rng(0)
    cases = [f"c{n}" for n in range(16)]
    # Two scans of each of the first six, in one table only; the other is of an older version, without the column.
    patients = {f"c{n}": f"c{n // 2 * 2}" for n in range(12)}
    for name, shift in (("a", 0.0), ("b", 0.1)):
        values = {case: {"liver": 0.5 + shift * rng.uniform()} for case in cases}
        scored(tmp_path / name, values, patients if name == "b" else None)
    older = tmp_path / "a" / "per_case.csv"
    older.write_text("\n".join(line.rpartition(",")[0] for line in older.read_text().splitlines()) + "\n")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "16 cases of 10 patients that all runs have" in text and "bootstrap over patients" in text
    assert "on each patient's difference" in text and "a patient is drawn with all of the cases" in text
    mean = next(r for r in rows(tmp_path / "out" / "comparison.csv") if r["pairs"] and r["label"] == "mean")
    assert (mean["pairs"], mean["patients"]) == ("16", "10")
    one, other = ([float(row["dice"]) for row in rows(tmp_path / n / "per_case.csv")] for n in "ab")
    apart = [patients.get(case, case) for case in cases]
    shifts = np.array(other) - np.array(one)
    by_hand = [shifts[[who == name for who in apart]].mean() for name in dict.fromkeys(apart)]
    assert float(mean["p"]) == pytest.approx(wilcoxon(np.array(by_hand)), rel=1e-6)


def test_too_few_patients_are_not_tested_however_many_their_cases(tmp_path, capsys):
    cases = {f"c{n}": {"liver": 0.5 + n / 100} for n in range(15)}
    patients = {case: f"c{n % 3}" for n, case in enumerate(cases)}
    scored(tmp_path / "a", cases, patients)
    better = {case: {"liver": found["liver"] + 0.1} for case, found in cases.items()}
    scored(tmp_path / "b", better, patients)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    text = capsys.readouterr().out
    assert "too few: 3 patients that differ, 6 needed" in text and "With so few patients" in text


def test_diagnoses_are_compared_by_patient(tmp_path):
    rng, classes = np.random.default_rng(4), ("ill", "well")
    truth = np.array([0, 1, 0, 1, 1, 0])
    whose = {"c0": "c0", "c1": "c1", "c2": "c0", "c3": "c1", "c4": "c4", "c5": "c5"}
    for name in ("a", "b"):
        sure = rng.uniform(size=6)
        seen = {
            f"c{n}": Diagnosis(int(truth[n]), np.array([p, 1 - p]), whose[f"c{n}"])
            for n, p in enumerate(sure)
        }
        write_diagnoses(tmp_path / name / "test" / DIAGNOSES, classes, seen)
    assert {
        case: one.patient for case, one in read_diagnoses(tmp_path / "a" / "test" / DIAGNOSES)[1].items()
    } == whose
    comparison = compare_diagnoses(read_diagnosis_runs([tmp_path / "a", tmp_path / "b"], {}))
    assert (comparison.cases, comparison.patients) == (6, 4)
    _, cases = read_diagnoses(tmp_path / "a" / "test" / DIAGNOSES)
    right = np.array([one.probabilities.argmax() == one.truth for one in cases.values()], float)
    ends = np.quantile(all_draws(right, list(whose.values())), [0.025, 0.975])
    first = comparison.groups[0]
    assert (first.low[0], first.high[0]) == pytest.approx(ends, abs=0.01)
    text = diagnosis_markdown(comparison)
    assert "6 cases of 4 patients" in text and "bootstrap over patients" in text


# Runs


@pytest.fixture(scope="module")
def repeated(tmp_path_factory) -> LabelledCohort:
    """Eight labelled cases, two of each of four patients, of whom two are for validation and two for the end."""
    root = tmp_path_factory.mktemp("repeated")
    lines = []
    for number in range(10):
        write(root / f"c{number}.nii.gz", body(number))
        write(root / f"l{number}.nii.gz", mask(1, 2))
        split = "train" if number < 2 else "val" if number < 6 else "test"
        kind = "ill" if number % 3 else "well"
        lines.append(f"c{number}.nii.gz,l{number}.nii.gz,{split},MILLER{number // 2},{kind}")
    (root / "list.csv").write_text("\n".join(["image,label,split,patient,target", *lines]) + "\n")
    return LabelledCohort(root / "list.csv", root / "store")


def values(run: Path, split: str) -> dict[str, float]:
    return next(
        e["values"]
        for e in read_events(run / "events.jsonl")
        if e["type"] == "metrics" and e["split"] == split
    )


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_run_scores_by_patient_and_names_none(task, repeated, tmp_path):
    run = tmp_path / "run"
    assert finetune(repeated.settings(task=task, optim__steps=1, run__validate_every=1), run).finished
    examine(run)
    for split in ("val", "test"):
        assert (values(run, split)["cases"], values(run, split)["patients"]) == (4, 2)
    table = run / "test" / ("per_case.csv" if task == "segmentation" else DIAGNOSES)
    owners = {row["case"]: row["patient"] for row in rows(table)}
    called = json.loads((run / "private" / "cases.json").read_text())
    assert {called[case]: called[first] for case, first in owners.items()} == {
        "c6": "c6", "c7": "c6", "c8": "c8", "c9": "c8"
    }  # fmt: skip
    told = [path for path in run.rglob("*") if path.is_file() and "private" not in path.parts]
    assert not [path for path in told if b"MILLER" in path.read_bytes()]
    page = write_finetune_report(run).read_text()
    assert "4 cases of 2 patients" in page and "So few patients say little" in page


def test_a_pretraining_is_judged_by_patient(small_cohort, tmp_path):
    images = sorted(Path(small_cohort.source).rglob("*.nii.gz"))[:4]
    lines = [
        f"{path},{'train' if n == 0 else 'val'},{'P' if n < 1 else 'Q'}" for n, path in enumerate(images)
    ]
    (tmp_path / "list.csv").write_text("\n".join(["image,split,patient", *lines]) + "\n")
    settings = small_cohort.settings(
        data__source=str(tmp_path / "list.csv"), optim__steps=2, optim__warmup=0, run__validate_every=1
    )
    heard: list[str] = []
    hear = [lambda event: heard.append(event.get("split", ""))]
    assert not pretrain(
        settings, tmp_path / "run", listeners=hear, should_stop=lambda: "val" in heard
    ).finished
    found = values(tmp_path / "run", "val")
    assert (found["volumes"], found["patients"]) == (3, 1)
    assert found["accuracy_low"] == found["position_accuracy"] == found["accuracy_high"]
    verdict = judge(found, 4, active=False)
    assert verdict.title == "Whether it learned cannot be told"
    assert "3 volumes of 1 patient" in verdict.text and "One patient is too few" in verdict.text
    event = next(
        e
        for e in read_events(tmp_path / "run" / "events.jsonl")
        if e["type"] == "metrics" and e["split"] == "val"
    )
    assert "(of one patient, chance" in str(narrate(event))
    assert "One patient is too few" in write_report(tmp_path / "run").read_text()
    # A run that was begun before patients were kept goes on with each volume by itself.
    kept = json.loads((tmp_path / "run" / "private" / "cohort.json").read_text())
    kept.pop("patients")
    (tmp_path / "run" / "private" / "cohort.json").write_text(json.dumps(kept))
    assert pretrain(settings, tmp_path / "run", resume=True).finished
    last = [e for e in read_events(tmp_path / "run" / "events.jsonl") if e.get("split") == "val"][-1][
        "values"
    ]
    assert last["volumes"] == 3 and "patients" not in last
