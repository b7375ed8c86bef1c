"""Results that cannot be loaded end with a line, and never leave a timer that throws."""

from __future__ import annotations

import pytest
import slicer
from made_scene import noise, volume
from test_results import exportOf, predicted

from VoCoCore.errors import DataError
from VoCoSlicerLib.results_load import PredictionLoad, loadPredictions


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case,predicted,sick\na,sick,much\n", "damaged: could not convert"),
        ("case,predicted,sick\na,sick\n", "no column 'sick'"),
        ("case,sick\na,0.5\n", "no column 'predicted'"),
        ("case,predicted,sick\na,sick,0.5,0.5\n", "damaged"),
    ],
)
def test_a_table_that_is_none_ends_the_loading_with_a_line(scene, tmp_path, text, said):
    (tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        loadPredictions(scene, tmp_path, {"a": volume(scene, noise()).GetID()})


def test_what_nobody_foresaw_ends_the_loading(scene, tmp_path, monkeypatch):
    (tmp_path / "predictions.csv").write_text("case,predicted,sick\na,sick,0.5\n")
    monkeypatch.setattr("VoCoSlicerLib.results_load.classTable", lambda *words: {}["seven"])
    load = PredictionLoad(scene, tmp_path, {})
    load.start()
    now = load.poll()
    assert now.finished and "adding the results failed: KeyError" in str(now.error)


def test_a_result_never_goes_to_a_volume_that_has_the_id_of_its_own_now(scene, tmp_path):
    """The scene is closed while results come in, and another patient is loaded."""
    node = volume(scene, noise(), "first")
    index, byId = exportOf(scene, [node], tmp_path / "in")
    load = PredictionLoad(scene, predicted(tmp_path / "out", index), byId)
    load.start()
    scene.Clear(0)
    other = volume(scene, noise(), "second")
    assert other.GetID() == next(iter(byId.values()))[0]
    while not load.poll().finished:
        pass
    (why,) = load.failed.values()
    assert "no longer in the scene" in why
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode", scene) and not load.tables
