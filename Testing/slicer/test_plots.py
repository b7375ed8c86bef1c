"""Curves in Slicer's plot view: the right numbers, updated in place, never twice, gone when asked."""

from __future__ import annotations

import math

import numpy as np
import pytest
import slicer
from made_jobs import makeRun, started, train, val, write
from vtk.util.numpy_support import vtk_to_numpy

from VoCoCore.runs.follow import Follower
from VoCoSlicerLib.plots import MOST, ROLE, RunPlots


@pytest.fixture
def scene():
    return slicer.vtkMRMLScene()


def nodes(scene, kind):
    found = scene.GetNodesByClass(f"vtkMRML{kind}Node")
    found.UnRegister(None)
    return [found.GetItemAsObject(number) for number in range(found.GetNumberOfItems())]


def ours(scene):
    return sorted(
        node.GetAttribute(ROLE)
        for kind in ("Table", "PlotSeries", "PlotChart")
        for node in nodes(scene, kind)
    )


def seriesOf(scene, role):
    (found,) = [node for node in nodes(scene, "PlotSeries") if node.GetAttribute(ROLE) == f"series {role}"]
    return found


def curve(scene, role):
    """Steps and values as the plot view reads them: by the series' own table and columns."""
    series = seriesOf(scene, role)
    table = series.GetTableNode().GetTable()
    columns = series.GetXColumnName(), series.GetYColumnName()
    return [vtk_to_numpy(table.GetColumnByName(name)).tolist() for name in columns]


def followed(run):
    follower = Follower(run)
    follower.read_all()
    return follower


ROLES = ["chart", "series train", "series val", "table train", "table val"]


def test_curves_are_those_of_the_run(tmp_path, scene):
    events = [
        started(),
        *(train(step, 3.0 / step) for step in range(1, 31)),
        val(10, dice=0.5),
        val(20, dice=0.75),
    ]
    plots = RunPlots(scene)
    assert plots.chart is None and plots.show() is None
    assert plots.update(followed(makeRun(tmp_path / "one", events=events)))
    assert curve(scene, "train") == [list(range(1, 31)), [3.0 / step for step in range(1, 31)]]
    assert curve(scene, "val") == [[10, 20], [0.5, 0.75]]
    assert seriesOf(scene, "val").GetName() == "held-out Dice" and plots.chart.GetTitle() == "one"
    chart = plots.chart
    assert [chart.GetNthPlotSeriesNode(n) for n in range(2)] == [seriesOf(scene, r) for r in ("train", "val")]
    assert ours(scene) == ROLES


def test_new_points_come_in_place_and_nothing_is_made_twice(tmp_path, scene):
    run = makeRun(
        tmp_path / "one", "running", events=[started(), train(1, 2.0), val(1, position_accuracy=0.1)]
    )
    follower, plots = followed(run), RunPlots(scene)
    plots.update(follower)
    before = [node.GetID() for kind in ("Table", "PlotSeries", "PlotChart") for node in nodes(scene, kind)]
    assert not plots.update(follower), "nothing new"
    for step in range(2, 40):
        write(run, [train(step, 1.0), val(step, position_accuracy=0.2)], "a")
        follower.poll()
        assert plots.update(follower)
    assert [
        node.GetID() for kind in ("Table", "PlotSeries", "PlotChart") for node in nodes(scene, kind)
    ] == before
    assert curve(scene, "train")[0] == list(range(1, 40)) == curve(scene, "val")[0]
    assert plots.chart.GetNumberOfPlotSeriesNodes() == 2


def test_points_beyond_a_checkpoint_vanish_when_a_run_goes_back(tmp_path, scene):
    run = makeRun(
        tmp_path / "one", "running", events=[started(), *(train(step, step) for step in (10, 20, 30))]
    )
    follower, plots = followed(run), RunPlots(scene)
    plots.update(follower)
    write(run, [started(20, 2), train(25, 99.0)], "a")
    follower.read_all()
    plots.update(follower)
    assert curve(scene, "train") == [[10, 20, 25], [10, 20, 99]]


def test_the_same_number_of_points_after_going_back_is_seen_as_a_change(tmp_path, scene):
    run = makeRun(tmp_path / "one", "running", events=[started(), train(10, 1.0), train(20, 2.0)])
    follower, plots = followed(run), RunPlots(scene)
    plots.update(follower)
    write(run, [started(10, 2), train(20, 5.0)], "a")
    follower.read_all()
    assert plots.update(follower) and curve(scene, "train") == [[10, 20], [1, 5]]


def test_another_run_takes_the_place_of_the_first(tmp_path, scene):
    plots = RunPlots(scene)
    plots.update(followed(makeRun(tmp_path / "one", events=[train(1, 1.0), val(1, dice=0.5)])))
    plots.update(followed(makeRun(tmp_path / "two", events=[train(2, 7.0), val(3, position_accuracy=0.25)])))
    assert plots.chart.GetTitle() == "two" and ours(scene) == ROLES
    assert curve(scene, "train") == [[2], [7]] and curve(scene, "val") == [[3], [0.25]]
    assert seriesOf(scene, "val").GetName() == "held-out position accuracy"
    plots.update(followed(makeRun(tmp_path / "empty")))
    assert curve(scene, "train") == [[], []]


def test_numbers_that_cannot_be_drawn_are_left_out(tmp_path, scene):
    events = [
        train(1, 2.0),
        train(2, "nan"),
        train(3, "inf"),
        train(4, "rubbish"),
        train(5, None),
        train(6, 1.0),
    ]
    RunPlots(scene).update(followed(makeRun(tmp_path / "one", events=events)))
    assert curve(scene, "train") == [[1, 6], [2, 1]]


def test_a_long_curve_is_thinned_with_its_ends_kept(tmp_path, scene):
    events = [train(step, math.sin(step)) for step in range(3 * MOST)]
    RunPlots(scene).update(followed(makeRun(tmp_path / "one", events=events)))
    steps, values = curve(scene, "train")
    assert len(steps) == MOST and (steps[0], steps[-1]) == (0, 3 * MOST - 1)
    assert np.allclose(values, np.sin(steps)) and (np.diff(steps) > 0).all()


def test_the_chart_goes_into_plot_views_and_the_layout_gets_one(tmp_path, scene):
    plots = RunPlots(scene)
    plots.update(followed(makeRun(tmp_path / "one", events=[train(1, 1.0)])))
    layouts = slicer.vtkMRMLLayoutNode
    layout = scene.AddNewNodeByClass("vtkMRMLLayoutNode")
    selection = scene.AddNewNodeByClass("vtkMRMLSelectionNode")
    for known in (layouts.SlicerLayoutConventionalView, layouts.SlicerLayoutConventionalPlotView):
        layout.AddLayoutDescription(known, "<layout/>")
    layout.SetViewArrangement(layouts.SlicerLayoutConventionalView)
    assert plots.show() is plots.chart
    assert layout.GetViewArrangement() == layouts.SlicerLayoutConventionalView, "without being asked it stays"
    assert plots.show(layout) is plots.chart
    assert layout.GetViewArrangement() == layouts.SlicerLayoutConventionalPlotView
    assert selection.GetActivePlotChartID() == plots.chart.GetID()
    view = scene.AddNewNodeByClass("vtkMRMLPlotViewNode")
    view.SetMappedInLayout(1)
    plots.cleanup()
    assert layout.GetViewArrangement() == layouts.SlicerLayoutConventionalView, "as it was before the plot"
    plots.update(followed(makeRun(tmp_path / "two", events=[train(1, 1.0)])))
    plots.show(layout)
    assert view.GetPlotChartNodeID() == plots.chart.GetID()
    assert layout.GetViewArrangement() == layouts.SlicerLayoutConventionalView, "a plot view is there already"
    view.SetMappedInLayout(0)
    plots.show(layout)
    layout.SetViewArrangement(layouts.SlicerLayoutFourUpView)
    plots.cleanup()
    assert layout.GetViewArrangement() == layouts.SlicerLayoutFourUpView, "the user's later choice stays"


def test_another_chart_comes_back_where_ours_was_shown(tmp_path, scene):
    one, two = (scene.AddNewNodeByClass("vtkMRMLPlotViewNode") for _ in range(2))
    mine = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", "mine")
    other = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", "other")
    one.SetPlotChartNodeID(mine.GetID())
    plots = RunPlots(scene)
    plots.update(followed(makeRun(tmp_path / "one", events=[train(1, 1.0)])))
    plots.show()
    plots.show()
    assert one.GetPlotChartNodeID() == two.GetPlotChartNodeID() == plots.chart.GetID()
    two.SetPlotChartNodeID(other.GetID())
    plots.cleanup()
    assert (one.GetPlotChartNodeID(), two.GetPlotChartNodeID()) == (mine.GetID(), other.GetID())


def test_nothing_is_left_behind_and_nothing_is_saved(tmp_path, scene):
    view = scene.AddNewNodeByClass("vtkMRMLPlotViewNode")
    own = scene.AddNewNodeByClass("vtkMRMLTableNode")
    before = scene.GetNumberOfNodes()
    plots = RunPlots(scene)
    plots.update(followed(makeRun(tmp_path / "one", events=[train(1, 1.0)])))
    plots.show()
    made = [
        node
        for kind in ("Table", "PlotSeries", "PlotChart")
        for node in nodes(scene, kind)
        if node is not own
    ]
    assert len(made) == 5 and not any(node.GetSaveWithScene() for node in made)
    assert [node.GetHideFromEditors() for node in made if not node.IsA("vtkMRMLPlotChartNode")] == [1] * 4
    plots.cleanup()
    assert scene.GetNumberOfNodes() == before and view.GetPlotChartNodeID() is None


def test_closing_the_scene_is_no_harm_and_two_instances_share_the_nodes(tmp_path, scene):
    follower = followed(makeRun(tmp_path / "one", events=[train(1, 1.0)]))
    plots, other = RunPlots(scene), RunPlots(scene)
    plots.update(follower)
    other.update(follower)
    assert ours(scene) == ROLES
    scene.Clear(0)
    assert plots.chart is None and plots.show() is None
    assert plots.update(follower) and ours(scene) == ROLES
    other.cleanup()
    plots.cleanup()
    assert ours(scene) == []
