"""The report's one answer, and what it leaves out of every text."""

from pathlib import Path

import pytest
from made_runs import VAL

import VoCoCore.demo
from VoCoCore.cli import main
from VoCoCore.evaluation.verdict import judge
from VoCoCore.runs.privacy import without_names


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({}, "good", "has learned"),
        ({"accuracy_low": 0.10}, "bad", "reaches down to chance"),
        ({"shuffled_accuracy": 0.6}, "bad", "shuffled control"),
        ({"volumes": 1.0}, "note", "cannot be told"),
        ({"volumes": 3.0}, "good", "only 3 held-out volumes"),
        ({"accuracy_low": None}, "note", "cannot be told"),
        ({"chance": float("nan")}, "note", "cannot be told"),
        ({"position_accuracy": None}, "bad", "not numbers"),
    ],
)
def test_verdict_follows_the_lower_bound(changes, kind, says):
    verdict = judge({**VAL, **changes}, bases=16, active=False)
    assert verdict.kind == kind and says in f"{verdict.title} {verdict.text}"


@pytest.mark.parametrize("changes", [{}, {"shuffled_accuracy": 0.6}, {"accuracy_low": 0.1}, {"volumes": 1.0}])
def test_the_demo_says_what_its_report_says(changes, capsys, monkeypatch, tmp_path):
    figures = {**VAL, **changes}
    made = VoCoCore.demo.Demonstration(Path("report.html"), Path("crops.png"), figures, finished=True)
    monkeypatch.setattr(VoCoCore.demo, "demonstrate", lambda *given: made)
    assert main(["demo", "--folder", str(tmp_path)]) == 0
    assert judge(figures, bases=16, active=False).title in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot read /a b/c d.nii.gz: truncated", "cannot read [file]: truncated"),
        ("12.5 steps/s, 3/4 of them", "12.5 steps/s, 3/4 of them"),
        ("see 'D:\\x\\y z.mha' now", "see '[file]' now"),
        ("left out case 7: too small", "left out a case: too small"),
        ("folder /data/anna is empty", "folder [folder] is empty"),
        ("lower optim.lr or use run.precision bf16", "lower optim.lr or use run.precision bf16"),
    ],
)
def test_without_names(text, shown):
    assert without_names(text) == shown
