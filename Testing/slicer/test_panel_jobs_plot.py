"""The plot of a chosen run, by hand: what the views show and when, and the layout before and after."""

from __future__ import annotations

import os
import shutil

import pytest
from made_jobs import choose, runKnown, started, train, write

SECTION = "jobs"


def plotView(host):
    """The view's node, where the layout has a plot view."""
    found = host.scene.GetNodesByClass("vtkMRMLPlotViewNode")
    found.UnRegister(None)
    (view,) = [found.GetItemAsObject(number) for number in range(found.GetNumberOfItems())]
    return view


def titleShown(host):
    """Title and vertical axis of the chart in the plot view; None where it shows none."""
    chart = host.scene.GetNodeByID(plotView(host).GetPlotChartNodeID() or "")
    return None if chart is None else (chart.GetTitle(), chart.GetYAxisTitle())


def lastStep(voco):
    """The last step of the loss that is drawn."""
    table = voco.logic.plots.charts["loss"].GetNthPlotSeriesNode(0).GetTableNode().GetTable()
    return table.GetValue(table.GetNumberOfRows() - 1, 0).ToInt()


def test_the_plot_follows_the_chosen_run(voco, panel, hand, host, tmp_path):
    import slicer

    run = runKnown(tmp_path, "one", "running", pid=os.getpid())
    runKnown(tmp_path, "two")
    choose(hand, panel, "one")
    layout = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
    before = layout.GetViewArrangement()
    hand.check("plotButton")
    assert layout.GetViewArrangement() != before, "the layout has a plot view now"
    assert titleShown(host) == ("one", "loss")
    write(run, [train(20, 1.0), train(30, 0.5)], "a")
    panel.poll()
    line = voco.logic.plots.charts["loss"].GetNthPlotSeriesNode(0)
    assert line.GetTableNode().GetNumberOfRows() == 3
    choose(hand, panel, "two")
    assert titleShown(host) == ("two", "loss")
    hand.check("plotButton", False)
    assert voco.logic.plots.charts == {} and layout.GetViewArrangement() == before


def test_loss_or_score_is_plotted_as_chosen_here_or_in_the_view(voco, panel, hand, host, tmp_path):
    runKnown(tmp_path, "one")
    runKnown(tmp_path, "two")
    choose(hand, panel, "one")
    hand.choose("plotCombo", "Score")
    hand.check("plotButton")
    assert titleShown(host) == ("one", "held-out Dice")
    hand.choose("plotCombo", "Loss")
    assert titleShown(host) == ("one", "loss")
    plotView(host).SetPlotChartNodeID(voco.logic.plots.charts["score"].GetID())  # in the view's own menu
    panel.poll()
    assert hand.find("plotCombo").currentText == "Score"
    choose(hand, panel, "two")
    assert titleShown(host) == ("two", "held-out Dice"), "another run, and the same chart"
    plotView(host).SetPlotChartNodeID(None)
    panel.poll()
    assert titleShown(host) is None, "what a user has taken out of the view stays out"


def test_a_plot_stays_while_another_module_is_open(voco, panel, hand, host, tmp_path):
    runKnown(tmp_path, "one")
    choose(hand, panel, "one")
    hand.check("plotButton")
    host.exit("VoCoSlicer")
    assert titleShown(host) == ("one", "loss")
    host.enter("VoCoSlicer")
    assert hand.find("plotButton").isChecked() and titleShown(host) == ("one", "loss")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_slicer_does_not_keep_the_layout_of_a_plot_when_it_closes(
    voco, panel, hand, host, tmp_path, elsewhere
):
    import slicer

    runKnown(tmp_path, "one")
    choose(hand, panel, "one")
    before = slicer.app.layoutManager().layoutLogic().GetLayoutNode().GetViewArrangement()
    hand.check("plotButton")
    if elsewhere:
        host.exit("VoCoSlicer")
    host.window.close()
    assert host.window.hostKeptLayout == before and voco.logic.plots.charts == {}


def test_the_plot_comes_back_after_the_scene_is_closed(voco, panel, hand, host, tmp_path):
    runKnown(tmp_path, "one")
    choose(hand, panel, "one")
    hand.choose("plotCombo", "Score")
    hand.check("plotButton")
    host.scene.Clear(0)
    panel.poll()
    assert titleShown(host) == ("one", "held-out Dice")
    hand.check("plotButton", False)
    assert voco.logic.plots.charts == {}


def test_the_plot_of_a_run_that_is_gone_can_be_let_go(voco, panel, hand, host, tmp_path):
    run = runKnown(tmp_path, "one")
    choose(hand, panel, "one")
    hand.check("plotButton")
    shutil.rmtree(run)
    panel.poll()
    assert hand.rows("runsTable")[0][2] == "folder deleted" and titleShown(host) == ("one", "loss")
    hand.check("plotButton", False)
    assert not hand.find("plotButton").isEnabled() and voco.logic.plots.charts == {}


def test_a_run_that_is_taken_off_the_list_takes_its_plot_along(voco, panel, hand, tmp_path):
    runKnown(tmp_path, "one")
    choose(hand, panel, "one")
    hand.check("plotButton")
    hand.click("forgetButton")
    panel.poll()
    assert not hand.find("plotButton").isChecked() and voco.logic.plots.charts == {}


def test_a_long_history_is_read_piece_by_piece(voco, panel, hand, host, tmp_path):
    pad = "x" * 3000
    events = [started(), *({**train(step, 1.0), "pad": pad} for step in range(1, 6001))]
    runKnown(tmp_path, "one", events=events)
    choose(hand, panel, "one")
    hand.check("plotButton")
    panel.exit()
    panel.poll()  # from now on only the plot reads
    assert lastStep(voco) < 6000, "all at once would stop the window"
    hand.until(lambda: lastStep(voco) == 6000)


def test_a_long_history_that_was_read_before_is_drawn_piece_by_piece(voco, panel, hand, host, tmp_path):
    events = [started(), *(train(step, 1.0) for step in range(1, 40_001))]
    run = runKnown(tmp_path, "one", events=events)
    choose(hand, panel, "one")
    voco.logic.jobs.follower(run).read_all()
    hand.check("plotButton")
    assert lastStep(voco) < 40_000
    hand.until(lambda: lastStep(voco) == 40_000)
