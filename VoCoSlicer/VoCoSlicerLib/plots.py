"""A run's curves in Slicer's own plot view: two tables, two series and a chart, updated in place.

The nodes are not saved with the scene: they are made again from the run's folder, which lives longer than any scene.
Tables and series are hidden from the data tree; the chart is not, because plot views offer charts by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from vtk.util.numpy_support import numpy_to_vtk

from VoCoCore.runs.follow import Follower
from VoCoSlicerLib.job_rows import SCORES

ROLE = "VoCo.plot"  # attribute that marks our nodes
MOST = 2000  # points of a curve; longer ones are thinned evenly, with their ends kept
_WORDS = {"position_accuracy": "position accuracy", "dice": "Dice", "balanced_accuracy": "balanced accuracy"}
_BLUE, _ORANGE = (0.12, 0.40, 0.70), (0.90, 0.45, 0.05)


class RunPlots:
    """The curves of one run at a time. ``scene``: where the nodes live; closing it is fine at any time."""

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        self._shown: object = None
        self._others: dict[str, str | None] = {}  # charts of the plot views before ours, by the views' IDs
        self._arranged = "", 0, 0  # layout node, its arrangement before ours, and ours

    @property
    def chart(self) -> Any:
        """The vtkMRMLPlotChartNode, None where nothing was plotted in this scene."""
        return self._find("chart")

    def update(self, follower: Follower) -> bool:
        """Bring the nodes in step with what ``follower`` has polled; False where nothing had changed.

        A run that went back to a checkpoint loses the points beyond it here as well.
        """
        metrics = follower.metrics
        if self._scene.IsBatchProcessing():
            return False
        shown = follower.run.path, len(metrics), id(metrics[-1]) if metrics else 0
        if shown == self._shown and self.chart is not None:
            return False
        self._shown = shown
        score = _scoreName(follower)
        words = {"train": "training loss", "val": f"held-out {_WORDS.get(score, score)}"}
        for role, name, color in (("train", "loss", _BLUE), ("val", score, _ORANGE)):
            steps, values = _points(*follower.curve(name, role))
            self._fill(role, words[role], steps, values)
            self._series(role, words[role], color)
        self._describe(follower.run.name)
        return True

    def show(self, layoutNode: Any = None) -> Any:
        """Put the chart into the plot views and return it; None where nothing was plotted yet.

        Where the layout has no plot view, ``layoutNode`` (a vtkMRMLLayoutNode) changes to the like one that has;
        without it the layout stays, and the chart waits for a plot view. `cleanup` takes both back.
        """
        chart = self.chart
        if chart is None:
            return None
        if layoutNode is not None and not any(view.IsMappedInLayout() for view in self._views()):
            before = layoutNode.GetViewArrangement()
            layoutNode.SetViewArrangement(_withPlot(layoutNode))
            self._arranged = layoutNode.GetID(), before, layoutNode.GetViewArrangement()
        selection = self._scene.GetFirstNodeByClass("vtkMRMLSelectionNode")
        if selection is not None:
            selection.SetActivePlotChartID(chart.GetID())
        for view in self._views():
            if view.GetPlotChartNodeID() != chart.GetID():
                self._others[view.GetID()] = view.GetPlotChartNodeID()
                view.SetPlotChartNodeID(chart.GetID())
        return chart

    def cleanup(self) -> None:
        """Take all nodes out of the scene; the views show what they did before, unless a user has changed them."""
        self._shown = None
        chart = self.chart
        for view in self._views():
            if chart is not None and view.GetPlotChartNodeID() == chart.GetID():
                other = self._others.get(view.GetID())
                view.SetPlotChartNodeID(other if other and self._scene.GetNodeByID(other) else None)
        self._others.clear()
        nodeId, before, ours = self._arranged
        layoutNode = self._scene.GetNodeByID(nodeId) if nodeId else None
        if layoutNode is not None and layoutNode.GetViewArrangement() == ours:
            layoutNode.SetViewArrangement(before)
        self._arranged = "", 0, 0
        for role in ("chart", "series train", "series val", "table train", "table val"):
            if (node := self._find(role)) is not None:
                self._scene.RemoveNode(node)

    def _views(self) -> list[Any]:
        found = self._scene.GetNodesByClass("vtkMRMLPlotViewNode")
        found.UnRegister(None)  # the collection is ours
        return [found.GetItemAsObject(number) for number in range(found.GetNumberOfItems())]

    def _find(self, role: str) -> Any:
        kind = {"t": "Table", "s": "PlotSeries", "c": "PlotChart"}[role[0]]
        found = self._scene.GetNodesByClass(f"vtkMRML{kind}Node")
        found.UnRegister(None)
        nodes = (found.GetItemAsObject(number) for number in range(found.GetNumberOfItems()))
        return next((node for node in nodes if node.GetAttribute(ROLE) == role), None)

    def _node(self, role: str, kind: str, hidden: bool) -> Any:
        """The node of a role, made where there is none."""
        node = self._find(role)
        if node is None:
            node = self._scene.CreateNodeByClass(kind)
            node.UnRegister(None)
            node.SetAttribute(ROLE, role)
            node.SetSaveWithScene(False)
            node.SetHideFromEditors(hidden)
            node.SetName(f"VoCo {role}")
            node = self._scene.AddNode(node)
        return node

    def _fill(self, role: str, name: str, steps: np.ndarray, values: np.ndarray) -> None:
        node = self._node(f"table {role}", "vtkMRMLTableNode", hidden=True)
        before = node.StartModify()
        table = node.GetTable()
        table.Initialize()
        for title, data in (("step", steps), (name, values)):
            column = numpy_to_vtk(data, deep=True)
            column.SetName(title)
            table.AddColumn(column)
        table.Modified()
        node.Modified()
        node.EndModify(before)

    def _series(self, role: str, name: str, color: tuple[float, float, float]) -> None:
        node = self._node(f"series {role}", "vtkMRMLPlotSeriesNode", hidden=True)
        before = node.StartModify()
        node.SetName(name)
        node.SetAndObserveTableNodeID(self._find(f"table {role}").GetID())
        node.SetXColumnName("step")
        node.SetYColumnName(name)
        node.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        circle = slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle
        node.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone if role == "train" else circle)
        node.SetColor(*color)
        node.EndModify(before)

    def _describe(self, run: str) -> None:
        node = self._node("chart", "vtkMRMLPlotChartNode", hidden=False)
        before = node.StartModify()
        node.SetName(f"VoCo: {run}")
        node.SetTitle(run)
        node.SetXAxisTitle("step")
        node.SetYAxisTitle("loss, score")
        for role in ("train", "val"):
            series = self._find(f"series {role}").GetID()
            if not node.HasPlotSeriesNodeID(series):
                node.AddAndObservePlotSeriesNodeID(series)
        node.EndModify(before)


def _scoreName(follower: Follower) -> str:
    """The score by which this run's states are compared; the first usual one where it has said none yet."""
    names = (event["values"] for event in reversed(follower.metrics) if event.get("split") == "val")
    newest = next(names, {})
    return next((name for name in SCORES if name in newest), SCORES[0])


def _points(steps: list[int], values: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Finite points of a curve, at most MOST: steps (n,) and values (n,), both float64."""
    pairs = [
        (step, value) for step, value in zip(steps, values, strict=True) if isinstance(value, int | float)
    ]
    points = np.array(pairs, np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) > MOST:
        points = points[np.linspace(0, len(points) - 1, MOST).round().astype(int)]
    return points[:, 0], points[:, 1]


def _withPlot(layoutNode: Any) -> int:
    """The layout with a plot view that is most like the present one."""
    layouts = slicer.vtkMRMLLayoutNode
    like = {
        layouts.SlicerLayoutConventionalView: layouts.SlicerLayoutConventionalPlotView,
        layouts.SlicerLayoutOneUp3DView: layouts.SlicerLayoutOneUpPlotView,
        layouts.SlicerLayoutThreeOverThreeView: layouts.SlicerLayoutThreeOverThreePlotView,
    }
    return like.get(layoutNode.GetViewArrangement(), layouts.SlicerLayoutFourUpPlotView)
