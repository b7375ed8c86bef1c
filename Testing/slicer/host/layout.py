"""A stand-in for the layout manager over the real layout node and slice logics; views are nodes without windows."""

from __future__ import annotations

from PySide6 import QtCore

from .signals import HostSignal
from .standins import standIn


class _Controller:
    """A view's bar of buttons: it only hears what it is told."""

    def fitSliceToBackground(self) -> None: ...


class _View:
    """What code asks of a view widget: its node and logic, and to draw."""

    def __init__(self, node, logic=None) -> None:
        self._node, self._logic = node, logic

    def mrmlSliceNode(self):
        return self._node

    mrmlViewNode = mrmlPlotViewNode = mrmlTableViewNode = mrmlSliceNode

    def sliceLogic(self):
        return self._logic

    def sliceController(self) -> _Controller:
        return _Controller()

    def sliceView(self) -> _View:
        return self

    threeDView = plotView = tableView = sliceView

    def scheduleRender(self) -> None: ...

    forceRender = resetFocalPoint = resetCamera = fitToContent = scheduleRender


@standIn
class HostLayoutManager(QtCore.QObject):
    """`slicer.app.layoutManager()`: the layout is the node's view arrangement."""

    layoutChanged = HostSignal("layoutChanged", "int")

    def __init__(self, scene) -> None:
        super().__init__()
        self._hostScene = scene

    def _hostNode(self):
        return self._hostScene.layoutLogic.GetLayoutNode()

    def setLayout(self, layout: int) -> None:
        """Slot: arrange the views."""
        node = self._hostNode()
        if node is not None and int(layout) != node.GetViewArrangement():
            node.SetViewArrangement(int(layout))
            type(self).layoutChanged.emit(self, int(layout))

    layout = property(lambda self: self._hostNode().GetViewArrangement(), setLayout)

    def _hostViews(self, kind: str) -> list:
        collection = self._hostScene.layoutLogic.GetViewNodes()
        nodes = [collection.GetItemAsObject(index) for index in range(collection.GetNumberOfItems())]
        return [node for node in nodes if node.IsA(kind)]

    threeDViewCount = property(lambda self: len(self._hostViews("vtkMRMLViewNode")))
    plotViewCount = property(lambda self: len(self._hostViews("vtkMRMLPlotViewNode")))
    tableViewCount = property(lambda self: len(self._hostViews("vtkMRMLTableViewNode")))

    def sliceViewNames(self) -> list[str]:
        """Names of the slice views."""
        return list(self._hostScene.sliceLogics)

    def sliceWidget(self, name: str):
        """A slice view, or None."""
        logic = self._hostScene.sliceLogics.get(name)
        return _View(logic.GetSliceNode(), logic) if logic else None

    def _hostWidget(self, kind: str, index: int):
        views = self._hostViews(kind)
        return _View(views[index]) if 0 <= index < len(views) else None

    def threeDWidget(self, index: int):
        """The n-th 3D view, or None."""
        return self._hostWidget("vtkMRMLViewNode", index)

    def plotWidget(self, index: int):
        """The n-th plot view, or None: layouts without plots have none."""
        return self._hostWidget("vtkMRMLPlotViewNode", index)

    def tableWidget(self, index: int):
        """The n-th table view, or None."""
        return self._hostWidget("vtkMRMLTableViewNode", index)

    def layoutLogic(self):
        """The real layout logic."""
        return self._hostScene.layoutLogic

    def resetSliceViews(self) -> None:
        """Slot: every slice view shows its volume whole."""
        for logic in self._hostScene.sliceLogics.values():
            logic.FitSliceToBackground()

    def resetThreeDViews(self) -> None:
        """Slot; the host draws no 3D views."""

    def pauseRender(self) -> None:
        """Slot."""

    resumeRender = pauseRender
