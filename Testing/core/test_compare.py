"""`voco compare` and its statistics, against scipy, enumeration, figures by hand and simulated cohorts."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_scores import scored

from VoCoCore.cli import main
from VoCoCore.errors import DataError, SettingsError
from VoCoCore.evaluation.compare import MEAN, compare
from VoCoCore.evaluation.compare_output import comparison_figure, markdown
from VoCoCore.evaluation.compare_read import read_runs
from VoCoCore.evaluation.statistics import column_means, holm, paired, wilcoxon
from VoCoCore.training.intervals import bootstrap_interval

SIZES = st.integers(-6, 6).map(lambda n: n / 4)


def by_enumeration(differences: list[float]) -> float:
    """Two-sided p: the share of all signs whose rank sum is at least as far from its middle."""
    left = [d for d in differences if d]
    sizes = sorted(abs(d) for d in left)
    ranks = [sizes.index(abs(d)) + (sizes.count(abs(d)) + 1) / 2 for d in left]
    middle = sum(ranks) / 2
    seen = abs(sum(r for r, d in zip(ranks, left, strict=True) if d > 0) - middle)
    sums = [
        sum(r for r, up in zip(ranks, signs, strict=True) if up)
        for signs in itertools.product((0, 1), repeat=len(left))
    ]
    return sum(abs(total - middle) >= seen for total in sums) / len(sums)


@settings(max_examples=60, deadline=None)
@given(differences=st.lists(SIZES, min_size=6, max_size=10).filter(lambda d: sum(map(bool, d)) >= 6))
def test_wilcoxon_is_exact_with_ties_and_zeros(differences):
    assert wilcoxon(np.array(differences)) == pytest.approx(by_enumeration(differences))


@pytest.mark.parametrize("pairs", [6, 15, 50, 51, 120])
def test_wilcoxon_is_scipys(pairs):
    from scipy import stats

    differences = np.random.default_rng(pairs).normal(0.25, 1, pairs)
    assert wilcoxon(differences) == pytest.approx(
        stats.wilcoxon(differences, method="exact").pvalue, rel=0.03
    )


def test_too_few_pairs_have_no_p():
    assert isnan(wilcoxon(np.array([1.0, 2, 3, 4, 5]))) and isnan(
        wilcoxon(np.array([1.0, 2, 3, 4, 5, 0, 0, 1e-12]))
    )
    assert wilcoxon(np.arange(1.0, 7)) == 2 / 2**6


def test_holm_steps_down_and_leaves_out_what_was_not_tested():
    assert holm([0.01, 0.04, nan, 0.03]) == pytest.approx([0.03, 0.06, nan, 0.06], nan_ok=True)
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.02]) == [0.02] and isnan(holm([nan])[0])


def test_the_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.exponential(1.0, 40), draws=500)
        hits += low <= 1.0 <= high
    assert 0.86 <= hits / 200 <= 0.98, "95 % is aimed at; percentiles of skewed values give a little less"


def test_the_bootstrap_interval_is_that_of_drawing_cases():
    values = np.array([0.2, 0.93, 0.41, 0.55, 0.68, 0.77])
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=6)]
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(bootstrap_interval(values), expected, atol=0.008)
    assert (
        bootstrap_interval(values)
        == bootstrap_interval(values)
        != bootstrap_interval(values, seed=1, draws=99)
    )
    assert all(map(isnan, bootstrap_interval(np.array([0.3, nan]))))


def test_a_draw_without_any_case_of_a_label_takes_the_labels_own_mean():
    table = np.column_stack([[0.93, 0.412, 0.551, 0.68, 0.774], [0.1, 0.3, nan, nan, nan], [nan] * 5])
    means = []
    for drawn in itertools.product(range(5), repeat=5):
        rare = table[list(drawn), 1]
        rare = rare[np.isfinite(rare)]
        means.append((table[list(drawn), 0].mean() + (rare.mean() if len(rare) else 0.2)) / 2)
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(bootstrap_interval(table), expected, atol=0.004)
    table[1, 1] = nan  # and what is in one case alone does not vary
    of_the_other = np.array(bootstrap_interval(table[:, 0]))
    np.testing.assert_allclose(bootstrap_interval(table), (of_the_other + 0.1) / 2)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 0.6))
def test_means_over_labels_weigh_labels_alike(seed, share):
    rng = np.random.default_rng(seed)
    table = rng.random((12, 3))
    table[rng.random((12, 3)) < share] = nan
    columns = [np.mean(c[np.isfinite(c)]) if np.isfinite(c).any() else nan for c in table.T]
    np.testing.assert_allclose(column_means(table), columns)
    low, high = bootstrap_interval(table)
    known = [value for value in columns if not isnan(value)]
    if known and np.isfinite(table).any(axis=1).sum() > 1:
        assert low <= np.mean(known) <= high


def test_paired_differences_by_hand():
    a = np.array([[0.5, 0.6], [0.7, nan], [0.8, 0.8], [nan, nan]])
    b = np.array([[0.6, 0.8], [0.7, 0.1], [0.7, nan], [0.9, 0.9]])
    found = paired(a, b)
    # Case by case: 0.15, 0, -0.1; by column: (0.1 + 0 - 0.1) / 3 and 0.2.
    assert (found.pairs, found.ties, found.median) == (3, 1, 0)
    assert found.mean == pytest.approx((0 + 0.2) / 2) and isnan(found.p)
    with pytest.raises(ValueError, match="same cases"):
        paired(a, b[:3])


def made(cases: int, mean: float, seed: int, better: float = 0.0) -> dict[str, dict[str, float]]:
    """Scores that vary over cases alike for all ``seed``s, with some noise of their own."""
    level = np.random.default_rng(99).normal(mean, 0.1, (cases, 2))
    own = np.random.default_rng(seed).normal(better, 0.01, (cases, 2))
    values = np.clip(level + own, 0, 1)
    return {f"c{n:02}": {"liver": values[n, 0], "spleen": values[n, 1]} for n in range(cases)}


def told(folder: Path) -> list[dict[str, str]]:
    with open(folder / "comparison.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_better_run_is_found_better_case_by_case(tmp_path, capsys):
    a = scored(tmp_path / "scratch", made(20, 0.7, 1))
    b = scored(tmp_path / "voco", made(20, 0.7, 2, 0.02))
    c = scored(tmp_path / "other", made(20, 0.7, 3))
    words = ["compare", str(a), str(b), str(c), "-o", str(tmp_path / "out")]
    assert main(words) == 0
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert text in capsys.readouterr().out
    head = next(line for line in text.splitlines() if line.startswith("| method"))
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "method",
        "liver",
        "spleen",
        "mean",
        "95 %",
    ]
    found = {(row["method"], row["label"]): row for row in told(tmp_path / "out")}
    ours, base = (
        np.array([list(v.values()) for v in made(20, 0.7, s, d).values()]) for s, d in ((2, 0.02), (1, 0))
    )
    row = found["voco", "mean"]
    assert float(row["mean"]) == pytest.approx(ours.mean(), rel=1e-5)
    assert float(row["difference"]) == pytest.approx((ours - base).mean(), rel=1e-4)
    assert float(row["difference_low"]) > 0 and float(row["p_holm"]) < 0.001 and row["pairs"] == "20"
    assert float(found["voco", "liver"]["difference"]) == pytest.approx((ours - base)[:, 0].mean(), rel=1e-4)
    other = found["other", "mean"]
    assert float(other["difference_low"]) < 0 < float(other["difference_high"]) and float(other["p"]) > 0.05
    assert f"**{100 * ours[:, 0].mean():.2f}**" in text, "the best of a column is bold"
    for family in (["mean"], ["liver", "spleen"]):
        tested = [found[method, label] for method in ("voco", "other") for label in family]
        corrected = holm([float(one["p"]) for one in tested])
        assert [float(one["p_holm"]) for one in tested] == pytest.approx(corrected, rel=1e-5)
    assert found["scratch", "mean"]["p"] == "" and (tmp_path / "out" / "comparison.png").stat().st_size > 5000


def test_few_cases_get_no_p(tmp_path):
    runs = read_runs(
        [scored(tmp_path / "a", made(5, 0.7, 1)), scored(tmp_path / "b", made(5, 0.7, 2, 0.1))], "dice", {}
    )
    text = markdown(compare(runs, "dice"))
    assert "too few: 5 pairs that differ, 6 needed" in text and "With so few cases" in text
    assert "< 0.0001" not in text


def test_identical_runs_do_not_differ(tmp_path):
    a = scored(tmp_path / "a", made(8, 0.7, 1))
    shutil.copytree(a, tmp_path / "b")
    found = compare(read_runs([a, tmp_path / "b"], "dice", {}), "dice")
    assert all(one.found.mean == 0 and isnan(one.found.p) for one in found.differences)
    assert "no pair differs" in markdown(found)


def test_draws_of_a_method_and_learning_curves(tmp_path):
    folders, names = [], {}
    for method, gain in (("scratch", 0.0), ("voco", 0.03)):
        for count, level in ((2, 0.5), (10, 0.8)):
            for draw in range(2):
                dice = made(12, level, 10 * draw + count, gain)
                folder = scored(tmp_path / f"{method}-{count}-{draw}", dice, train_cases=count, init=method)
                folders.append(folder)
                names[str(folder)] = method
    found = compare(read_runs(folders, "dice", names), "dice", "scratch")
    assert [(g.name, g.train_cases, g.runs) for g in found.groups] == [
        ("scratch", 2, 2), ("scratch", 10, 2), ("voco", 2, 2), ("voco", 10, 2),
    ]  # fmt: skip
    means = {(one.group.train_cases, one.baseline.train_cases) for one in found.differences}
    assert means == {(2, 2), (10, 10)}
    assert all(
        one.found.mean == pytest.approx(0.03, abs=0.002) for one in found.differences if one.label == MEAN
    )
    own = [np.mean([list(v.values()) for v in made(12, 0.5, 10 * draw + 2).values()]) for draw in range(2)]
    assert found.groups[0].mean == pytest.approx(np.mean(own), rel=1e-5)
    assert found.groups[0].runs_sd == pytest.approx(np.std(own, ddof=1), rel=1e-3)
    curves = comparison_figure(found).axes[0]
    assert curves.get_xlabel() == "training cases" and len(curves.get_legend().texts) == 2
    text = markdown(found)
    assert "| training cases |" in text and "2 runs, standard deviation of their means" in text


def test_folds_are_one_run(tmp_path):
    whole, folds = made(12, 0.7, 1), tmp_path / "cv"
    for fold in range(3):
        part = dict(list(whole.items())[4 * fold : 4 * fold + 4])
        scored(folds / f"fold-{fold}" / "validation", part)
    a, b = read_runs([folds, scored(tmp_path / "alone", whole)], "dice", {})
    assert {case: dict(found) for case, found in a.scores.items()} == b.scores
    assert a.source == "its validation cases of 3 folds" and b.source == "an evaluation"


def test_the_test_cases_of_a_run_go_before_its_validation_cases(tmp_path):
    run = scored(tmp_path / "run", {"t": {"x": 0.5}}, train_cases=3, init="scratch")
    scored(run / "validation", {"v": {"x": 0.9}})
    (found,) = read_runs([run], "dice", {})
    assert list(found.scores) == ["t"] and found.source == "its test cases"
    assert (found.train_cases, found.init, found.name) == (3, "scratch", "run")


def test_only_common_cases_count_and_it_is_said(tmp_path):
    one, two = made(10, 0.7, 1), made(10, 0.7, 2)
    del one["c00"], two["c01"]
    two["c09"].pop("spleen")
    found = compare(read_runs([scored(tmp_path / "a", one), scored(tmp_path / "b", two)], "dice", {}), "dice")
    assert len(found.cases) == 8 and any("2 cases are not in all runs" in note for note in found.notes)
    spleen = next(one for one in found.differences if one.label == "spleen")
    assert spleen.found.pairs == 7


def test_less_is_better_for_distances(tmp_path):
    from VoCoCore.evaluation.cases_table import write_per_case
    from VoCoCore.evaluation.metrics import LabelMetrics

    for name, shift in (("near", 0.0), ("far", 1.0)):
        (tmp_path / name).mkdir()
        scores = {f"c{n}": {"liver": LabelMetrics(hd95=n + 1.0 + shift, state="")} for n in range(7)}
        write_per_case(tmp_path / name / "per_case.csv", scores)
    found = compare(read_runs([tmp_path / "far", tmp_path / "near"], "hd95", {}), "hd95")
    text = markdown(found)
    assert text.startswith("# HD95 [mm], less is better") and "**4.00**" in text and "**5.00**" not in text
    assert "better to the left" in comparison_figure(found).axes[1].get_title(loc="left")


def test_means_over_other_cases_are_told(tmp_path):
    found = {f"c{n}": {"x": 2.0 if n < 3 else 20.0, "y": 1.0} for n in range(6)}
    missing = {case: {**one, "x": nan if one["x"] > 9 else one["x"]} for case, one in found.items()}
    finds, misses = scored(tmp_path / "finds", found), scored(tmp_path / "misses", missing)
    text = markdown(compare(read_runs([finds, misses], "dice", {}), "dice"))
    assert "means of 'x' are not over the same cases (finds 6, misses 3, of 6)" in text
    assert "means of 'y'" not in text
    same = read_runs([finds, scored(tmp_path / "also", found)], "dice", {})
    assert "not over the same" not in markdown(compare(same, "dice"))


def test_a_baseline_can_be_named_by_its_folder(tmp_path, capsys):
    a, b = scored(tmp_path / "a", made(8, 0.7, 1)), scored(tmp_path / "b", made(8, 0.7, 2))
    assert main(["compare", str(a), str(b), "--baseline", str(b), "--name", f"{a}=first"]) == 0
    out = capsys.readouterr().out
    assert "## Differences from b" in out and "| first " in out


def test_folders_of_one_name_are_told_apart(tmp_path):
    a, b = (scored(tmp_path / name / "evaluation", made(8, 0.7, n)) for n, name in enumerate("xy"))
    assert [run.name for run in read_runs([a, b], "dice", {})] == ["x/evaluation", "y/evaluation"]


def test_surface_dice_of_several_tolerances_is_refused(tmp_path):
    a, b = scored(tmp_path / "a", made(8, 0.7, 1)), scored(tmp_path / "b", made(8, 0.7, 2))
    (b / "summary.json").write_text('{"tolerance_mm": 3.0}')
    with pytest.raises(DataError, match="tolerances of 1 and 3 mm"):
        compare(read_runs([a, b], "surface_dice", {}), "surface_dice")
    compare(read_runs([a, b], "dice", {}), "dice")
    with pytest.raises(SettingsError):
        compare(read_runs([a], "dice", {}), "dice")


def test_means_over_other_labels_are_not_compared(tmp_path):
    whole = scored(tmp_path / "whole", {f"c{n}": {"hippocampus": 0.8} for n in range(8)})
    parts = scored(tmp_path / "parts", {f"c{n}": {"anterior": 0.4, "posterior": 0.5} for n in range(8)})
    with pytest.raises(DataError, match="no label in common: hippocampus, and anterior, posterior"):
        compare(read_runs([whole, parts], "dice", {}), "dice")


def test_settings_in_which_runs_differ_are_told_but_for_those_that_are_compared(tmp_path):
    scores, evaluation = made(8, 0.7, 1), scored(tmp_path / "evaluation", made(8, 0.7, 1))
    same = {"init": "scratch", "data": {"labels": 3}, "run": {"seed": 0}, "patches": {"size": [32, 32, 32]}}
    other = {"init": "x", "data": {"labels": 5}, "run": {"seed": 1}, "patches": {"size": [48, 32, 32]}}
    for name, held in (("a", same), ("b", other), ("c", {**other, "patches": same["patches"]}), ("d", [])):
        scored(tmp_path / name, scores, train_cases=3, init="scratch")
        (tmp_path / name / "settings.json").write_text(json.dumps(held))

    def told(*names: str) -> list[str]:
        runs = read_runs([evaluation, *(tmp_path / name for name in names)], "dice", {})
        return [note for note in compare(runs, "dice").notes if "trained alike" in note]

    assert told("a", "c", "d") == []
    assert [note.partition(": ")[2] for note in told("a", "b", "c", "d")] == [
        "patches.size 32,32,32 (a, c) and 48,32,32 (b)"
    ]


def test_runs_and_evaluations_meet_by_what_runs_know_of_their_cases(tmp_path):
    """A run's table has hashes, an evaluation names; a copy of a run without its private folder still pairs."""
    scores = made(8, 0.7, 1)
    hashed = {f"hash{n}": found for n, found in enumerate(scores.values())}
    run = scored(tmp_path / "run", hashed, train_cases=3, init="scratch")
    passed_on = scored(tmp_path / "passed on", hashed, train_cases=3, init="scratch")
    evaluation = scored(tmp_path / "evaluation", scores)
    with pytest.raises(DataError, match="no case is in all runs"):
        compare(read_runs([run, evaluation], "dice", {}), "dice")
    (run / "private").mkdir()
    (run / "private" / "cases.json").write_text(json.dumps(dict(zip(hashed, scores, strict=True))))
    found = compare(read_runs([evaluation, run, passed_on], "dice", {}), "dice")
    assert len(found.cases) == 8 and all(one.found.mean == 0 for one in found.differences)
    other = scored(
        tmp_path / "other", {f"other{n}": found for n, found in enumerate(scores.values())}, init="x"
    )
    (other / "private").mkdir()
    names = {f"other{n}": case for n, case in enumerate(scores)}
    (other / "private" / "cases.json").write_text(json.dumps(names))
    with pytest.raises(DataError, match="no case is in all runs"):
        compare(read_runs([run, other], "dice", {}), "dice")  # other images under the same names
