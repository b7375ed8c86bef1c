"""What the slice views show while the preview is on; the user's own layers and opacities come back afterwards.

Slicer tells nobody that it is about to save a scene. So the user's layers are also noted on the views' own nodes, and a
scene that was saved meanwhile gets them back when it is loaded (`restoreSaved`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from VoCoSlicerLib.overlays import isOfAnother, viewNodes

_NOTE = "VoCo.own"  # attribute with the user's opacities, and how the references to his volumes begin
_VOLUMES = ("background", "foreground", "label")


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
        Probabilities of another volume are hidden meanwhile: they would be taken for those of ``background``.
        """
        wanted = {
            "background": background,
            "foreground": heat,
            "label": cells,
            "foregroundOpacity": opacity if heat else None,
            "labelOpacity": opacity if cells else None,
        }
        for composite in viewNodes(self._scene):
            self._showIn(composite, wanted)

    def restore(self) -> None:
        """Give every view back the layers that its user had chosen."""
        for nodeId, own in self._own.items():
            composite = self._scene.GetNodeByID(nodeId)
            if composite is not None:
                _write(composite, self._alive(replace(own, **self._changedByUser(composite))))
        self.forget()

    def forget(self) -> None:
        """Forget what was remembered, without touching what the views show."""
        for nodeId in self._own:
            composite = self._scene.GetNodeByID(nodeId)
            if composite is not None:
                _strike(composite)
        for kept in (self._own, self._set, self._wanted):
            kept.clear()

    def _showIn(self, composite: Any, wanted: dict[str, Any]) -> None:
        nodeId = composite.GetID()
        changed = self._changedByUser(composite) if nodeId in self._own else {}
        # Noted: another preview of this scene is up, and what the view shows is that one's.
        own = replace(self._own.get(nodeId) or _noted(composite) or layersOf(composite), **changed)
        before = self._wanted.get(nodeId, {})
        ours = {
            name: value
            for name, value in wanted.items()
            if value is not None and not (name in changed and before.get(name) == value)
        }
        if "foreground" not in ours and isOfAnother(self._scene, own.foreground, wanted["background"]):
            ours["foreground"] = None
        self._own[nodeId], self._wanted[nodeId] = own, wanted
        _note(composite, own)
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
            for name in _VOLUMES
            if getattr(layers, name) and self._scene.GetNodeByID(getattr(layers, name)) is None
        }
        return replace(layers, **gone)


def restoreSaved(scene: Any) -> None:
    """Give the views of a scene that was saved while the preview was on, and loaded now, their user's layers back."""
    for composite in viewNodes(scene):
        own = _noted(composite)
        if own is not None:
            _write(composite, own)
            _strike(composite)


def isPreviewed(scene: Any) -> bool:
    """Whether a slice view shows the preview, or gets its user's layers back right now."""
    return any(composite.GetAttribute(_NOTE) for composite in viewNodes(scene))


def _note(composite: Any, own: Layers) -> None:
    blocked = composite.StartModify()
    composite.SetAttribute(_NOTE, f"{own.foregroundOpacity} {own.labelOpacity}")
    for name in _VOLUMES:
        composite.SetNodeReferenceID(f"{_NOTE}.{name}", getattr(own, name))
    composite.EndModify(blocked)


def _noted(composite: Any) -> Layers | None:
    """The user's layers as noted on a view; None where there is no note."""
    opacities = (composite.GetAttribute(_NOTE) or "").split()
    if len(opacities) != 2:
        return None
    volumes = (composite.GetNodeReferenceID(f"{_NOTE}.{name}") for name in _VOLUMES)
    return Layers(*volumes, *map(float, opacities))


def _strike(composite: Any) -> None:
    blocked = composite.StartModify()
    composite.RemoveAttribute(_NOTE)
    for name in _VOLUMES:
        composite.RemoveNodeReferenceIDs(f"{_NOTE}.{name}")
    composite.EndModify(blocked)


def _write(composite: Any, layers: Layers) -> None:
    blocked = composite.StartModify()
    composite.SetBackgroundVolumeID(layers.background)
    composite.SetForegroundVolumeID(layers.foreground)
    composite.SetLabelVolumeID(layers.label)
    composite.SetForegroundOpacity(layers.foregroundOpacity)
    composite.SetLabelOpacity(layers.labelOpacity)
    composite.EndModify(blocked)
