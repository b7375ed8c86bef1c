"""The choice of a label whose probabilities lie over the volumes in the slice views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from VoCoSlicerLib import adapter, overlays
from VoCoSlicerLib.preview_layers import isPreviewed

_NEW = overlays.Look("", "")  # a view that nobody has looked at


class OverlayBox:
    """Drives a combo box: a label chosen stays so while views come to show other volumes, each with its own map."""

    def __init__(self, combo: Any, logic: Any) -> None:
        self._combo, self._logic = combo, logic
        self._labels: list[str] | None = None
        self._label = ""  # what is chosen
        self._seen: dict[str, overlays.Look] = {}  # by view
        self._watches: dict[str, adapter.Observed] = {}
        self._busy = False
        self._gone = adapter.Observed(self._onRemoved, slicer.vtkMRMLScene.NodeRemovedEvent)
        self._gone.follow(logic.scene)
        adapter.connect(combo, "currentIndexChanged(int)", self._onChosen)

    def show(self) -> None:
        """Offer the labels that the scene has now; new maps come into the views that they belong to."""
        scene = self._logic.scene
        for view in overlays.viewNodes(scene):
            if view.GetID() not in self._watches:
                self._watches[view.GetID()] = adapter.Observed(self._onView)
                self._watches[view.GetID()].follow(view)
        labels = overlays.overlayLabels(scene)
        if self._label not in labels:
            self._label = ""
        if not isPreviewed(scene):
            self._catchUp(labels)
        with adapter.blocked(self._combo):
            if labels != self._labels:
                self._labels = labels
                self._combo.clear()
                self._combo.addItems([_("none"), *labels])
            self._combo.setCurrentIndex(labels.index(self._label) + 1 if self._label else 0)
        self._combo.setEnabled(bool(labels))

    def cleanup(self) -> None:
        """Observe nothing any more."""
        for watch in self._watches.values():
            watch.follow(None)
        self._watches.clear()
        self._gone.follow(None)

    def _onChosen(self, index: int) -> None:
        labels = self._labels or []
        self._label = labels[index - 1] if 0 < index <= len(labels) else ""
        scene, layouts = self._logic.scene, slicer.app.layoutManager()
        before = overlays.volumesBelow(scene)
        self._change(lambda: self._logic.showOverlay(self._label))
        if layouts is not None and before != overlays.volumesBelow(scene):
            layouts.resetSliceViews()  # the volume brought may lie outside of what they show
        self.show()

    def _onRemoved(self) -> None:
        """A node has gone, maybe the last map of a label; of a scene that is closed the panel is told at the end."""
        scene = self._logic.scene
        if self._labels and not scene.IsBatchProcessing() and self._labels != overlays.overlayLabels(scene):
            self.show()

    def _onView(self) -> None:
        """A view has changed, maybe in nothing that matters here; the preview gives back what it covers."""
        if not self._busy and not isPreviewed(self._logic.scene) and self._seen != self._look():
            self.show()

    def _catchUp(self, labels: list[str]) -> None:
        """Our overlay follows to where another map belongs now; where others have changed overlays our choice does."""
        scene, before, now = self._logic.scene, self._seen, self._look()
        due = [view for view in now if now[view].belongs != before.get(view, _NEW).belongs]
        byOthers = any(now[view].shown != before.get(view, _NEW).shown for view in now)
        if self._label and due:
            self._change(lambda: overlays.followOverlay(scene, self._label, due))
        if byOthers or not self._label:
            shown = overlays.shownOverlay(scene)
            self._label = shown if shown in labels else ""
        self._seen = self._look()

    def _change(self, views: Callable[[], None]) -> None:
        self._busy = True
        try:
            views()
        finally:
            self._busy = False
        self._seen = self._look()

    def _look(self) -> dict[str, overlays.Look]:
        return overlays.lookAt(self._logic.scene, self._label)
