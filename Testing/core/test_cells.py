"""Names in tables: a spreadsheet computes none of them, and all come back as they were."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from VoCoCore.evaluation.cases_table import read_per_case, write_per_case
from VoCoCore.evaluation.diagnoses_table import Diagnosis, read_diagnoses, write_diagnoses
from VoCoCore.evaluation.metrics import LabelMetrics
from VoCoCore.evaluation.text_tables import plain
from VoCoCore.inference.results import read_table, write_table

NAMES = ["=1+1", "@SUM(A1)", "-x", "+y", "\t=1", "'=1", "''-x", "'tis", "-3", "'-3", "plain", "a=b"]


def cells(path) -> list[str]:
    with open(path, encoding="utf-8", newline="") as file:
        return [cell for row in list(csv.reader(file))[1:] for cell in row[:3]]


@pytest.mark.parametrize("table", ["scores", "volumes", "diagnoses"])
def test_names_that_look_like_formulas(tmp_path, table):
    path = tmp_path / "table.csv"
    if table == "scores":
        write_per_case(path, {name: {name: LabelMetrics(volume_error_ml=-1.5)} for name in NAMES})
        found = read_per_case(path, "volume_error_ml")
        assert found == {name: {name: -1.5} for name in NAMES}
    elif table == "volumes":
        write_table(path, ["case", "label", "ml"], [[name, name, -1.5] for name in NAMES])
        assert read_table(path, ["case", "label", "ml"]) == [[name, name, "-1.5"] for name in NAMES]
    else:
        classes = sorted(NAMES)
        one = np.eye(len(classes))
        seen = {name: Diagnosis(place, one[place]) for place, name in enumerate(classes)}
        write_diagnoses(path, classes, seen)
        assert {name: each.truth for name, each in read_diagnoses(path)[1].items()} == {
            name: place for place, name in enumerate(classes)
        }
    computed = [cell for cell in cells(path) if cell[:1] in ("=", "@", "+", "\t") or cell.startswith("-x")]
    assert not computed


def test_a_comparison_holds_no_formulas():
    assert [plain(value) for value in ("=1", -2.0, None, 3)] == ["'=1", "-2", "", 3]
