"""Predict volumes of the scene: export what must be, ``voco predict`` in the background, results into the scene.

`PredictJob.poll` does a little work at each call: a window calls it by a timer, a script by `PredictJob.wait`.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from VoCoCore.errors import DataError, VocoError
from VoCoSlicerLib.channels import channelNames, differ
from VoCoSlicerLib.logic_steps import ENDED, Progress, Steps
from VoCoSlicerLib.model_info import ModelInfo, readModel
from VoCoSlicerLib.threads import begin, giveTurn
from VoCoSlicerLib.titles import titleOf

PREDICTING, ADDING = "predicting", "adding"
_COUNTED = re.compile(r"predicting[^0-9]*(\d+) ?(?:/|of) ?(\d+)\s*(.*)")
_LEFT_OUT = "left out {}: "


class PredictJob(Steps):
    """The way from volumes to results. ``groups``: the nodes of each case, one or (channels) several; a node alone is a
    case. ``output``: a new folder for what is predicted. ``device``: auto, cpu, cuda or mps.

    Afterwards: ``segmentations``, ``probabilityNodes`` and ``tables`` (nodes), ``failed`` {case: reason}, ``warnings``,
    ``exitCode``. ``show3d``: make surfaces, which takes a second for each large volume.
    Raises DataError for a model that cannot be used or takes another number of images.
    """

    what = "the prediction"

    def __init__(
        self,
        logic: Any,
        model: str | Path,
        groups: Sequence[Any],
        output: str | Path,
        *,
        mirror: bool = False,
        largest: bool = False,
        probabilities: bool = False,
        device: str = "auto",
        python: str | None = None,
        show3d: bool = True,
    ) -> None:
        super().__init__()
        self.model = readModel(model)
        self.groups = [list(group) if isinstance(group, list | tuple) else [group] for group in groups]
        self.output = Path(os.path.abspath(os.path.expanduser(output)))
        self._check()
        self._logic, self._python = logic, python
        self._probabilities, self._show3d = probabilities, show3d
        self._options = ["--device", device, "--format", "nii.gz"]
        self._options += ["--mirror"] * mirror + ["--largest"] * largest
        self._options += ["--probabilities"] * probabilities
        self.segmentations: list[Any] = []
        self.tables: list[Any] = []
        self.probabilityNodes: list[Any] = []
        self.failed: dict[str, str] = {}
        self.exitCode = 0
        self.log = ""
        self._task: Any = None
        self._hash = ""
        self._cases: dict[str, tuple[tuple[str, ...], list[Any]]] = {}  # id: those of its volumes, and these
        self._load: Any = None

    def start(self) -> PredictJob:
        """Begin, and return itself; `poll` goes on."""
        from VoCoSlicerLib.snapshots import SceneCase

        cases = [SceneCase(volumeIds=tuple(node.GetID() for node in group)) for group in self.groups]
        self._beginExport(self._logic, self.output, cases)
        self._hashing = begin(self._hashWeights, "VoCo hash of weights")
        return self

    @property
    def lostWithSlicer(self) -> str:
        """The whole prediction, as long as it is under way."""
        return "" if self.finished else self.what

    def _giveUp(self) -> None:
        super()._giveUp()
        for work in (self._task, self._load):
            if work is not None:
                work.cancel()

    def wait(self, progress: Callable[[Progress], Any] | None = None) -> PredictJob:
        """Poll until it is done. Raises what went wrong, but not where single cases failed (see ``failed``)."""
        self.waitFor(progress)
        return self

    def _step(self) -> Progress:
        if self._load is not None:
            return self._awaitLoad()
        if self._task is not None:
            return self._awaitTask()
        return self._awaitExport() or self._startTask()

    def _exported(self, export: Any) -> None:
        cases = zip(export.volumesById.items(), self.groups, strict=True)
        self._cases = {name: (ids, nodes) for (name, ids), nodes in cases}

    def _startTask(self) -> Progress:
        words = ["predict", "--model", str(self.model.path), str(self._index), "-o", str(self.output)]
        self._task = self._logic.backgroundTask([*words, *self._options], self._python).start()
        return Progress(PREDICTING, 0, len(self.groups))

    def _awaitTask(self) -> Progress:
        giveTurn(self._hashing)
        state = self._task.poll()
        done, total, text = self._last.done, len(self.groups), self._last.text
        for line in state.lines:
            if match := _COUNTED.search(line):
                done, total, text = int(match[1]), int(match[2]), match[3].strip()
            else:
                self.failed |= self._leftOut(line.strip())
        if state.running or not self._hash:
            return Progress(PREDICTING, done, total, text)
        self.exitCode, self.log = int(state.exitCode or 0), self._task.log
        error = self._task.error()
        if error is not None and not (self.failed and len(self.failed) < len(self.groups)):
            raise error
        return self._startLoad()

    def _leftOut(self, line: str) -> dict[str, str]:
        """The case that ``line`` calls left out, with its reason; a name may hold colons, as of DICOM series."""
        found = [name for name in self._cases if line.startswith(_LEFT_OUT.format(name))]
        return {name: line.removeprefix(_LEFT_OUT.format(name)) for name in sorted(found, key=len)[-1:]}

    def _startLoad(self) -> Progress:
        from VoCoSlicerLib.results_load import PredictionLoad
        from VoCoSlicerLib.volumes import isStillThere

        there = {}
        for name, (ids, nodes) in self._cases.items():
            if not isStillThere(self._logic.scene, nodes[0]):
                self.warnings.append(f"{name} is no longer in the scene; its result is in {self.output}")
            elif name not in self.failed:
                there[name] = ids
        if not there:
            return Progress(ENDED, finished=True)
        self._load = PredictionLoad(
            self._logic.scene,
            self.output,
            there,
            self.provenance(),
            predicted=list(self._cases),
            probabilities=self._probabilities,
            show3d=self._show3d,
        )
        self._load.start()
        return Progress(ADDING, 0, len(there))

    def _awaitLoad(self) -> Progress:
        now, load = self._load.poll(), self._load
        if not now.finished:
            return Progress(ADDING, now.done, now.total, now.text)
        self.segmentations, self.tables = load.segmentations, load.tables
        self.probabilityNodes = load.probabilityNodes
        self.warnings += load.warnings
        self.failed |= load.failed
        if now.error is not None:
            raise now.error
        return Progress(ENDED, finished=True)

    def provenance(self) -> dict[str, str]:
        """What is written onto each result: run, hash of its weights, date, model."""
        task = f"{self.model.task}, {self.model.encoder}"
        when = time.strftime("%Y-%m-%d %H:%M")
        return {"run": str(self.model.path), "weightsHash": self._hash, "date": when, "model": task}

    def _end(self, error: VocoError | None) -> None:
        if error is not None:
            self.exitCode = error.exit_code
            self.log = self._task.log if self._task is not None else ""
        super()._end(error)

    def _hashWeights(self) -> None:
        digest = hashlib.sha256()
        try:
            for path in self.model.files:
                with open(path, "rb") as file:
                    while block := file.read(1 << 22):
                        digest.update(block)
            self._hash = digest.hexdigest()
        except OSError:
            self._hash = "unknown"

    def _check(self) -> None:
        if not self.groups:
            raise DataError("no volume is chosen", "check at least one")
        wanted = len(self.model.channels)
        for group in self.groups:
            if len(group) != wanted:
                raise DataError(
                    f"{titleOf(group[0])}: the model takes {wanted} images of a case "
                    f"({', '.join(self.model.channels)}), not {len(group)}",
                    "choose another model, or group the channels of each case",
                )
            if fault := otherImages(self.model, group):
                raise DataError(fault, "choose another model, or give the images in the model's order")


def otherImages(model: ModelInfo, group: Sequence[Any]) -> str:
    """What is wrong with a case (its nodes, in order) whose names tell other images than the model's; or empty."""
    names = channelNames([node.GetName() or "" for node in group])
    if not differ(model.channels, names):
        return ""
    return f"{titleOf(group[0])}: the model takes {', '.join(model.channels)}, not {', '.join(names)}"
