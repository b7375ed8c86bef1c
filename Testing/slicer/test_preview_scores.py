"""A real run of two steps is asked what it says of a crop; torch stays out of this process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slicer
from made_jobs import SMALL, makeCohort, makeRun
from preview_scene import sceneWithViews, torso

from VoCoCore.errors import DataError, EnvironmentFault, SettingsError, VocoError
from VoCoSlicerLib.environment import Environment
from VoCoSlicerLib.preview import CropPreview
from VoCoSlicerLib.preview_scores import CropScores, runSettings
from VoCoSlicerLib.tasks import Task

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A pre-training of two steps."""
    folder = tmp_path_factory.mktemp("asked")
    config = folder / "config.json"
    small = {**SMALL, "optim.steps": 2, "run.validate_every": 2, "run.checkpoint_every": 2}
    config.write_text(json.dumps(small))
    words = ["--config", config, "--data", makeCohort(folder / "cohort"), "--run", folder / "run"]
    store = ["--data.store", folder / "store", "--device", "cpu"]
    subprocess.run([sys.executable, "-m", "VoCoCore", "pretrain", *words, *store], check=True, cwd=ROOT)
    return folder / "run"


@pytest.fixture
def preview():
    scene = sceneWithViews()
    made = CropPreview(scene)
    made.setVolume(torso(scene))
    yield made
    made.cleanup()


def asked(scores, preview, run):
    scores.start(run)
    until = time.monotonic() + 120
    while scores.poll(preview):
        assert time.monotonic() < until
        time.sleep(0.02)
    return scores


def test_a_run_says_where_a_crop_lies(run, preview, noTorch):
    preview.setSettings(runSettings(run))
    preview.show()
    preview.wait(60)
    scores = CropScores(Environment({}))
    base = preview.world.grid.boxes()[2]
    preview.moveCrop(base.start)  # exactly the third base crop: the network must see the very same
    asked(scores, preview, run)
    assert scores.error is None and scores.step == 2
    similar = preview.scores["similarity"]
    assert similar.shape == (4,) and np.argmax(similar) == 2
    assert similar[2] == pytest.approx(1, abs=1e-5) and np.all(np.delete(similar, 2) < 1 - 1e-6)
    # Recipe "paper": the task's own logits are the plain cosines.
    assert np.allclose(preview.scores["predicted"], similar, atol=1e-5)
    preview.moveCrop((0.0, 5.0, 0.0))
    assert not preview.scores
    assert sys.modules.get("torch") is None


def test_what_can_go_wrong_is_said(run, preview, tmp_path):
    preview.setSettings(runSettings(run))
    preview.show()
    preview.wait(60)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "settings.json").write_text((run / "settings.json").read_text())
    (empty / "status.json").write_text((run / "status.json").read_text())
    scores = asked(CropScores(Environment({})), preview, empty)
    assert (
        isinstance(scores.error, DataError) and "no checkpoint" in scores.error.message and scores.error.hint
    )
    with pytest.raises(SettingsError):
        runSettings(tmp_path / "nowhere")
    other = makeRun(tmp_path / "other")
    (other / "settings.json").write_text(json.dumps({"task": "segmentation", "protocol": "auto"}))
    with pytest.raises(SettingsError, match="no pre-training"):
        runSettings(other)


class Answers:
    """An environment whose Python prints what it is told to, and ends with ``code``."""

    def __init__(self, text, code=0):
        self._code = (
            f"import sys; print({text!r}, file=sys.stderr if {code} else sys.stdout); sys.exit({code})"
        )

    def script(self, *_):
        return Task(["-c", self._code], sys.executable, plain=True)


def waiting(preview):
    """A question about the crop of a preview, whose answer has not been read yet."""
    preview.show()
    preview.wait(60)
    answer = {"step": 7, "predicted": [0.5] * 16, "similarity": [0.25] * 16}
    scores = CropScores(Answers(json.dumps(answer)))
    scores.start("run")
    while scores._task is None:
        scores.poll(preview)
    return scores


def test_an_answer_to_a_crop_that_has_moved_is_nobodys(preview):
    scores = waiting(preview)
    preview.moveCrop((3.0, 3.0, 0.0))
    while scores.poll(preview):
        time.sleep(0.02)
    assert not preview.scores and scores.error is None and scores.step is None
    asked(scores, preview, "run")
    assert scores.step == 7 and np.allclose(preview.scores["predicted"], 0.5)


@pytest.mark.parametrize("change", ["volume", "voxels"])
def test_an_answer_of_another_volume_is_nobodys(preview, change):
    """Two volumes of one size, or one with a filter over it, may have the very same crop."""
    scores = waiting(preview)
    box, scene = preview.box, preview.volume.GetScene()
    if change == "volume":
        preview.setVolume(torso(scene, name="another"))
    else:
        slicer.util.arrayFromVolume(preview.volume)[8:12] += 100
        slicer.util.arrayFromVolumeModified(preview.volume)
    preview.wait(60)
    preview.moveCrop(box.start)
    assert preview.box == box
    while scores.poll(preview):
        time.sleep(0.02)
    assert not preview.scores and scores.error is None and scores.step is None


def test_a_question_ends_with_the_preview(preview):
    preview.show()
    preview.wait(60)
    answer = {"step": 7, "predicted": [0.5] * 16, "similarity": [0.25] * 16}
    scores = asked(CropScores(Answers(json.dumps(answer))), preview, "run")
    assert scores.step == 7
    scores.start("run")
    preview.hide()  # before the region of the crop is there
    assert not scores.poll(preview) and not scores.running
    assert scores.step is None and scores.error is None
    preview.show()
    preview.wait(60)
    scores.start("run")
    while scores._task is None:
        scores.poll(preview)
    preview.hide()
    assert not scores.poll(preview) and scores.step is None


@pytest.mark.parametrize(
    ("text", "code", "kind", "words"),
    [
        ("voco: error: no room left  (free some)", 4, EnvironmentFault, "no room left"),
        ("not JSON", 0, VocoError, "cannot be read"),
        ('{"step": 1, "predicted": "x", "similarity": []}', 0, VocoError, "cannot be read"),
    ],
)
def test_a_bad_answer_is_an_error(preview, text, code, kind, words):
    preview.show()
    preview.wait(60)
    scores = asked(CropScores(Answers(text, code)), preview, "run")
    assert isinstance(scores.error, kind) and words in scores.error.message
    assert not preview.scores and not scores.running
