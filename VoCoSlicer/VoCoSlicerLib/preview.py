"""The crop preview: what the trainer would cut from a volume of the scene, drawn over it and kept in step with it.

No Qt here. Finding the foreground box takes seconds for a large volume and happens in a thread: `show` returns at
once, and `poll`, called now and then while `busy`, puts the overlay up when it is ready (`wait` does so in scripts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from VoCoCore.data.plan import Plan
from VoCoCore.errors import VocoError
from VoCoCore.geometry import Box
from VoCoCore.settings import PretrainSettings
from VoCoSlicerLib.logic_cases import nodesOf
from VoCoSlicerLib.preview_grid import WorldGrid
from VoCoSlicerLib.preview_plan import PrepareRequest
from VoCoSlicerLib.preview_scene import PreviewScene
from VoCoSlicerLib.preview_step import PreviewInStep

LARGEST_SAMPLE = 2**32 - 1
HEATS = ("labels", "predicted", "similarity")


class CropPreview(PreviewInStep):
    """Draws the base crops of a volume and one random crop that can be dragged.

    ``labelsChanged`` fires when the crop, the grid or a prediction is another; ``changed`` for everything else that a
    panel shows (on or off, message, sample).
    """

    # --- what to show -------------------------------------------------------------------------------------------

    def setVolume(self, node: Any, case: Sequence[Any] = ()) -> None:
        """Choose the volume to cut: a scalar volume node of the scene, or None.

        ``case``: the nodes of all channels of its case, in order, which are cut together (empty: it is alone).
        Raises SettingsError for a node that is not in the scene.
        """
        channels = nodesOf(self._scene, case or [node]) if node is not None else []
        volumeId = node.GetID() if node is not None else ""
        caseIds = tuple(channel.GetID() for channel in channels)
        if (volumeId, caseIds) != (self._volumeId, self._caseIds):
            self._takeDown()
            self._volumeId, self._caseIds = volumeId, caseIds
            self._observe()
            self._refresh()

    def setSettings(self, settings: PretrainSettings) -> None:
        """Take the resolved settings of a pre-training; recipe, prepare, crops and seed matter here."""
        if settings != self._settings:
            self._settings = settings
            self._crop = min(self._crop, settings.crops.random_crops - 1)
            self._redraw()

    def setSample(self, number: int, crop: int = 0) -> None:
        """Show random crop ``crop`` (from 0) of sample ``number`` (from 0), as the trainer draws it with this seed."""
        crop = min(max(int(crop), 0), self._settings.crops.random_crops - 1)
        self._sample, self._crop = min(max(int(number), 0), LARGEST_SAMPLE), crop
        self._redraw()

    def nextRandomCrop(self) -> None:
        """Go to the next random crop that the trainer would draw: of this sample, then of the next."""
        if self._crop + 1 < self._settings.crops.random_crops:
            self.setSample(self._sample, self._crop + 1)
        else:
            self.setSample(self._sample + 1)

    def moveCrop(self, start: tuple[float, float, float]) -> None:
        """Put the crop's first corner at ``start``, voxels of the grid's index space; kept inside the grid."""
        if self._nodes is not None and self._placed is not None:
            self._nodes.roi.place(self._placed.world, Box(start, self._placed.world.cropSize))

    # --- how to show it -----------------------------------------------------------------------------------------

    def present(self, **parts: Any) -> None:
        """Show or hide parts by name, as in `Shown`: cells, outlines, numbers, heat, prepared; opacity is 0 to 1.

        The prepared volume is made in a thread: it may take a few seconds to appear.
        """
        if "opacity" in parts:
            parts["opacity"] = min(max(float(parts["opacity"]), 0.0), 1.0)
        self._shown = replace(self._shown, **parts)
        self._refresh()
        if self._nodes is not None:
            self._drawHeat()
            self._nodes.present(self._shown, self._volumeId)

    def setHeat(self, what: str) -> None:
        """What the heat stands for: ``labels`` (y), ``predicted`` or ``similarity``."""
        if what not in HEATS:
            raise ValueError(f"heat is one of {', '.join(HEATS)}, not {what!r}")
        self._heat = what
        self._drawHeat()

    def setPredicted(self, values: Any) -> None:
        """Logits l (n,) that a run predicts for this crop, or None; moving the crop makes them void."""
        self._setScores("predicted", values)

    def setSimilarity(self, values: Any) -> None:
        """Cosine similarity (n,) of this crop to every base crop, or None; moving the crop makes them void."""
        self._setScores("similarity", values)

    # --- what there is ------------------------------------------------------------------------------------------

    @property
    def settings(self) -> PretrainSettings:
        """The settings that are previewed."""
        return self._settings

    @property
    def sample(self) -> int:
        """Number of the sample that is shown, from 0."""
        return self._sample

    @property
    def crop(self) -> int:
        """Which random crop of the sample is shown, from 0."""
        return self._crop

    @property
    def roiNode(self) -> Any:
        """The markups ROI that is the random crop, or None while nothing is up."""
        return self._nodes.roi.node if self._nodes else None

    @property
    def nodes(self) -> PreviewScene | None:
        """The nodes of the overlay, or None while nothing is up."""
        return self._nodes

    @property
    def box(self) -> Box | None:
        """The random crop in the grid's index space, or None while nothing is up."""
        return self._nodes.roi.box if self._nodes else None

    @property
    def world(self) -> WorldGrid | None:
        """The grid that is drawn, or None while nothing is up."""
        return self._placed.world if self._placed else None

    @property
    def plan(self) -> Plan | None:
        """How the volume would be prepared, or None while nothing is up."""
        return self._placed.plan if self._placed else None

    @property
    def labels(self) -> np.ndarray:
        """Position labels y (n,) float64 of the crop; empty while nothing is up."""
        return self._labels

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """``predicted`` and ``similarity`` (n,) of this very crop, where they were set."""
        return dict(self._scores)

    @property
    def error(self) -> VocoError | None:
        """Why the volume cannot be cut, with a hint, or None."""
        return self._error

    def region(self) -> np.ndarray | None:
        """The prepared values (C, X, Y, Z) uint8 that the grid divides, 255 for 1; None while a thread makes them.

        Raises DataError where they cannot be made.
        """
        if self._placed is None:
            return None
        values = self._prepared.ask(
            PrepareRequest(self._placed.request.key, self._placed.request, self._placed.plan)
        )
        if isinstance(values, VocoError):
            raise values
        if values is None:
            self._prepared.turn()
        world = self._placed.world
        cut = tuple(
            slice(low, low + edge) for low, edge in zip(world.first, world.grid.volume_size, strict=True)
        )
        return None if values is None else values[(slice(None), *cut)]
