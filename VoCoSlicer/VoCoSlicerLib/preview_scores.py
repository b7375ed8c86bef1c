"""What a pre-trained run says of the crop in the preview: asked of a process of its own, since it takes torch."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from VoCoCore.errors import EnvironmentFault, SettingsError, VocoError
from VoCoCore.geometry import Box
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.settings import PretrainSettings
from VoCoSlicerLib.core import coreFolder
from VoCoSlicerLib.preview_grid import WorldGrid
from VoCoSlicerLib.threads import asVocoError

SCRIPT = "score_crop.py"


def runSettings(run: str | Path) -> PretrainSettings:
    """The settings of a pre-training run, for the preview to show its own crops.

    Raises SettingsError for a folder that is no such run.
    """
    found = RunDirectory(run).read_settings()
    try:
        settings = PretrainSettings.from_dict(found)
    except SettingsError:
        raise SettingsError(f"{Path(run).name} is no pre-training", "choose a run of that kind") from None
    if not (settings.crops.volume_size and settings.crops.random_size):
        raise SettingsError(f"{Path(run).name} has settings that are not whole", "choose another run")
    return settings


class CropScores:
    """One question at a time: `start`, then `poll` until it is False; then there is a `step`, an `error` or neither.

    With a step the preview has the answer; without both the crop was moved or taken down, or the volume
    changed, before it came.
    ``environment`` knows the Python of the jobs (`environment.Environment`).
    """

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._run: Path | None = None
        self._task: Any = None
        self._of: tuple[WorldGrid | None, Box] | None = None  # what was asked of
        self._folder: Path | None = None
        self.error: VocoError | None = None
        self.step: int | None = None  # of the checkpoint whose answer the preview has

    @property
    def running(self) -> bool:
        """Whether an answer is on its way."""
        return self._run is not None

    def start(self, run: str | Path) -> None:
        """Ask ``run`` of the crop where it is now; an older question is given up."""
        self.cancel()
        self._run, self.error, self.step = Path(run), None, None

    def poll(self, preview: Any) -> bool:
        """Go on with the question; gives the answer to ``preview`` if the crop is still where it was. False: done."""
        if self._run is None:
            return False
        if preview.box is None and not preview.busy:  # switched off, or a volume that cannot be cut
            self.cancel()
            return False
        try:
            if self._task is None:
                self._ask(preview)
            elif not self._task.poll().running:
                self._answer(preview)
        except Exception as error:  # a timer has nobody to raise to
            self.cancel()
            self.error = asVocoError(error, "the question")
        return self.running

    def cancel(self) -> None:
        """Give the question up."""
        task, folder = self._task, self._folder
        self._run = self._task = self._of = self._folder = None
        if task is not None:
            task.cancel()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _ask(self, preview: Any) -> None:
        region = preview.region()
        if region is None or preview.box is None:
            return
        box = preview.box
        self._of = preview.world, box
        room = np.subtract(region.shape[1:], box.size)
        start = np.clip(np.rint(box.start), 0, room).astype(int)  # the network cuts whole voxels
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="voco-crop-"))
            np.save(self._folder / "region.npy", np.ascontiguousarray(region))
        except OSError as error:
            raise EnvironmentFault(f"cannot write the crop: {error}", "free space on this disk") from None
        self._task = self._environment.script(
            SCRIPT, coreFolder(), self._run, self._folder / "region.npy", ",".join(map(str, start))
        )
        self._task.start()

    def _answer(self, preview: Any) -> None:
        if error := self._task.error():
            raise error
        try:
            found = json.loads(self._task.result().strip().splitlines()[-1])
            values = {name: np.asarray(found[name], float) for name in ("predicted", "similarity")}
            step = int(found["step"])
        except (ValueError, IndexError, KeyError, TypeError):
            raise VocoError("the run's answer cannot be read", "look at the section Environment") from None
        assert self._of is not None
        # By the very grid: another volume, or the same one filtered, may have a crop in the same place.
        isSame = preview.world is self._of[0] and preview.box == self._of[1]
        if isSame and all(value.shape == preview.labels.shape for value in values.values()):
            preview.setPredicted(values["predicted"])
            preview.setSimilarity(values["similarity"])
            self.step = step
        self.cancel()
