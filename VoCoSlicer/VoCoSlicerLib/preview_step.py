"""Keeping the preview in step with its volume, the scene and the threads: the machinery behind `CropPreview`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from VoCoCore.data.plan import Plan
from VoCoCore.errors import VocoError
from VoCoCore.presets import resolve_pretrain
from VoCoSlicerLib.preview_grid import WorldGrid, worldGrid
from VoCoSlicerLib.preview_nodes import advance, renderedOnce
from VoCoSlicerLib.preview_plan import Background, PrepareRequest, planOf, preparedOf, requestOf
from VoCoSlicerLib.preview_scene import PreviewScene, SceneEvents, Shown
from VoCoSlicerLib.signals import Signal
from VoCoSlicerLib.threads import asVocoError


@dataclass(frozen=True)
class _Placed:
    """What is drawn now: the key of all that it was made from, the request, its plan, and the grid of the sample."""

    key: Any
    request: Any
    plan: Plan
    world: WorldGrid


@dataclass(frozen=True)
class _Building:
    """Nodes that are being made, for what is to be drawn, and the steps that are left."""

    placed: _Placed
    nodes: PreviewScene
    steps: Iterator[None]


class PreviewInStep:
    """What is chosen, what is drawn, and every way in which the one has to follow the other."""

    def __init__(self, scene: Any = None) -> None:
        self._scene = scene or slicer.mrmlScene
        self.labelsChanged, self.changed = Signal(), Signal()
        self._settings = resolve_pretrain()
        self._volumeId = ""
        self._caseIds: tuple[str, ...] = ()
        self._sample, self._crop, self._on = 0, 0, False
        self._shown, self._heat = Shown(), "labels"
        self._scores: dict[str, np.ndarray] = {}
        self._plans, self._prepared = Background(planOf), Background(preparedOf, kept=1)
        self._waiting = False  # for a thread: its result is in only once `_refresh` has taken it
        self._placed: _Placed | None = None
        self._building: _Building | None = None
        self._leaving: Iterator[None] | None = None  # the steps by which nodes leave the scene
        self._nodes: PreviewScene | None = None
        self._labels = np.zeros(0)
        self._error: VocoError | None = None
        self._events: SceneEvents | None = None

    @property
    def shown(self) -> bool:
        """Whether the preview is on (its nodes may still be on their way)."""
        return self._on

    @property
    def ready(self) -> bool:
        """Whether the overlay is up and belongs to the choices made."""
        return self._placed is not None and not self.busy

    @property
    def busy(self) -> bool:
        """Whether a thread is at work for this preview, a view has come or nodes leave; call `poll` until it is not."""
        return self._waiting or self._leaving is not None

    @property
    def volume(self) -> Any:
        """The chosen volume node, or None."""
        return self._scene.GetNodeByID(self._volumeId) if self._volumeId else None

    @property
    def channels(self) -> list[Any]:
        """The nodes of all channels of the chosen volume's case that there still are, in order."""
        found = [self._scene.GetNodeByID(nodeId) for nodeId in self._caseIds]
        return [node for node in found if node is not None]

    def show(self) -> None:
        """Put the overlay up, as soon as the volume has been looked at."""
        if not self._on:
            self._seeOff()
            self._on = True
            self._observe()
            self._refresh()
            self.changed.emit()

    def hide(self, gently: bool = False) -> None:
        """Take everything down; the user's own layers come back.

        ``gently``: what Slicer takes a while for is left to `poll`, step by step.
        """
        if self._on:
            self._on, self._waiting = False, False
            self._observe()
            self._takeDown(gently)
            self._error = None
            self.changed.emit()
        elif not gently and self._leaving is not None:  # nobody may poll any more: the module is left, say
            with renderedOnce():
                self._seeOff()

    def poll(self) -> bool:
        """Put up what a thread has finished since, and take down what is to go; True while there is more to come."""
        if self._leaving is not None:
            with renderedOnce():
                if advance(self._leaving):
                    self._leaving = None
        if self._on:
            for background in (self._plans, self._prepared):
                background.turn()
            self._refresh()
            if self._nodes is not None:
                self._attempt(self._nodes.bringViews)
        return self.busy

    def wait(self, timeout: float = 600.0) -> None:
        """Wait until the overlay is up, at most ``timeout`` seconds; for scripts, never for a GUI."""
        until = time.monotonic() + timeout
        while self.poll() and time.monotonic() < until:
            for background in (self._plans, self._prepared):
                background.wait(max(0.0, until - time.monotonic()))

    def cleanup(self) -> None:
        """Take everything down and let go of all nodes and threads' results."""
        self.hide()
        self._seeOff()
        self._plans.forget()
        self._prepared.forget()

    def _redraw(self) -> None:
        """Draw the trainer's own crop of the choices made, in place of one that was dragged."""
        self._placed = None
        self._refresh()
        self.changed.emit()

    def _refresh(self) -> None:
        before = self._error, self._waiting
        volume, self._waiting = self.volume, False
        if not self._on or volume is None:
            return
        self._attempt(self._follow)
        if (self._error, self._waiting) != before:
            self.changed.emit()  # who polls has to know that there is something to wait for

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do ``work``; where it fails, say why and leave nothing half made: a timer has nobody to raise to."""
        try:
            work()
        except Exception as error:
            self._error, self._waiting = asVocoError(error, "the preview"), False
            self._takeDown()

    def _follow(self) -> None:
        request = requestOf(self.channels, self._settings)
        plan = self._plans.ask(request)
        if isinstance(plan, VocoError):
            raise plan
        self._error, self._waiting = None, plan is None
        if plan is not None:
            self._place(request, plan)

    def _place(self, request: Any, plan: Plan) -> None:
        key = (request.key, self._settings, self._sample, self._crop)
        if self._placed is None or self._placed.key != key:
            placed = self._building and self._building.placed
            if placed is None or placed.key != key:
                placed = _Placed(key, request, plan, worldGrid(plan, self._settings, self._sample))
            with renderedOnce():
                if self._nodes is None and not self._built(placed):
                    self._waiting = True
                    return
                assert self._nodes is not None
                # Only the volume changed: a crop that was dragged stays where it is in the grid.
                kept = self.box if self._placed is not None else None
                self._placed = placed
                self._nodes.place(placed.world, plan, kept or placed.world.drawn[self._crop])
                self._nodes.present(self._shown, self._volumeId)
            self.changed.emit()
        if self._shown.prepared:
            self._fill(request, plan)

    def _built(self, placed: _Placed) -> bool:
        """Go on by a step with making the nodes; whether all are made."""
        if self._building is None or self._building.placed is not placed:
            self._takeDown()
            nodes = PreviewScene(self._scene, self._moved)
            self._building = _Building(placed, nodes, nodes.build(placed.world, placed.plan))
        if not advance(self._building.steps):
            return False
        self._building, self._nodes = None, self._building.nodes
        return True

    @property
    def _half(self) -> PreviewScene | None:
        """The nodes that are being made."""
        return self._building.nodes if self._building is not None else None

    def _fill(self, request: Any, plan: Plan) -> None:
        values = self._prepared.ask(PrepareRequest(request.key, request, plan))
        if isinstance(values, VocoError):
            raise values
        assert self._nodes is not None
        self._waiting = values is None
        ids = [node.GetID() for node in self.channels]
        channel = ids.index(self._volumeId) if self._volumeId in ids else 0
        if values is not None and self._nodes.fill(values, channel, plan):
            self._nodes.present(self._shown, self._volumeId)

    def _moved(self) -> None:
        assert self._nodes is not None and self._nodes.roi.world and self._nodes.roi.box
        self._labels = self._nodes.roi.world.labels(self._nodes.roi.box)
        self._scores.clear()
        self._drawHeat()
        self.labelsChanged.emit()

    def _setScores(self, name: str, values: Any) -> None:
        self._scores.pop(name, None)
        if values is not None:
            found = np.asarray(values, float).ravel()
            if found.shape != self._labels.shape:
                raise ValueError(
                    f"{name} needs {len(self._labels)} values, one a base crop, not {found.size}"
                )
            self._scores[name] = found
        self._drawHeat()
        self.labelsChanged.emit()

    def _drawHeat(self) -> None:
        if self._nodes is None or not self._shown.heat:
            return
        values = self._labels if self._heat == "labels" else self._scores.get(self._heat)
        # Logits and cosines may be negative: their scale begins where they do.
        empty = np.zeros(len(self._labels))
        low = 0.0 if values is None else min(0.0, float(values.min()))
        self._nodes.cells.setHeat(empty if values is None else values, (low, 1.0))

    def _takeDown(self, gently: bool = False) -> None:
        wasUp, nodes = self._nodes is not None, self._nodes or self._half
        self._nodes = self._placed = self._building = None
        with renderedOnce():
            self._seeOff()
            if nodes is not None:
                self._leaving = nodes.closing()
                next(self._leaving)
            if not gently:
                self._seeOff()
        if wasUp:
            self._labels = np.zeros(0)
            self._scores.clear()
            self.labelsChanged.emit()

    def _seeOff(self) -> None:
        """Take down at once what is still leaving."""
        for _ in self._leaving or ():
            pass
        self._leaving = None

    def _observe(self) -> None:
        """Listen to the scene and the volume while the preview is on, and never else."""
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._on:
            actions = {
                "volume": self._refresh,
                "views": self._viewsCame,
                "removed": self._nodeRemoved,
                "closing": self.hide,
            }
            self._events = SceneEvents(self._scene, self.channels, actions)

    def _viewsCame(self) -> None:
        if self._nodes is not None:
            self._nodes.present(self._shown, self._volumeId)
            self._waiting = True  # until the next poll, which brings the view to the grid
            self.changed.emit()

    def _nodeRemoved(self) -> None:
        if self._volumeId and self.volume is None:
            self._volumeId = ""
            self.hide()
        elif any(nodes is not None and not nodes.complete() for nodes in (self._nodes, self._half)):
            self.hide()  # somebody deleted a part of it
        elif len(self.channels) < len(self._caseIds):
            self._caseIds = tuple(node.GetID() for node in self.channels)
            self._observe()
            self._refresh()
