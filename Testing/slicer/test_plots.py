"""Curves in Slicer's plot view: the right numbers, updated in place, never twice, gone when asked."""

from __future__ import annotations

import math

import numpy as np
import pytest
import slicer
from host.plot_view import HostPlotView
from made_jobs import makeRun, started, train, val, write
from vtk.util.numpy_support import vtk_to_numpy

from VoCoCore.runs.follow import Follower
from VoCoSlicerLib.plots import FEW, ROLE, RunPlots
from VoCoSlicerLib.run_curves import MOST, RunCurves

KINDS = ("Table", "PlotSeries", "PlotChart")
EVENTS = [
    started(),
    *(train(step, 3.0 / step) for step in range(1, 31)),
    val(10, dice=0.5),
    val(20, dice=0.75),
]


@pytest.fixture
def scene():
    return slicer.vtkMRMLScene()


def nodes(scene, kind):
    found = scene.GetNodesByClass(f"vtkMRML{kind}Node")
    found.UnRegister(None)
    return [found.GetItemAsObject(number) for number in range(found.GetNumberOfItems())]


def ours(scene):
    return sorted(
        role for kind in KINDS for node in nodes(scene, kind) if (role := node.GetAttribute(ROLE)) is not None
    )


def lines(plots, name):
    """The series of one of the charts."""
    chart = plots.charts[name]
    return [chart.GetNthPlotSeriesNode(number) for number in range(chart.GetNumberOfPlotSeriesNodes())]


def names(plots, name):
    return [line.GetName() for line in lines(plots, name)]


def points(line):
    """Steps and values as the plot view reads them: by the series' own table and columns."""
    table = line.GetTableNode().GetTable()
    columns = line.GetXColumnName(), line.GetYColumnName()
    return [vtk_to_numpy(table.GetColumnByName(name)).tolist() for name in columns]


def curve(plots, name, number=0):
    return points(lines(plots, name)[number])


def followed(run):
    follower = Follower(run)
    follower.read_all()
    return follower


def plotted(scene, run):
    plots = RunPlots(scene)
    plots.update(followed(run))
    return plots


def test_loss_and_score_have_a_chart_each(tmp_path, scene):
    plots = RunPlots(scene)
    assert plots.charts == {} and plots.shown == [] and plots.show() is None
    assert plots.update(followed(makeRun(tmp_path / "one", events=EVENTS)))
    assert names(plots, "loss") == ["training loss"] and names(plots, "score") == ["held-out Dice"]
    assert curve(plots, "loss") == [list(range(1, 31)), [3.0 / step for step in range(1, 31)]]
    assert curve(plots, "score") == [[10, 20], [0.5, 0.75]]
    loss, score = plots.charts["loss"], plots.charts["score"]
    assert [chart.GetName() for chart in (loss, score)] == ["VoCo loss: one", "VoCo score: one"]
    assert (loss.GetTitle(), loss.GetYAxisTitle()) == ("one", "loss")
    assert (score.GetTitle(), score.GetYAxisTitle()) == ("one", "held-out Dice")


def test_a_score_is_seen_on_its_whole_scale_and_no_legend_hides_it(tmp_path, scene):
    plots = plotted(scene, makeRun(tmp_path / "one", events=EVENTS))
    score, loss = plots.charts["score"], plots.charts["loss"]
    assert not score.GetYAxisRangeAuto() and score.GetYAxisRange() == (0, 1)
    assert loss.GetLegendVisibility() and not score.GetLegendVisibility()


def test_a_pre_training_has_held_out_loss_and_chance_too(tmp_path, scene):
    scores = [val(step, position_accuracy=0.1 * step, loss=2.0 / step, chance=0.25) for step in (1, 2)]
    plots = plotted(scene, makeRun(tmp_path / "one", events=[started(), train(1, 3.0), *scores]))
    assert names(plots, "loss") == ["training loss", "held-out loss"]
    assert curve(plots, "loss", 1) == [[1, 2], [2.0, 1.0]]
    assert names(plots, "score") == ["held-out position accuracy", "chance"]
    assert curve(plots, "score", 1) == [[1, 2], [0.25, 0.25]]
    assert plots.charts["score"].GetTitle() == "one (dashed: chance)"
    chance = lines(plots, "score")[1]
    assert chance.GetLineStyle() == chance.LineStyleDash


def test_a_run_that_has_said_nothing_yet_has_charts_that_say_so(tmp_path, scene):
    run = makeRun(tmp_path / "one", "running", events=[started()])
    follower, plots = followed(run), RunPlots(scene)
    assert plots.update(follower)
    assert [chart.GetTitle() for chart in plots.charts.values()] == ["one: no loss yet", "one: no score yet"]
    for name in ("loss", "score"):
        assert np.isnan(curve(plots, name)[1]).all(), "a plot view without a series shows no title"
    assert not plots.charts["loss"].GetLegendVisibility()
    write(run, [train(1, 2.0), val(1, dice=0.5)], "a")
    follower.poll()
    plots.update(follower)
    assert [chart.GetTitle() for chart in plots.charts.values()] == ["one", "one"]
    assert names(plots, "loss") == ["training loss"] and names(plots, "score") == ["held-out Dice"]
    assert plots.charts["loss"].GetLegendVisibility()


def test_points_are_marked_where_a_line_would_not_show_them(tmp_path, scene):
    run = makeRun(tmp_path / "one", "running", events=[started(), train(1, 2.0), val(1, dice=0.5)])
    follower, plots = followed(run), RunPlots(scene)
    plots.update(follower)

    def marked():
        found = lines(plots, "loss") + lines(plots, "score")
        return [line.GetMarkerStyle() != line.MarkerStyleNone for line in found]

    assert marked() == [True, True]
    assert curve(plots, "loss") == [[1, 1], [2, 2]], "VTK complains of a line through one point"
    write(
        run, [event for step in range(2, FEW + 1) for event in (train(step, 1.0), val(step, dice=0.5))], "a"
    )
    follower.read_all()
    plots.update(follower)
    assert marked() == [False, True]
    write(run, [val(FEW + 1, dice=0.5)], "a")
    follower.read_all()
    plots.update(follower)
    assert marked() == [False, False]


def test_new_points_come_in_place_and_nothing_is_made_twice(tmp_path, scene):
    run = makeRun(
        tmp_path / "one",
        "running",
        events=[started(), train(1, 2.0), val(1, position_accuracy=0.1), val(2, position_accuracy=0.1)],
    )
    follower, plots = followed(run), RunPlots(scene)
    plots.update(follower)
    before = [node.GetID() for kind in KINDS for node in nodes(scene, kind)]
    assert not plots.update(follower), "nothing new"
    for step in range(3, 40):
        write(run, [train(step, 1.0), val(step, position_accuracy=0.2)], "a")
        follower.poll()
        assert plots.update(follower)
    assert [node.GetID() for kind in KINDS for node in nodes(scene, kind)] == before
    assert curve(plots, "loss")[0] == [1, *range(3, 40)]
    assert curve(plots, "score")[0] == list(range(1, 40))


def test_points_beyond_a_checkpoint_vanish_when_a_run_goes_back(tmp_path, scene):
    run = makeRun(
        tmp_path / "one", "running", events=[started(), *(train(step, step) for step in (10, 20, 30))]
    )
    follower, plots = followed(run), RunPlots(scene)
    plots.update(follower)
    write(run, [started(20, 2), train(25, 99.0)], "a")
    follower.read_all()
    plots.update(follower)
    assert curve(plots, "loss") == [[10, 20, 25], [10, 20, 99]]


def test_the_same_number_of_points_after_going_back_is_seen_as_a_change(tmp_path, scene):
    run = makeRun(tmp_path / "one", "running", events=[started(), train(10, 1.0), train(20, 2.0)])
    follower, plots = followed(run), RunPlots(scene)
    plots.update(follower)
    write(run, [started(10, 2), train(20, 5.0)], "a")
    follower.read_all()
    assert plots.update(follower) and curve(plots, "loss") == [[10, 20], [1, 5]]


def test_other_runs_take_the_place_of_the_first(tmp_path, scene):
    plots = RunPlots(scene)
    plots.update(followed(makeRun(tmp_path / "one", events=EVENTS)))
    plots.charts["score"].SetYAxisRange(0.4, 0.6)  # zoomed in the view
    events = [train(2, 7.0), train(4, 5.0), val(3, position_accuracy=0.25, loss=6.0)]
    plots.update(followed(makeRun(tmp_path / "two", events=events)))
    assert plots.charts["loss"].GetTitle() == "two" and ours(scene).count("chart loss") == 1
    assert curve(plots, "loss") == [[2, 4], [7, 5]] and names(plots, "loss")[1] == "held-out loss"
    assert names(plots, "score") == ["held-out position accuracy"]
    assert plots.charts["score"].GetYAxisRange() == (0, 1)
    plots.update(followed(makeRun(tmp_path / "three", events=EVENTS)))
    assert names(plots, "loss") == ["training loss"] and names(plots, "score") == ["held-out Dice"]
    assert curve(plots, "score") == [[10, 20], [0.5, 0.75]]


def test_plot_views_show_the_points_that_have_come(tmp_path, scene):
    run = makeRun(tmp_path / "one", "running", events=[train(1, 0.9), val(1, dice=0.1)])
    follower, plots = followed(run), RunPlots(scene)
    plots.update(follower)
    views = {name: HostPlotView(chart) for name, chart in plots.charts.items()}
    for step, loss in ((10, 4.5), (70, -2.0), (4000, 0.1)):
        write(run, [train(step, loss), val(step, dice=0.5)], "a")
        follower.poll()
        plots.update(follower)
        for name, view in views.items():
            (left, right), (bottom, top) = view.ranges
            assert left <= 1 and step < right < 1.1 * step
            values = [value for line in lines(plots, name) for value in points(line)[1]]
            assert bottom <= min(values) and max(values) <= top
    assert views["score"].ranges[1] == (0, 1)
    for view in views.values():
        view.close()


@pytest.mark.parametrize("loss", [0.0, 0.5, -3.0])
def test_one_point_lies_within_its_axes(tmp_path, scene, loss):
    chart = plotted(scene, makeRun(tmp_path / "one", events=[train(8, loss)])).charts["loss"]
    (left, right), (bottom, top) = chart.GetXAxisRange(), chart.GetYAxisRange()
    assert left < 8 < right and bottom <= loss < top


def test_a_chart_that_was_fitted_by_hand_goes_on_to_show_all(tmp_path, scene):
    run = makeRun(tmp_path / "one", "running", events=EVENTS)
    follower, plots = followed(run), RunPlots(scene)
    plots.update(follower)
    chart = plots.charts["loss"]
    chart.SetXAxisRange(0, 40)  # what the view's key R leaves
    chart.SetYAxisRange(-1, 4)
    write(run, [train(500, 9.0)], "a")
    follower.poll()
    plots.update(follower)
    assert chart.GetXAxisRange()[1] > 500 and chart.GetYAxisRange()[1] > 9


def test_a_range_that_a_user_has_zoomed_to_stays_while_points_come(tmp_path, scene):
    run = makeRun(tmp_path / "one", "running", events=EVENTS)
    follower, plots = followed(run), RunPlots(scene)
    plots.update(follower)
    plots.charts["score"].SetYAxisRange(0.4, 0.8)
    write(run, [val(30, dice=0.7)], "a")
    follower.poll()
    assert plots.update(follower) and plots.charts["score"].GetYAxisRange() == (0.4, 0.8)


def test_numbers_that_cannot_be_drawn_leave_a_gap(tmp_path, scene):
    values = [2.0, "nan", "inf", "rubbish", None, 1.0]
    events = [train(step, value) for step, value in enumerate(values, 1)]
    steps, drawn = curve(plotted(scene, makeRun(tmp_path / "one", events=events)), "loss")
    assert steps == [1, 2, 3, 4, 5, 6]
    assert drawn[0] == 2 and drawn[5] == 1 and all(math.isnan(value) for value in drawn[1:5])


def test_a_long_curve_is_thinned_with_its_ends_and_spikes_kept(tmp_path, scene):
    count = 5 * MOST
    events = [train(step, 99.0 if step == 4321 else math.sin(step)) for step in range(count)]
    steps, values = curve(plotted(scene, makeRun(tmp_path / "one", events=events)), "loss")
    assert MOST / 4 < len(steps) <= MOST and (steps[0], steps[-1]) == (0, count - 1)
    assert (np.diff(steps) > 0).all() and values[steps.index(4321)] == 99
    others = [(step, value) for step, value in zip(steps, values, strict=True) if step != 4321]
    assert all(value == math.sin(step) for step, value in others)


def test_values_that_are_no_numbers_take_no_others_out_of_a_long_curve(tmp_path, scene):
    count = 5 * MOST
    values = [
        math.nan if step % 5 == 0 else 99.0 if step == 4321 else math.sin(step) for step in range(count)
    ]
    events = [train(step, value) for step, value in enumerate(values)]
    _, drawn = curve(plotted(scene, makeRun(tmp_path / "one", events=events)), "loss")
    finite = [value for value in drawn if not math.isnan(value)]
    assert len(finite) > MOST / 4 and 99.0 in finite


def test_a_growing_curve_stays_as_it_is_drawn(tmp_path):
    run = makeRun(
        tmp_path / "one", "running", events=[train(step, math.sin(step)) for step in range(3 * MOST)]
    )
    follower = followed(run)
    curves = RunCurves(follower)
    curves.update()
    before = curves.drawn("train", "loss")[0]
    write(run, [train(3 * MOST, 0.5)], "a")
    follower.poll()
    assert curves.update() and not curves.update()
    after = curves.drawn("train", "loss")[0]
    assert after[-1] == 3 * MOST and set(before[:-1]) <= set(after)


def test_a_history_that_was_polled_already_is_drawn_piece_by_piece(tmp_path, scene):
    run = makeRun(tmp_path / "one", events=[train(step, 1.0) for step in range(1, 20 * MOST + 1)])
    follower, plots, ends = followed(run), RunPlots(scene), []
    while not ends or plots.behind:
        assert plots.update(follower)
        ends.append(curve(plots, "loss")[0][-1])
    assert len(ends) > 2 and ends == sorted(ends) and ends[-1] == 20 * MOST
    assert not plots.update(follower)


def test_the_chart_goes_into_plot_views_and_the_layout_gets_one(tmp_path, scene):
    plots = plotted(scene, makeRun(tmp_path / "one", events=[train(1, 1.0)]))
    layouts = slicer.vtkMRMLLayoutNode
    layout = scene.AddNewNodeByClass("vtkMRMLLayoutNode")
    selection = scene.AddNewNodeByClass("vtkMRMLSelectionNode")
    for known in (layouts.SlicerLayoutConventionalView, layouts.SlicerLayoutConventionalPlotView):
        layout.AddLayoutDescription(known, "<layout/>")
    layout.SetViewArrangement(layouts.SlicerLayoutConventionalView)
    loss, score = plots.charts["loss"], plots.charts["score"]
    assert plots.show() is loss
    assert layout.GetViewArrangement() == layouts.SlicerLayoutConventionalView, "without being asked it stays"
    assert plots.show("score", layout) is score
    assert layout.GetViewArrangement() == layouts.SlicerLayoutConventionalPlotView
    assert selection.GetActivePlotChartID() == score.GetID()
    view = scene.AddNewNodeByClass("vtkMRMLPlotViewNode")
    view.SetMappedInLayout(1)
    plots.cleanup()
    assert layout.GetViewArrangement() == layouts.SlicerLayoutConventionalView, "as it was before the plot"
    assert selection.GetActivePlotChartID() is None
    plots.update(followed(makeRun(tmp_path / "two", events=[train(1, 1.0)])))
    plots.show("loss", layout)
    assert view.GetPlotChartNodeID() == plots.charts["loss"].GetID() and plots.shown == ["loss"]
    assert layout.GetViewArrangement() == layouts.SlicerLayoutConventionalView, "a plot view is there already"
    view.SetMappedInLayout(0)
    plots.show("loss", layout)
    layout.SetViewArrangement(layouts.SlicerLayoutFourUpView)
    plots.cleanup()
    assert layout.GetViewArrangement() == layouts.SlicerLayoutFourUpView, "the user's later choice stays"


def test_another_chart_comes_back_where_ours_was_shown(tmp_path, scene):
    one, two = (scene.AddNewNodeByClass("vtkMRMLPlotViewNode") for _ in range(2))
    mine = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", "mine")
    other = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", "other")
    selection = scene.AddNewNodeByClass("vtkMRMLSelectionNode")
    selection.SetActivePlotChartID(mine.GetID())
    one.SetPlotChartNodeID(mine.GetID())
    plots = plotted(scene, makeRun(tmp_path / "one", events=EVENTS))
    plots.show("loss")
    plots.show("score")
    assert one.GetPlotChartNodeID() == two.GetPlotChartNodeID() == plots.charts["score"].GetID()
    two.SetPlotChartNodeID(other.GetID())
    plots.cleanup()
    assert (one.GetPlotChartNodeID(), two.GetPlotChartNodeID()) == (mine.GetID(), other.GetID())
    assert selection.GetActivePlotChartID() == mine.GetID()


def test_nothing_is_left_behind_and_nothing_is_saved(tmp_path, scene):
    view = scene.AddNewNodeByClass("vtkMRMLPlotViewNode")
    own = scene.AddNewNodeByClass("vtkMRMLTableNode")
    before = scene.GetNumberOfNodes()
    plots = plotted(scene, makeRun(tmp_path / "one", events=EVENTS))
    plots.show()
    made = [node for kind in KINDS for node in nodes(scene, kind) if node is not own]
    assert len(made) == 6 and not any(node.GetSaveWithScene() for node in made)
    assert [node.GetHideFromEditors() for node in made if not node.IsA("vtkMRMLPlotChartNode")] == [1] * 4
    plots.cleanup()
    assert scene.GetNumberOfNodes() == before and view.GetPlotChartNodeID() is None


def test_a_plot_that_was_let_go_comes_back_whole(tmp_path, scene):
    follower, plots = followed(makeRun(tmp_path / "one", events=EVENTS)), RunPlots(scene)
    plots.update(follower)
    before = curve(plots, "loss"), curve(plots, "score"), plots.charts["loss"].GetXAxisRange()
    plots.cleanup()
    assert plots.update(follower) and plots.show("score") is plots.charts["score"]
    assert (curve(plots, "loss"), curve(plots, "score"), plots.charts["loss"].GetXAxisRange()) == before


def test_closing_the_scene_is_no_harm(tmp_path, scene):
    plots, follower = RunPlots(scene), followed(makeRun(tmp_path / "one", events=EVENTS))
    plots.update(follower)
    scene.Clear(0)
    assert plots.charts == {} and plots.show() is None
    taken = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", "has the ID of ours")
    assert plots.charts == {}
    assert plots.update(follower) and curve(plots, "score") == [[10, 20], [0.5, 0.75]]
    plots.cleanup()
    assert ours(scene) == [] and scene.IsNodePresent(taken)


def test_two_windows_show_two_runs(tmp_path, scene):
    view = scene.AddNewNodeByClass("vtkMRMLPlotViewNode")
    one, two = (makeRun(tmp_path / name, events=EVENTS) for name in ("one", "two"))
    plots, other = plotted(scene, one), plotted(scene, two)
    plots.show()
    other.show()
    assert plots.charts["loss"].GetTitle() == "one" and other.charts["loss"].GetTitle() == "two"
    assert plots.shown == [] and other.shown == ["loss"]
    other.cleanup()
    assert plots.shown == ["loss"] and curve(plots, "score") == [[10, 20], [0.5, 0.75]]
    plots.cleanup()
    assert ours(scene) == [] and view.GetPlotChartNodeID() is None
