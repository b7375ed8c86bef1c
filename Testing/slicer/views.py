"""Slice and 3D views without windows: what Slicer would show of a scene, as pictures."""

from __future__ import annotations

from pathlib import Path

import slicer
import vtk

SLICE_MANAGERS = (
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
)
VIEW_MANAGERS = (
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
)


class Window:
    """A render window off the screen."""

    def __init__(self, window, size: tuple[int, int]) -> None:
        self.window = window
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)

    def save(self, path: Path) -> None:
        """Draw it into a PNG file."""
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        writer = vtk.vtkPNGWriter()
        writer.SetFileName(str(path))
        writer.SetInputConnection(grab.GetOutputPort())
        writer.Write()


class PlotView(Window):
    """A chart node's title, axes, legend and series, as Slicer's plot view draws them."""

    def __init__(self, chart, size: tuple[int, int] = (560, 320)) -> None:
        self._view = vtk.vtkContextView()
        super().__init__(self._view.GetRenderWindow(), size)
        self._view.GetRenderer().SetBackground(1, 1, 1)
        drawn = vtk.vtkChartXY()
        self._view.GetScene().AddItem(drawn)
        drawn.SetTitle(chart.GetTitle())
        drawn.GetAxis(vtk.vtkAxis.BOTTOM).SetTitle(chart.GetXAxisTitle())
        drawn.GetAxis(vtk.vtkAxis.LEFT).SetTitle(chart.GetYAxisTitle())
        drawn.SetShowLegend(chart.GetLegendVisibility())
        if not chart.GetYAxisRangeAuto():
            drawn.GetAxis(vtk.vtkAxis.LEFT).SetBehavior(vtk.vtkAxis.FIXED)
            drawn.GetAxis(vtk.vtkAxis.LEFT).SetUnscaledRange(chart.GetYAxisRange())
        for number in range(chart.GetNumberOfPlotSeriesNodes()):
            series = chart.GetNthPlotSeriesNode(number)
            line = drawn.AddPlot(vtk.vtkChart.LINE)
            table = series.GetTableNode().GetTable()
            line.SetInputData(table, series.GetXColumnName(), series.GetYColumnName())
            line.SetLabel(series.GetName())
            line.SetColorF(*series.GetColor())
            line.SetWidth(2)
            dashed = series.GetLineStyle() == series.LineStyleDash
            line.GetPen().SetLineType(vtk.vtkPen.DASH_LINE if dashed else vtk.vtkPen.SOLID_LINE)
            line.SetMarkerStyle(series.GetMarkerStyle())


class View(Window):
    """A render window off the screen that a group of displayable managers draws into."""

    def __init__(self, setup, node, factory, managers, size: tuple[int, int]) -> None:
        super().__init__(vtk.vtkRenderWindow(), size)
        self.renderer = vtk.vtkRenderer()
        self.window.AddRenderer(self.renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self.window)
        node.SetInteractionNode(setup.scene.GetFirstNodeByClass("vtkMRMLInteractionNode"))
        self._factory = factory
        factory.SetMRMLApplicationLogic(setup.applicationLogic)
        for name in managers:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self._group = factory.InstantiateDisplayableManagers(self.renderer)
        self._group.SetMRMLDisplayableNode(node)


class SliceView(View):
    """One of the slice views: the layers of its slice logic, with models, markups and segments over them."""

    def __init__(self, setup, name: str, size: tuple[int, int] = (360, 360)) -> None:
        logic = setup.sliceLogics[name]
        node = logic.GetSliceNode()
        node.SetDimensions(*size, 1)
        node.SetUVWDimensions(*size, 1)
        logic.FitSliceToAll()
        self.node = node
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory()
        super().__init__(setup, node, factory, SLICE_MANAGERS, size)
        # as in Slicer: the volumes' layers in a renderer of their own, below what the managers draw
        below = vtk.vtkRenderer()
        self.window.SetNumberOfLayers(2)
        self.window.AddRenderer(below)
        self.renderer.SetLayer(1)
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        mapper = vtk.vtkImageMapper()
        mapper.SetInputConnection(logic.GetImageDataConnection())
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        layers = vtk.vtkActor2D()
        layers.SetMapper(mapper)
        below.AddViewProp(layers)


class ThreeDView(View):
    """The 3D view, with a camera that sees all of the scene."""

    def __init__(self, setup, size: tuple[int, int] = (360, 360)) -> None:
        node = setup.scene.GetFirstNodeByClass("vtkMRMLViewNode")
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory()
        super().__init__(setup, node, factory, VIEW_MANAGERS, size)
        self.renderer.SetBackground(0.76, 0.76, 0.91)
        self.renderer.SetBackground2(0.45, 0.47, 0.74)
        self.renderer.GradientBackgroundOn()

    def save(self, path: Path) -> None:
        """From the front, a little from the left and above."""
        camera = self.renderer.GetActiveCamera()
        camera.SetPosition(-1, 2.5, 1)
        camera.SetFocalPoint(0, 0, 0)
        camera.SetViewUp(0, 0, 1)
        self.window.Render()
        self.renderer.ResetCamera()
        self.renderer.ResetCameraClippingRange()
        super().save(path)
