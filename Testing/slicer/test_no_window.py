"""Without Slicer's main window, as ``--no-main-window`` starts it: no layout, no views, nobody to own a dialog."""

from __future__ import annotations

import unittest

import pytest
from grounds import MODULE, failOnFaults
from hand import Hand
from made_jobs import makeRun

SECTIONS = ("environment", "volumes", "cropPreview", "pretraining", "finetuning", "prediction", "jobs")


@pytest.fixture
def opened(slicerHost):
    """Opens the module in a host with or without a main window."""
    hosts = []

    def make(mainWindow: bool = False):
        hosts.append(slicerHost(mainWindow))
        widget = hosts[-1].loadModule(MODULE)
        widget.parent.resize(560, 1400)
        widget.parent.show()
        hosts[-1].enter("VoCoSlicer")
        return hosts[-1], widget

    yield make
    for host in hosts:
        host.close()
        failOnFaults(host)


@pytest.mark.parametrize("mainWindow", [True, False])
def test_the_modules_own_test_passes_as_slicers_runner_calls_it(opened, mainWindow):
    opened(mainWindow)
    suite = unittest.TestLoader().loadTestsFromName("VoCoSlicer")
    result = unittest.TextTestRunner(verbosity=0).run(suite)
    assert result.wasSuccessful() and result.testsRun >= 2, result.errors + result.failures


def test_crops_are_previewed_and_runs_plotted_without_views(opened, tmp_path):
    import slicer

    from VoCoSlicerLib.samples import loadSample

    makeRun(tmp_path / "runs" / "one", steps=3)
    host, voco = opened()
    assert slicer.util.mainWindow() is None and slicer.app.layoutManager() is None
    hands = {name: Hand(voco.panel(name).widget, host) for name in SECTIONS}
    assert all(hand.root.isVisible() for hand in hands.values() if hand.settle() is None)
    ((volume, _),) = loadSample(slicer.mrmlScene, "VoCoTorso")
    hand, preview = hands["cropPreview"], voco.logic.preview
    hand.choose("setting.preset", "tiny")
    hand.pick("volumeSelector", volume)
    hand.check("onCheckBox")
    hand.until(lambda: preview.ready, what="the preview")
    hand.check("onCheckBox", False)
    hand = hands["jobs"]
    host.answers.give(str(tmp_path / "runs"))
    hand.click("addRunsButton")
    hand.until(lambda: hand.rows("runsTable"), what="the run")
    hand.selectRow("runsTable", 0)
    hand.check("plotButton")
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLPlotChartNode") is not None
    hand.check("plotButton", False)


def test_a_text_stays_on_the_screen_although_no_window_owns_it(opened):
    host, voco = opened()
    hand = Hand(voco.parent, host)
    voco.panel("environment").showLog()
    hand.settle()
    assert hand.readWindow()[0]
