"""Which prediction is scored against which reference: by name, and by what `voco predict` remembers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from VoCoCore.data.cases import Source
from VoCoCore.data.predicted import MEMORY
from VoCoCore.errors import DataError
from VoCoCore.evaluation.pairs import Reference, make_pairs

PAIRS = [
    (["a", "b"], ["b", "a"], {"a": "a", "b": "b"}),
    (["a_0000", "a_0001"], ["a_0001"], {"a_0001": "a_0001"}),
    (["a_0000"], ["a"], {"a_0000": "a"}),
    (["a_seg"], ["a.segmentation"], {"a_seg": "a.segmentation"}),
    (["a", "a_seg"], ["a_seg", "a_pred"], {"a_seg": "a_seg", "a": "a_pred"}),
    (["a_seg", "a_label"], ["a", "b"], None),
    (["a"], ["b"], None),
]


@pytest.mark.parametrize(("references", "predictions", "expected"), PAIRS)
def test_names_pair_what_belongs_together_and_nothing_else(references, predictions, expected):
    ours = [Reference(name, Source(f"/r/{name}.nii.gz")) for name in references]
    theirs = [Path(f"/p/{name}.nii.gz") for name in predictions]
    if expected is None:
        with pytest.raises(DataError, match="no prediction is named like a reference"):
            make_pairs(ours, theirs)
        return
    made = make_pairs(ours, theirs)
    found = {pair.case: Path(pair.prediction.path).name.removesuffix(".nii.gz") for pair in made.pairs}
    assert found == expected
    assert set(made.unpredicted) == set(references) - set(expected)
    assert len(made.unreferenced) == len(predictions) - len(expected)


def test_predictions_pair_by_the_cases_that_they_were_made_for(tmp_path):
    """Their files' names lack letters that file systems do not take, and may be those of other cases."""
    made_for = {"a 1": "a_1", "a_1": "a_1-2", "b/c": "b_c", "d e": "d_e"}
    lines = [
        {"maker": "m", "case": case, "content": "", "file": f"{made_for[case]}.nii.gz"} for case in made_for
    ]
    (tmp_path / MEMORY).write_text("".join(json.dumps(line) + "\n" for line in lines))
    predictions = [tmp_path / f"{name}.nii.gz" for name in made_for.values()]
    # Of "d e" the reference is called as the file is, as somebody may do who draws it afterwards.
    references = [
        Reference(name, Source(f"/r/{number}.nii.gz"))
        for number, name in enumerate(["a 1", "a_1", "b/c", "d_e"])
    ]
    found = {pair.case: Path(pair.prediction.path).name for pair in make_pairs(references, predictions).pairs}
    assert found == {"a 1": "a_1.nii.gz", "a_1": "a_1-2.nii.gz", "b/c": "b_c.nii.gz", "d_e": "d_e.nii.gz"}
    assert make_pairs(references[1:2], predictions).pairs[0].prediction.path.endswith("a_1-2.nii.gz")
