"""What Slicer's plot view makes of a chart: the same chart of VTK, kept in step with the nodes in the same way."""

from __future__ import annotations

import vtk


class HostPlotView:
    """Watches a vtkMRMLPlotChartNode as qMRMLPlotView does; ``ranges`` is what its axes show.

    An automatic range is fitted when a line is added, and not when the line grows: nothing calls for it.
    """

    def __init__(self, chartNode) -> None:
        self.chart = vtk.vtkChartXY()
        self._node = chartNode
        self._plots: dict[str, vtk.vtkPlotLine] = {}
        self._tag = chartNode.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self.update())
        self.update()

    @property
    def ranges(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The ends of the horizontal and of the vertical axis."""
        axes = self.chart.GetAxis(vtk.vtkAxis.BOTTOM), self.chart.GetAxis(vtk.vtkAxis.LEFT)
        return tuple((axis.GetUnscaledMinimum(), axis.GetUnscaledMaximum()) for axis in axes)

    def update(self) -> None:
        """Take over what the nodes say."""
        node = self._node
        lines = [node.GetNthPlotSeriesNode(number) for number in range(node.GetNumberOfPlotSeriesNodes())]
        for name in set(self._plots) - {line.GetID() for line in lines}:
            self.chart.RemovePlotInstance(self._plots.pop(name))
        for line in lines:
            plot = self._plots.get(line.GetID()) or vtk.vtkPlotLine()
            table = line.GetTableNode().GetTable()
            plot.SetInputData(table, line.GetXColumnName(), line.GetYColumnName())
            if line.GetID() not in self._plots:
                self._plots[line.GetID()] = plot
                self.chart.AddPlot(plot)
        self._fit(vtk.vtkAxis.BOTTOM, node.GetXAxisRangeAuto(), node.GetXAxisRange())
        self._fit(vtk.vtkAxis.LEFT, node.GetYAxisRangeAuto(), node.GetYAxisRange())

    def close(self) -> None:
        """Watch no more."""
        self._node.RemoveObserver(self._tag)

    def _fit(self, place: int, automatic: bool, ends: tuple[float, float]) -> None:
        axis = self.chart.GetAxis(place)
        axis.SetBehavior(vtk.vtkAxis.AUTO if automatic else vtk.vtkAxis.FIXED)
        if not automatic:
            axis.SetUnscaledRange(*ends)
