"""The scripts of the guide do what it says: the calls exist, take these words, and hand on the exit code."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import slicer

from VoCoCore.finetune_settings import FinetuneSettings
from VoCoSlicerLib import samples
from VoCoSlicerLib.logic import VoCoLogic
from VoCoSlicerLib.logic_predict import PredictJob
from VoCoSlicerLib.logic_settings import resolve

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "slicer.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


# What is written in italics and stands in Slicer or in the sample data, not in a control of ours.
ELSEWHERE = {
    "VoCo",
    "PyTorch",
    "Machine Learning",
    "Install",
    "Sample Data",
    "Tables",
    *samples.SAMPLES,
    samples.PUBLIC,
}


class Rehearsal(VoCoLogic):
    """The module's logic up to the point where a process would start."""

    started: ClassVar[list[tuple]] = []
    ends: ClassVar[dict[str, int]] = {}

    def startJob(self, kind, run, values, **options):
        resolve(kind, values)
        drawn = [case.segmentationId for case in options["cases"]]
        self.started.append((kind, str(run), values, len(drawn), all(drawn)))
        return SimpleNamespace(wait=lambda tell: run, folds=None)

    def waitFor(self, run, progress=None):
        return self.ends.get(str(run), 0)

    def predict(self, model, volumes, **options):
        options.pop("wait", None)
        inspect.signature(PredictJob).bind(self, model, volumes, options.pop("output", ""), **options)
        self.started.append(("predict", str(model), {}, len(volumes), True))
        node = self.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "VoCoTorso1 organs")
        return SimpleNamespace(segmentations=[node], exitCode=0)


@pytest.fixture
def saved(scene, monkeypatch):
    """The files that a script saves, by their whole paths; its logic is rehearsed on the test's scene."""
    names = []

    def save(node, name):
        assert Path(name).is_absolute(), "Slicer begins others in the user's documents"
        names.append(Path(name))
        return "full" not in name

    monkeypatch.setattr(Rehearsal, "started", [])
    monkeypatch.setattr(Rehearsal, "ends", {})
    monkeypatch.setitem(sys.modules, "VoCoSlicer", SimpleNamespace(VoCoSlicerLogic=Rehearsal))
    monkeypatch.setattr(slicer.util, "saveNode", save, raising=False)
    return names


def play(script: str) -> int:
    """Run a script as Slicer would; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        exec(compile(script, "slicer.md", "exec"), {"__name__": "__main__"})
    return ended.value.code


def test_the_whole_way(saved):
    assert play(SCRIPTS[0]) == 0
    (first, second, third), organs = Rehearsal.started, "runs/organs"
    assert (first[0], first[1], first[3]) == ("pretrain", "runs/first", 6)
    assert (second[0], second[1], second[3:]) == ("finetune", organs, (6, True))
    assert second[2]["init"] == "runs/first"
    assert third[:2] == ("predict", organs) and saved == [Path("VoCoTorso1 organs.seg.nrrd").absolute()]


def test_a_job_that_fails_ends_the_script_with_its_code(saved):
    Rehearsal.ends["runs/first"] = 3
    assert play(SCRIPTS[0]) == 3
    assert [kind for kind, *_ in Rehearsal.started] == ["pretrain"] and not saved


def test_a_result_that_cannot_be_saved_is_not_taken_for_done(saved, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    monkeypatch.chdir(tmp_path / "full")
    assert play(SCRIPTS[0]) == 4 and len(saved) == 1


def test_an_error_of_the_script_ends_it_too(saved, monkeypatch, capsys):
    monkeypatch.setattr(Rehearsal, "finetune", lambda *_, **__: 1 / 0)
    assert play(SCRIPTS[0]) == 1 and "ZeroDivisionError" in capsys.readouterr().err


def test_start_and_leave(saved):
    volumes = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")]
    exec(compile(SCRIPTS[1], "slicer.md", "exec"), {"logic": Rehearsal(), "volumes": volumes})
    assert [(kind, run) for kind, run, *_ in Rehearsal.started] == [("pretrain", "runs/long")]


def test_the_controls_that_the_guide_names_exist(host):
    """Words in italics that begin with a capital are on a control, word for word."""
    from VoCoSlicerLib.forms import labelOf

    named = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", GUIDE)) - ELSEWHERE
    named = {" ".join(name.split()) for name in named if " > " not in " ".join(name.split())}
    module = ROOT / "VoCoSlicer"
    files = [*module.rglob("*.ui"), *module.rglob("*.py")]
    texts = "\n".join(file.read_text(encoding="utf-8") for file in files)
    shown = set(re.findall(r'<string[^>]*>([^<]+)</string>|_\("([^"]+)"\)', texts))
    there = {text for texts in shown for text in texts if text}
    there |= {labelOf(option) for option in FinetuneSettings().options()}  # forms make these themselves
    assert len(named) > 20 and not named - there, sorted(named - there)


def test_the_methods_that_the_guide_names_exist():
    named = set(re.findall(r"`logic\.(\w+)\(", GUIDE))
    assert named and all(inspect.getdoc(getattr(VoCoLogic, name)) for name in named)
