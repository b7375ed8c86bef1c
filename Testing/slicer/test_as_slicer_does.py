"""What Slicer's own sources say that it does, and no stand-in did: how it starts, saves, loads and translates."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from grounds import MODULE
from hand import Hand


def test_views_of_a_loaded_scene_are_the_users_though_the_module_was_never_opened(host, tmp_path):
    """Saving tells nobody, so that the preview may be in the file; the module looks after that from the start."""
    import slicer

    host.loadModule(MODULE)
    type(host.app).startupCompleted.emit(host.app)
    composite = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    composite.SetAttribute("VoCo.own", "0.25 0.75")
    composite.SetForegroundOpacity(0.5)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrml"))
    host.closeScene()
    slicer.util.loadScene(str(tmp_path / "scene.mrml"))
    composite = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    assert (composite.GetForegroundOpacity(), composite.GetLabelOpacity()) == (0.25, 0.75)
    assert composite.GetAttribute("VoCo.own") is None


def test_a_scene_saved_with_its_preview_shows_it_again_over_the_users_own_layers(voco, host, tmp_path):
    import slicer

    from VoCoSlicerLib.samples import loadSample

    type(host.app).startupCompleted.emit(host.app)
    ((volume, _),) = loadSample(slicer.mrmlScene, "VoCoTorso")
    view = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    view.SetForegroundVolumeID(volume.GetID())
    view.SetForegroundOpacity(0.25)
    hand, preview = Hand(voco.panel("cropPreview").widget, host), voco.logic.preview
    hand.settle()
    hand.choose("setting.preset", "tiny")
    hand.pick("volumeSelector", volume)
    hand.check("heatCheckBox")
    hand.check("onCheckBox")
    hand.until(lambda: preview.ready, what="the preview")
    assert view.GetForegroundVolumeID() != volume.GetID()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    host.closeScene()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    hand.until(lambda: preview.ready and preview.shown, what="the preview of the loaded scene")
    view = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    assert view.GetForegroundVolumeID() == preview.nodes.cells.heat.GetID()
    hand.check("onCheckBox", False)
    own = slicer.mrmlScene.GetNodeByID(view.GetForegroundVolumeID())
    assert (own.GetName(), view.GetForegroundOpacity()) == (volume.GetName(), 0.25)


def test_the_table_of_runs_is_filled_without_translating_its_words_anew(host, monkeypatch):
    """Slicer's `tr` takes some 50 microseconds a word, and the table is filled every second with all runs."""
    host.loadModule(MODULE)
    import qt

    from VoCoSlicerLib.job_rows import JobRow
    from VoCoSlicerLib.panels import job_rows_table

    asked = []
    monkeypatch.setattr(job_rows_table, "_", lambda text: asked.append(text) or text)
    table = job_rows_table.JobRowsTable(qt.QTableWidget(), lambda: None)
    states = ("running", "finished", "lost", "none that is known")
    rows = [JobRow(Path(f"/runs/{n}"), f"{n}", "pretrain", states[n % 4], 1, 2) for n in range(40)]
    table.fill(rows)
    assert "running" in asked and len(asked) < 100
    asked.clear()
    table.fill(rows)
    assert asked == []


def test_all_settings_are_put_into_a_form_with_few_translations(host, monkeypatch):
    """Some eighty controls are made while the user waits for a section to open."""
    host.loadModule(MODULE)
    import qt

    from VoCoCore.finetune_settings import FinetuneSettings
    from VoCoSlicerLib import forms

    asked = []
    monkeypatch.setattr(forms, "_", lambda text: asked.append(text) or text)
    window = qt.QWidget()
    window.setLayout(qt.QVBoxLayout())
    names = [option.name for option in FinetuneSettings.options()]
    forms.SettingsForm(window, FinetuneSettings, {"": names}, lambda: None)
    assert len(names) < len(asked) < 4 * len(names), "each costs some 50 microseconds"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The current folder changes, and comes back."""
    monkeypatch.chdir(MODULE.parent)
    return lambda: os.chdir(tmp_path)


def test_sections_open_though_the_current_folder_changed_since_the_start(host, elsewhere):
    """``--additional-module-paths VoCoSlicer`` makes the module's path a relative one."""
    import slicer

    widget = host.loadModule(MODULE)
    slicer.modules.vocoslicer.path = MODULE.name
    elsewhere()
    assert widget.panel("prediction").widget is not None
