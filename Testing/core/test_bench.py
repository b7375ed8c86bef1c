"""Gathering the benchmarks: rows, the table, and those that fail."""

from __future__ import annotations

import json
from itertools import count

import evidence_page
import on_gpu
import pytest
import together
import torch

ROW = {"name": "reading", "unit": "ms", "ours": 2.0, "baseline": 1.0, "ratio": 0.5, "goal": "<= 1", "more": 7}
SCRIPTS = {
    "bench_bad": f"import json; print(json.dumps({ROW}), flush=True); raise ValueError('no room')",
    "bench_good": f"import json; print(json.dumps([{ROW}, {ROW}])); print('[1, 2]'); print('done')",
    "bench_words": "print('quick enough')",
    "bench_skipped": "import sys; print('no GPU here', file=sys.stderr); sys.exit(77)",
    "other": "print('never run')",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    here = tmp_path / "Testing" / "benchmarks"
    here.mkdir(parents=True)
    for name, text in SCRIPTS.items():
        (here / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(together, "HERE", here)
    monkeypatch.setattr(together, "ROOT", tmp_path)
    monkeypatch.setattr(together, "_drawn", lambda path: False)
    return tmp_path


def test_a_benchmark_that_fails_is_named_and_takes_no_row_with_it(folder, capsys):
    assert together.main([]) == 1
    shown = capsys.readouterr()
    assert (
        "bench_bad.py failed: exit code 1" in shown.err and "bench_words.py failed: no figures" in shown.err
    )
    assert "ValueError: no room" in shown.out and "4 of 4 done" in shown.out
    assert (
        "bench_skipped.py, skipped" in shown.out and "no GPU here" in shown.out and "skipped" not in shown.err
    )
    assert "bench_good.py failed" not in shown.err and "never run" not in shown.out
    found = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    assert [list(each) for each in found] == [list(together.COLUMNS)] * 3
    assert found[0]["ratio"] == 0.5 and found[0]["device"] is None


def test_each_row_is_shown_as_it_comes_and_then_in_a_table(folder, capsys):
    assert together.main(["good"]) == 0
    shown = capsys.readouterr().out
    assert (
        "1 of 1 done" in shown
        and "bench_good.py, 2 rows" in shown
        and shown.count("   reading: 2 ms  (0.5 x)") == 2
    )
    assert (
        "what" in shown
        and len([line for line in shown.splitlines() if line.split()[1:5] == ["ms", "2", "1", "0.5"]]) == 2
    )


def test_the_table_breaks_long_names_and_keeps_its_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    together.print_table(
        [ROW | {"name": "a word " * 20, "spread": None}, ROW | {"spread": 0.25, "ours": 12345.6}]
    )
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert len({line.index("ms") for line in lines if " ms " in line}) == 1
    assert "12,346" in lines[-1] and lines[-1].endswith("0.25")


def test_the_benchmarks_of_a_gpu_can_be_tried_out_without_one():
    tried = together.run(together.HERE / "bench_gpu_segment.py", ["--tiny", "--device", "cpu"], print)
    assert [row["device"] for row in tried.rows] == ["CPU, a trial"] * 4 and not tried.fault
    assert all(row["ours"] > 0 and row["baseline"] > 0 for row in tried.rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_its_benchmarks_are_skipped():
    said = []
    found = together.run(together.HERE / "bench_gpu_step.py", [], said.append)
    assert found.skipped and not found.fault and "no GPU here" in said[-1]


def test_what_was_read_ahead_is_taken_before_a_stretch_is_timed():
    numbers, worked, timed = count(), [], []
    clock = on_gpu.Clock("cpu")
    clock.seconds = lambda work, times: [timed.append(work) or work() for _ in range(times)]
    fed = on_gpu.Fed(lambda: worked.append(next(numbers)), numbers, ahead=4)
    clock.stretch(fed, times=2, untimed=3)
    assert worked == [4, 5, 6, 7, 8] and len(timed) == 2
    clock.stretch(lambda: worked.append("plain"), times=1, untimed=1)
    assert worked[5:] == ["plain"] * 2 and next(numbers) == 9


@pytest.mark.parametrize(("free", "workers"), [(64_000, 8), (1000, 3), (64, 0), (None, 8)])
def test_where_shared_memory_is_small_both_sides_have_fewer_workers(free, workers, monkeypatch, capsys):
    monkeypatch.setattr(on_gpu, "usual_workers", lambda *_: 8)
    monkeypatch.setattr(on_gpu, "shared_memory_free", lambda: free and free * 10**6)
    assert on_gpu.loader_workers(40 * 10**6) == workers
    said = capsys.readouterr().err
    assert (f"{free} MB free" in said and f"have {workers}" in said) if workers < 8 else not said


@pytest.mark.parametrize(
    ("draws", "told"), [(5, "+10.0 (10.0 to 10.0; n = 5), better in 5 of 5: too few draws"), (6, "helps")]
)
def test_the_page_of_evidence_says_helps_of_as_many_draws_as_a_test_takes(draws, told, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence_page, "TRIED", "")
    (tmp_path / "evidence").mkdir()
    for method, dice in (("scratch", 0.5), ("L_pred", 0.6)):
        for draw in range(draws):
            cell = {"table": "torso", "method": method, "grid": "4x4x1", "labels": 2, "draw": draw}
            found = {**cell, "scores": {"dice": dice}, "device": "cpu", "steps": [1, 1]}
            (tmp_path / "evidence" / f"{method}-{draw}.json").write_text(json.dumps(found))
    said = evidence_page.write_page(tmp_path / "evidence").read_text(encoding="utf-8")
    conclusion = " ".join(said.partition("## What this shows")[2].split())
    assert told in conclusion and ("helps" in conclusion) == (told == "helps")
