"""What the slice views show while the preview is on; the user's own layers and opacities come back afterwards."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from VoCoSlicerLib.preview_nodes import nodesByClass

COMPOSITE = "vtkMRMLSliceCompositeNode"


@dataclass(frozen=True)
class Layers:
    """Volumes by node ID (None: the layer is empty) and opacities (0 to 1) of one slice view."""

    background: str | None
    foreground: str | None
    label: str | None
    foregroundOpacity: float
    labelOpacity: float


def layersOf(composite: Any) -> Layers:
    """What a slice composite node shows now."""
    return Layers(
        composite.GetBackgroundVolumeID() or None,
        composite.GetForegroundVolumeID() or None,
        composite.GetLabelVolumeID() or None,
        composite.GetForegroundOpacity(),
        composite.GetLabelOpacity(),
    )


class SliceLayers:
    """Puts the preview's volumes into all slice views, and takes back only what it put there."""

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        self._own: dict[str, Layers] = {}  # the user's, by composite node
        self._set: dict[str, Layers] = {}  # as the preview left them
        self._wanted: dict[str, dict[str, Any]] = {}

    def show(self, background: str, cells: str | None, heat: str | None, opacity: float) -> None:
        """Show ``background`` with ``cells`` as label and ``heat`` as foreground, where they are given.

        A layer that the user has changed since stays his, until the preview wants something else there.
        """
        wanted = {
            "background": background,
            "foreground": heat,
            "label": cells,
            "foregroundOpacity": opacity if heat else None,
            "labelOpacity": opacity if cells else None,
        }
        for composite in nodesByClass(self._scene, COMPOSITE):
            self._showIn(composite, wanted)

    def restore(self) -> None:
        """Give every view back the layers that its user had chosen."""
        for nodeId, own in self._own.items():
            composite = self._scene.GetNodeByID(nodeId)
            if composite is not None:
                _write(composite, self._alive(replace(own, **self._changedByUser(composite))))
        self.forget()

    def forget(self) -> None:
        """Forget what was remembered, without touching the views (they are gone)."""
        for kept in (self._own, self._set, self._wanted):
            kept.clear()

    def _showIn(self, composite: Any, wanted: dict[str, Any]) -> None:
        nodeId = composite.GetID()
        changed = self._changedByUser(composite) if nodeId in self._own else {}
        own = replace(self._own.get(nodeId) or layersOf(composite), **changed)
        before = self._wanted.get(nodeId, {})
        ours = {
            name: value
            for name, value in wanted.items()
            if value is not None and not (name in changed and before.get(name) == value)
        }
        self._own[nodeId], self._wanted[nodeId] = own, wanted
        self._set[nodeId] = replace(self._alive(own), **ours)
        _write(composite, self._set[nodeId])

    def _changedByUser(self, composite: Any) -> dict[str, Any]:
        """The layers and opacities that are no longer as the preview left them."""
        now, left = asdict(layersOf(composite)), asdict(self._set[composite.GetID()])
        return {name: value for name, value in now.items() if value != left[name]}

    def _alive(self, layers: Layers) -> Layers:
        """``layers`` without volumes that have left the scene."""
        gone = {
            name: None
            for name in ("background", "foreground", "label")
            if getattr(layers, name) and self._scene.GetNodeByID(getattr(layers, name)) is None
        }
        return replace(layers, **gone)


def _write(composite: Any, layers: Layers) -> None:
    blocked = composite.StartModify()
    composite.SetBackgroundVolumeID(layers.background)
    composite.SetForegroundVolumeID(layers.foreground)
    composite.SetLabelVolumeID(layers.label)
    composite.SetForegroundOpacity(layers.foregroundOpacity)
    composite.SetLabelOpacity(layers.labelOpacity)
    composite.EndModify(blocked)
