"""The choice of a label whose probabilities lie over the volumes in the slice views."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from VoCoSlicerLib import adapter, overlays


class OverlayBox:
    """Drives a combo box: a label chosen stays so while views come to show other volumes, each with its own map."""

    def __init__(self, combo: Any, logic: Any) -> None:
        self._combo, self._logic = combo, logic
        self._labels: list[str] | None = None
        self._label, self._shown = (
            "",
            "",
        )  # what is chosen, and what the views showed when they were last looked at
        self._seen: tuple[str | None, ...] = ()
        self._watches: dict[str, adapter.Observed] = {}
        self._busy = False
        adapter.connect(combo, "currentIndexChanged(int)", self._onChosen)

    def show(self) -> None:
        """Offer the labels that the scene has now."""
        scene = self._logic.scene
        for view in overlays.viewNodes(scene):
            if view.GetID() not in self._watches:
                self._watches[view.GetID()] = adapter.Observed(self._onView)
                self._watches[view.GetID()].follow(view)
        labels = overlays.overlayLabels(scene)
        if self._label not in labels:
            self._label = ""
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

    def _onChosen(self, index: int) -> None:
        labels = self._labels or []
        self._label = labels[index - 1] if 0 < index <= len(labels) else ""
        self._apply(bring=True)
        self.show()

    def _onView(self) -> None:
        """A view has changed: with another volume in it our overlay follows, with another overlay our choice does."""
        if self._busy:
            return
        shown = overlays.shownOverlay(self._logic.scene)
        if self._label and self._seen != overlays.seenVolumes(self._logic.scene):
            self._apply(bring=False)
        elif shown != self._shown:
            self._label = self._shown = shown
            self.show()

    def _apply(self, *, bring: bool) -> None:
        self._busy = True
        try:
            self._logic.showOverlay(self._label, bring=bring)
        finally:
            self._busy = False
        self._seen = overlays.seenVolumes(self._logic.scene)
        self._shown = overlays.shownOverlay(self._logic.scene)
