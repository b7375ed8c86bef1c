"""All nodes of the preview together, what the slice views show of them, and what happens in the scene meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk

from VoCoCore.data.plan import Plan
from VoCoCore.geometry import Box
from VoCoSlicerLib.overlays import COMPOSITE
from VoCoSlicerLib.preview_cameras import CameraPlaces
from VoCoSlicerLib.preview_cells import CellVolumes
from VoCoSlicerLib.preview_grid import WorldGrid
from VoCoSlicerLib.preview_layers import SliceLayers
from VoCoSlicerLib.preview_nodes import HiddenNodes
from VoCoSlicerLib.preview_numbers import CellNumbers
from VoCoSlicerLib.preview_outlines import Outlines
from VoCoSlicerLib.preview_places import SlicePlaces
from VoCoSlicerLib.preview_prepared import PreparedVolume
from VoCoSlicerLib.preview_roi import CropRoi
from VoCoSlicerLib.signals import weakly


@dataclass(frozen=True)
class Shown:
    """Which parts of the preview are shown, and the opacity (0 to 1) of cells and heat; heat goes before cells."""

    cells: bool = True
    outlines: bool = True
    numbers: bool = True
    heat: bool = False
    prepared: bool = False
    opacity: float = 0.4


class PreviewScene:
    """The overlay's nodes, made by `build` and taken away by `close`; ``onMoved()`` tells of each move of the crop."""

    cells: CellVolumes
    outlines: Outlines
    numbers: CellNumbers
    roi: CropRoi

    def __init__(self, scene: Any, onMoved: Callable[[], None]) -> None:
        self._scene, self._onMoved = scene, onMoved
        self._nodes = HiddenNodes(scene)
        self._layers = SliceLayers(scene)
        self._places, self._cameras = SlicePlaces(scene), CameraPlaces(scene)
        self._prepared: PreparedVolume | None = None
        self._world: WorldGrid | None = None

    def build(self, world: WorldGrid, plan: Plan) -> Iterator[None]:
        """Make all nodes and draw the bases of ``world``, in steps; `place` and `present` do the rest."""
        self.cells = CellVolumes(self._nodes)
        yield
        self.cells.place(world)
        yield
        self.outlines = Outlines(self._nodes)
        self.outlines.place(world, plan)
        yield
        self.numbers = CellNumbers(self._scene, self._nodes)
        yield
        yield from self.numbers.placing(world)
        self.roi = CropRoi(self._nodes, self._onMoved)
        self._world = world
        yield

    @property
    def preparedNode(self) -> Any:
        """The node of the prepared volume, or None before it was shown."""
        return self._prepared.node if self._prepared else None

    def complete(self) -> bool:
        """Whether all nodes are still in the scene."""
        return self._nodes.complete()

    def place(self, world: WorldGrid, plan: Plan, box: Box) -> None:
        """Draw the bases of ``world`` and the crop ``box``; cheap where only the crop is another."""
        self._bring(world, box)
        if self._world is None or not world.sameAs(self._world):
            self._world = world
            self.cells.place(world)
            self.outlines.place(world, plan)
            self.numbers.place(world)
        self.roi.place(world, box)

    def bringViews(self) -> None:
        """Bring views that have come since to the grid; never while Slicer is making them: it would crash."""
        if self.roi.world is not None and self.roi.box is not None:
            self._bring(self.roi.world, self.roi.box)

    def _bring(self, world: WorldGrid, box: Box) -> None:
        self._places.bring(world, box)
        self._cameras.bring(world)

    def fill(self, prepared: np.ndarray, channel: int, plan: Plan) -> bool:
        """Carry one channel of the prepared values (C, X, Y, Z) uint8 in a node; False where it is there already."""
        self._prepared = self._prepared or PreparedVolume(self._nodes)
        return self._prepared.fill(prepared, channel, plan)

    def present(self, shown: Shown, volumeId: str) -> None:
        """Show what ``shown`` says in all views, over the volume or, once it is there, the prepared one."""
        self.numbers.addViews()
        self.numbers.setVisible(shown.numbers)
        self.outlines.setVisible(shown.outlines)
        background = self._prepared.node.GetID() if shown.prepared and self._prepared else volumeId
        # The colours of the cells would hide those of the heat; outlines and numbers still say which is which.
        cells = self.cells.cells.GetID() if shown.cells and not shown.heat else None
        heat = self.cells.heat.GetID() if shown.heat else None
        self._layers.show(background, cells, heat, shown.opacity)

    def close(self) -> None:
        """Take all nodes out of the scene, also where not all are made; the user's own layers come back."""
        for _ in self.closing():
            pass

    def closing(self) -> Iterator[None]:
        """The same in steps. The first one lets go of the views."""
        parts = [getattr(self, name) for name in ("numbers", "roi") if hasattr(self, name)]
        views = (self._layers, self._places, self._cameras)
        for let in (*(one.restore for one in views), *(part.close for part in parts)):
            try:
                let()
            except (
                Exception
            ) as error:  # a view that cannot be given back must not keep the nodes in the scene
                logging.error("VoCo: unexpected error", exc_info=error)
        yield
        yield from self._nodes.removing()


class SceneEvents:
    """Observers on a scene and some volumes, all of them gone after `close`."""

    def __init__(self, scene: Any, volumes: Sequence[Any], actions: dict[str, Callable[[], None]]) -> None:
        """Actions are bound methods: ``volume`` (image, place or transform of one changed), ``views`` (a slice view
        came), ``removed`` (some node), ``closing`` (the scene)."""
        self._viewsCame = weakly(actions["views"])
        self._observed: list[tuple[Any, int]] = []
        for event, name in (
            (scene.NodeRemovedEvent, "removed"),
            (scene.StartCloseEvent, "closing"),
        ):
            self._observe(scene, event, _plain(actions[name]))
        self._observe(scene, scene.NodeAddedEvent, vtk.calldata_type(vtk.VTK_OBJECT)(weakly(self._added)))
        for volume in volumes:
            for event in (
                vtk.vtkCommand.ModifiedEvent,
                slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent,
                slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
            ):
                self._observe(volume, event, _plain(actions["volume"]))

    def close(self) -> None:
        """Stop listening."""
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed.clear()

    def _observe(self, node: Any, event: int, callback: Any) -> None:
        self._observed.append((node, node.AddObserver(event, callback)))

    def _added(self, _scene: Any, _event: str, node: Any) -> None:
        if node.IsA(COMPOSITE) or node.IsA("vtkMRMLSliceNode"):
            self._viewsCame()


def _plain(method: Callable[[], None]) -> Callable[..., None]:
    """``method`` without the caller and the event that VTK tells."""
    call = weakly(method)
    return lambda *_: call()
