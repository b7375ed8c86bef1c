"""The prepared volume as a node: what the trainer sees, in its window, its orientation and its place."""

from __future__ import annotations

from typing import Any

import numpy as np

from VoCoCore.data.plan import Plan
from VoCoSlicerLib.preview_nodes import HiddenNodes, setAffine, setValues


class PreparedVolume:
    """A hidden scalar volume ``node`` that carries the prepared values (uint8: 255 stands for 1)."""

    def __init__(self, nodes: HiddenNodes) -> None:
        classes = "vtkMRMLScalarVolumeNode", "vtkMRMLScalarVolumeDisplayNode"
        self.node = nodes.add(classes[0], "VoCo prepared volume", classes[1])
        display = self.node.GetDisplayNode()
        display.SetDefaultColorMap()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(0, 255)
        self._shown: Any = None

    def fill(self, values: np.ndarray, channel: int, plan: Plan) -> bool:
        """Carry one of ``values`` (C, X, Y, Z) uint8, placed as ``plan`` says; False where it is there already."""
        if self._shown is not None and values is self._shown[0] and channel == self._shown[1]:
            return False
        self._shown = values, channel
        setAffine(self.node, plan.affine)
        setValues(self.node, values[channel])
        return True
