"""A run's curves in Slicer's own plot view, updated in place: one chart of the losses, one of the score.

They are two, because a chart has one vertical axis: beside a loss of 4 a score from 0 to 1 is a flat line. The nodes
are not saved with the scene: they are made again from the run's folder, which lives longer than any scene. Tables and
series are hidden from the data tree; charts are not, because plot views offer charts by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from vtk.util.numpy_support import numpy_to_vtk

from VoCoCore.runs.follow import Follower
from VoCoSlicerLib.run_curves import CHANCE, HELD_OUT, LOSS, RunCurves

ROLE = "VoCo.plot"  # attribute that marks our nodes
CHARTS = ("loss", "score")
FEW = 60  # points that are marked one by one; more would run into each other
_WORDS = {"position_accuracy": "position accuracy", "dice": "Dice", "balanced_accuracy": "balanced accuracy"}
_BLUE, _ORANGE, _GREY = (0.12, 0.40, 0.70), (0.90, 0.45, 0.05), (0.45, 0.45, 0.45)
_MARGIN = 0.03  # of a range, beyond the last point: its mark would be cut in half
_KINDS = {"table": "vtkMRMLTableNode", "series": "vtkMRMLPlotSeriesNode", "chart": "vtkMRMLPlotChartNode"}

Extent = tuple[float, float, float, float]  # first and last step, smallest and largest value


class RunPlots:
    """The curves of one run at a time. ``scene``: where the nodes live; closing it is fine at any time.

    Each has nodes of its own, so that two windows can show two runs.
    """

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        self._nodes: dict[str, Any] = {}  # by role, such as "table train loss"
        self._curves: RunCurves | None = None
        # Of the points of each series, by its ID, and, as it was fitted, of each chart, by its name.
        self._extents: dict[str, Extent] = {}
        self._others: dict[str, str | None] = {}  # charts of the plot views before ours, by the views' IDs
        self._active: str | None = None  # the application's chart before ours
        self._arranged = "", 0, 0  # layout node, its arrangement before ours, and ours

    @property
    def charts(self) -> dict[str, Any]:
        """The vtkMRMLPlotChartNode of each of CHARTS; empty where nothing was plotted in this scene."""
        found = {name: self._find(f"chart {name}") for name in CHARTS}
        return {name: node for name, node in found.items() if node is not None}

    @property
    def shown(self) -> list[str]:
        """Which of CHARTS the plot views show."""
        ids = {view.GetPlotChartNodeID() for view in self._views()}
        return [name for name, chart in self.charts.items() if chart.GetID() in ids]

    @property
    def behind(self) -> bool:
        """Whether another `update` has more of a long history to draw."""
        return self._curves is not None and self._curves.behind

    def update(self, follower: Follower) -> bool:
        """Bring the nodes in step with what ``follower`` has polled; False where nothing had changed.

        A run that went back to a checkpoint loses the points beyond it here as well. A long history comes in several
        calls, while `behind`.
        """
        if self._scene.IsBatchProcessing():
            return False
        if self._curves is None or self._curves.follower is not follower:
            self._curves = RunCurves(follower)
        curves = self._curves
        if not curves.update() and len(self.charts) == len(CHARTS):
            return False
        run = follower.run.name
        losses = [
            self._draw(curves, LOSS, "training loss", _BLUE, 1),
            self._draw(curves, HELD_OUT, "held-out loss", _ORANGE, FEW),
        ]
        self._describe("loss", run, "loss", losses)
        word = _WORDS.get(curves.score, curves.score)
        score = self._draw(curves, ("val", curves.score), f"held-out {word}", _ORANGE, FEW)
        chance = self._draw(curves, CHANCE, "chance", _GREY, 1)
        self._describe("score", run, f"held-out {word or 'score'}", [score, chance])
        return True

    def show(self, name: str = "loss", layoutNode: Any = None) -> Any:
        """Put one of CHARTS into the plot views and return it; None where nothing was plotted yet.

        Where the layout has no plot view, ``layoutNode`` (a vtkMRMLLayoutNode) changes to the like one that has;
        without it the layout stays, and the chart waits for a plot view. `cleanup` takes both back.
        """
        charts = self.charts
        if name not in charts:
            return None
        wanted, ours = charts[name].GetID(), {chart.GetID() for chart in charts.values()}
        if layoutNode is not None and not any(view.IsMappedInLayout() for view in self._views()):
            before = layoutNode.GetViewArrangement()
            layoutNode.SetViewArrangement(_withPlot(layoutNode))
            self._arranged = layoutNode.GetID(), before, layoutNode.GetViewArrangement()
        if (selection := self._selection()) is not None:
            if selection.GetActivePlotChartID() not in ours:
                self._active = selection.GetActivePlotChartID()
            selection.SetActivePlotChartID(wanted)
        for view in self._views():
            if view.GetPlotChartNodeID() not in ours:
                self._others[view.GetID()] = view.GetPlotChartNodeID()
            view.SetPlotChartNodeID(wanted)
        return charts[name]

    def cleanup(self) -> None:
        """Take all nodes out of the scene; the views show what they did before, unless a user has changed them."""
        ours = {chart.GetID() for chart in self.charts.values()}
        for view in self._views():
            if view.GetPlotChartNodeID() in ours:
                view.SetPlotChartNodeID(self._still(self._others.get(view.GetID())))
        if (selection := self._selection()) is not None and selection.GetActivePlotChartID() in ours:
            selection.SetActivePlotChartID(self._still(self._active))
        nodeId, before, arranged = self._arranged
        layoutNode = self._scene.GetNodeByID(nodeId) if nodeId else None
        if layoutNode is not None and layoutNode.GetViewArrangement() == arranged:
            layoutNode.SetViewArrangement(before)
        for role in sorted(self._nodes):  # charts before what they show
            if (node := self._find(role)) is not None:
                self._scene.RemoveNode(node)
        self._nodes.clear()
        self._extents.clear()
        self._others.clear()
        self._active, self._arranged = None, ("", 0, 0)

    def _views(self) -> list[Any]:
        found = self._scene.GetNodesByClass("vtkMRMLPlotViewNode")
        found.UnRegister(None)  # the collection is ours
        return [found.GetItemAsObject(number) for number in range(found.GetNumberOfItems())]

    def _selection(self) -> Any:
        return self._scene.GetFirstNodeByClass("vtkMRMLSelectionNode")

    def _still(self, nodeId: str | None) -> str | None:
        """The ID, None where its node is no longer there."""
        return nodeId if nodeId and self._scene.GetNodeByID(nodeId) else None

    def _find(self, role: str) -> Any:
        """The node of a role; None where there is none, or where the scene was closed since."""
        node = self._nodes.get(role)
        return node if node is not None and self._scene.IsNodePresent(node) else None

    def _node(self, role: str) -> Any:
        """The node of a role, made where there is none."""
        node = self._find(role)
        if node is None:
            kind = role.split()[0]
            node = self._scene.CreateNodeByClass(_KINDS[kind])
            node.UnRegister(None)
            node.SetAttribute(ROLE, role)
            node.SetSaveWithScene(False)
            node.SetHideFromEditors(kind != "chart")
            node.SetName(f"VoCo {role}")
            node = self._nodes[role] = self._scene.AddNode(node)
        return node

    def _draw(
        self, curves: RunCurves, key: tuple[str, str], name: str, color: tuple[float, ...], marked: int
    ) -> Any:
        """The series of one curve, called ``name`` in the legend; None where it has no points.

        Up to ``marked`` points have a mark each: one alone could not be seen.
        """
        steps, values = curves.drawn(*key)
        return self._line(" ".join(key), name, steps, values, color, marked) if len(steps) else None

    def _line(
        self,
        role: str,
        name: str,
        steps: np.ndarray,
        values: np.ndarray,
        color: tuple[float, ...],
        marked: int,
    ) -> Any:
        table = self._node(f"table {role}")
        self._fill(table, name, steps, values)
        node = self._node(f"series {role}")
        self._extents.pop(node.GetID(), None)
        if len(seen := values[np.isfinite(values)]):
            self._extents[node.GetID()] = steps[0], steps[-1], seen.min(), seen.max()
        before = node.StartModify()
        node.SetName(name)
        node.SetAndObserveTableNodeID(table.GetID())
        node.SetXColumnName("step")
        node.SetYColumnName(name)
        node.SetPlotType(node.PlotTypeScatter)
        node.SetMarkerStyle(node.MarkerStyleCircle if len(steps) <= marked else node.MarkerStyleNone)
        node.SetLineStyle(node.LineStyleDash if role == " ".join(CHANCE) else node.LineStyleSolid)
        node.SetColor(*color)
        node.EndModify(before)
        return node

    def _fill(self, node: Any, name: str, steps: np.ndarray, values: np.ndarray) -> None:
        before = node.StartModify()
        table = node.GetTable()
        table.Initialize()
        if len(steps) == 1:  # VTK complains of a line through one point
            steps, values = steps.repeat(2), values.repeat(2)
        for title, data in (("step", steps), (name, values)):
            column = numpy_to_vtk(data, deep=True)
            column.SetName(title)
            table.AddColumn(column)
        table.Modified()
        node.Modified()
        node.EndModify(before)

    def _describe(self, name: str, run: str, axis: str, lines: list[Any]) -> None:
        title = run if lines[0] is not None else f"{run}: no {name} yet"
        if name == "score" and lines[1] is not None:
            title = f"{run} (dashed: chance)"
        node = self._node(f"chart {name}")
        before = node.StartModify()
        another = node.GetTitle() != title
        if another:
            node.SetTitle(title)
            node.SetName(f"VoCo {name}: {run}")
            node.SetXAxisTitle("step")
            # A legend lies at the top right, where a score that rises has its newest points.
            node.SetLegendVisibility(name == "loss" and title == run)
        self._fit(name, node, [line for line in lines if line is not None], another)
        node.SetYAxisTitle(axis)
        wanted = [line.GetID() for line in lines if line is not None] or [self._nothing().GetID()]
        if wanted != [node.GetNthPlotSeriesNodeID(n) for n in range(node.GetNumberOfPlotSeriesNodes())]:
            node.RemoveAllPlotSeriesNodeIDs()
            for line in wanted:
                node.AddAndObservePlotSeriesNodeID(line)
        node.EndModify(before)

    def _fit(self, name: str, node: Any, lines: list[Any], another: bool) -> None:
        """Let a chart show all points, of a score always from 0 to 1.

        Plot views fit a range by themselves only when a line is added, and not when it grows. A range that shows less
        than there was is one that a user has zoomed to: it stays, unless this is ``another`` run.
        """
        extents = [self._extents[line.GetID()] for line in lines if line.GetID() in self._extents]
        if not extents:
            extents = [(0.0, 1.0, 0.0, 1.0)]
        firsts, lasts, lows, highs = zip(*extents, strict=True)
        first, last = min(firsts), max(lasts)
        low, high = (0.0, 1.0) if name == "score" else (min(lows), max(highs))
        before = self._extents.get(name)
        if before is not None and not another:
            (left, right), (bottom, top) = node.GetXAxisRange(), node.GetYAxisRange()
            if left > before[0] or right < before[1] or bottom > before[2] or top < before[3]:
                return
        self._extents[name] = first, last, low, high
        node.SetXAxisRangeAuto(False)
        node.SetXAxisRange(min(first, 0.0), last + _MARGIN * last)
        node.SetYAxisRangeAuto(False)
        if name != "score":
            margin = _MARGIN * (high - low) or 0.5 * abs(high) or 1.0
            low, high = low - margin if low < 0 else max(0.0, low - margin), high + margin
        node.SetYAxisRange(low, high)

    def _nothing(self) -> Any:
        """A series in which nothing is seen: without any, a plot view shows no axes and no title either."""
        nowhere = np.array([np.nan, np.nan])
        return self._line("nothing", "nothing yet", np.arange(2.0), nowhere, _GREY, 0)


def _withPlot(layoutNode: Any) -> int:
    """The layout with a plot view that is most like the present one."""
    layouts = slicer.vtkMRMLLayoutNode
    like = {
        layouts.SlicerLayoutConventionalView: layouts.SlicerLayoutConventionalPlotView,
        layouts.SlicerLayoutOneUp3DView: layouts.SlicerLayoutOneUpPlotView,
        layouts.SlicerLayoutThreeOverThreeView: layouts.SlicerLayoutThreeOverThreePlotView,
    }
    return like.get(layoutNode.GetViewArrangement(), layouts.SlicerLayoutFourUpPlotView)
