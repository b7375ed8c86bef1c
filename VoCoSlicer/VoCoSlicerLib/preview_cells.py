"""Two small volumes over the grid: coloured cells (label layer) and heat (foreground layer), and their colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from VoCoSlicerLib.preview_grid import WorldGrid
from VoCoSlicerLib.preview_nodes import (
    HiddenNodes,
    classColours,
    fillColourTable,
    heatColours,
    setAffine,
    setValues,
)

TABLE = "vtkMRMLColorTableNode"
LABELS, LABELS_DISPLAY = "vtkMRMLLabelMapVolumeNode", "vtkMRMLLabelMapVolumeDisplayNode"
SCALARS, SCALARS_DISPLAY = "vtkMRMLScalarVolumeNode", "vtkMRMLScalarVolumeDisplayNode"
HEAT_STEPS = 64
LEAST_HEAT = 1e-6  # below this a base is not touched, and nothing is drawn over it


class CellVolumes:
    """The label volume ``cells`` (class + 1; 0 is outside) and the scalar volume ``heat`` (a value a base)."""

    def __init__(self, nodes: HiddenNodes) -> None:
        self._classes = np.zeros((1, 1, 1), np.intp)  # as Slicer's arrays: k, j, i
        self._count = 0
        # Colours first: a display node must never look at a table that is empty, or gone already.
        self._colours = nodes.add(TABLE, "VoCo base crops colours", prepare=_prepareColours)
        self._scale = nodes.add(TABLE, "VoCo overlap colours", prepare=_prepareScale)
        self.cells = nodes.add(LABELS, "VoCo base crops", LABELS_DISPLAY, self._prepareCells)
        self.heat = nodes.add(SCALARS, "VoCo overlap", SCALARS_DISPLAY, self._prepareHeat)

    def place(self, world: WorldGrid) -> None:
        """Lay both volumes over the bases of ``world``."""
        lattice = world.lattice
        if world.grid.n != self._count:
            self._count = world.grid.n
            names = [f"base crop {i}" for i in range(self._count)]
            fillColourTable(self._colours, classColours(self._count), names, clearFirst=True)
        self._classes = np.ascontiguousarray(lattice.classes.transpose(2, 1, 0))
        for volume in (self.cells, self.heat):
            setAffine(volume, lattice.affine)
        setValues(self.cells, (lattice.classes + 1).astype(np.int16))
        setValues(self.heat, np.zeros(lattice.classes.shape, np.float32))

    def setHeat(self, values: np.ndarray, scale: tuple[float, float] = (0.0, 1.0)) -> None:
        """Write ``values`` (n,), one a base, into the heat volume; ``scale``: the ends of its colours."""
        target = slicer.util.arrayFromVolume(self.heat)
        np.take(np.asarray(values, np.float32), self._classes, out=target)
        display = self.heat.GetDisplayNode()
        low, high = scale
        if (display.GetWindowLevelMin(), display.GetWindowLevelMax()) != (low, high):
            display.SetWindowLevelMinMax(low, high)
            display.SetThreshold(low + LEAST_HEAT * (high - low), max(high, 1e6))
        slicer.util.arrayFromVolumeModified(self.heat)

    def _prepareCells(self, _node: Any, display: Any) -> None:
        display.SetAndObserveColorNodeID(self._colours.GetID())

    def _prepareHeat(self, _node: Any, display: Any) -> None:
        display.SetAutoWindowLevel(False)
        display.SetInterpolate(False)
        display.SetAndObserveColorNodeID(self._scale.GetID())
        display.SetWindowLevelMinMax(0.0, 1.0)
        display.SetAutoThreshold(False)
        display.SetThreshold(LEAST_HEAT, 1e6)
        display.SetApplyThreshold(True)


def _prepareColours(table: Any) -> None:
    fillColourTable(table, classColours(1), [""], clearFirst=True)


def _prepareScale(table: Any) -> None:
    fillColourTable(table, heatColours(HEAT_STEPS), [""] * HEAT_STEPS, clearFirst=False)
