"""Predict volumes of the scene: export what must be, ``voco predict`` in the background, results into the scene.

`PredictJob.poll` does a little work at each call: a window calls it by a timer, a script by `PredictJob.wait`.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from VoCoCore.errors import DataError, StopRequested, VocoError
from VoCoCore.runs.files import read_json
from VoCoSlicerLib.logic_start import ENDED, EXPORTING, PAUSE, Progress
from VoCoSlicerLib.model_info import readModel

PREDICTING, ADDING = "predicting", "adding"
_COUNTED = re.compile(r"predicting[^0-9]*(\d+) ?(?:/|of) ?(\d+)\s*(.*)")
_LEFT_OUT = re.compile(r"left out (.+?): (.+)")


class PredictJob:
    """The way from volumes to results. ``groups``: the nodes of each case, one or (channels) several; a node alone is a
    case. ``output``: a new folder for what is predicted. ``device``: auto, cpu, cuda or mps.

    Afterwards: ``segmentations`` (nodes), ``tables`` (nodes), ``failed`` {name of the volume: reason}, ``exitCode``.
    Raises DataError for a model that cannot be used or takes another number of images.
    """

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
        show: bool = True,
    ) -> None:
        self.model = readModel(model)
        self.groups = [list(group) if isinstance(group, list | tuple) else [group] for group in groups]
        self.output = Path(output).expanduser().absolute()
        self._check()
        self._logic, self._python, self._show = logic, python, show
        self._options = ["--device", device, "--format", "nii.gz"]
        self._options += ["--mirror=xyz"] * mirror + ["--largest"] * largest
        self._options += ["--probabilities"] * probabilities
        self.segmentations: list[Any] = []
        self.tables: list[Any] = []
        self.failed: dict[str, str] = {}
        self.exitCode = 0
        self.log = ""
        self._export: Any = None
        self._task: Any = None
        self._hash = ""
        self._cases: dict[str, Any] = {}  # name of the case: its first volume
        self._waiting: list[tuple[str, Any]] | None = (
            None  # files and volumes of cases whose results are not in the scene yet
        )
        self._last = Progress(EXPORTING)

    def start(self) -> PredictJob:
        """Begin, and return itself; `poll` goes on."""
        from VoCoSlicerLib.snapshots import SceneCase

        cases = [SceneCase(volumeIds=tuple(node.GetID() for node in group)) for group in self.groups]
        self._export = self._logic.makeExport(cases, self._logic.exportFolder(self.output))
        self._export.start()
        threading.Thread(target=self._hashWeights, name="hash of weights", daemon=True).start()
        return self

    def poll(self) -> Progress:
        """Go on a little, and say how far it is; never raises for what can go wrong."""
        if self._last.finished:
            return self._last
        try:
            self._last = self._step()
        except VocoError as error:
            self._end(error)
        return self._last

    def cancel(self) -> None:
        """Give up; results that are in the scene already stay."""
        if self._last.finished:
            return
        for work in (self._export, self._task):
            if work is not None:
                work.cancel()
        self._end(StopRequested("the prediction was cancelled"))

    def wait(self, progress: Callable[[Progress], Any] | None = None) -> PredictJob:
        """Poll until it is done. Raises what went wrong, but not where single cases failed (see ``failed``)."""
        while not (now := self.poll()).finished:
            if progress is not None:
                progress(now)
            time.sleep(PAUSE)
        if now.error is not None:
            raise now.error
        return self

    def _step(self) -> Progress:
        if self._waiting is not None:
            return self._addNext()
        if self._task is not None:
            return self._awaitTask()
        now = self._export.poll()
        if now.error is not None:
            raise now.error if isinstance(now.error, VocoError) else VocoError(str(now.error))
        if not now.finished:
            return Progress(EXPORTING, now.done, now.total, now.text)
        index = Path(self._export.index)
        firsts = {group[0].GetID(): group[0] for group in self.groups}
        self._cases = {name: firsts[ids[0]] for name, ids in self._export.volumesById.items()}
        self._export = None
        words = ["predict", "--model", str(self.model.path), str(index), "-o", str(self.output)]
        self._task = self._logic.backgroundTask([*words, *self._options], self._python).start()
        return Progress(PREDICTING, 0, len(self.groups))

    def _awaitTask(self) -> Progress:
        state = self._task.poll()
        done, total, text = self._last.done, len(self.groups), self._last.text
        for line in state.lines:
            if match := _COUNTED.search(line):
                done, total, text = int(match[1]), int(match[2]), match[3].strip()
            elif match := _LEFT_OUT.fullmatch(line.strip()):
                self.failed[match[1]] = match[2]
        if state.running or not self._hash:
            return Progress(PREDICTING, done, total, text)
        self.exitCode, self.log = int(state.exitCode or 0), self._task.log
        error = self._task.error()
        if error is not None and not (self.failed and len(self.failed) < len(self.groups)):
            raise error
        names = dict(zip(self._cases, fileNames(self._cases), strict=True))
        self._waiting = [(names[one], node) for one, node in self._cases.items() if one not in self.failed]
        return Progress(ADDING, 0, len(self._waiting))

    def _addNext(self) -> Progress:
        from VoCoSlicerLib import predicted

        if self._waiting:
            name, volume = self._waiting.pop(0)
            predicted.addCase(self, self._logic.scene, name, volume)
        if self._waiting:
            return Progress(ADDING, len(self.groups) - len(self._waiting), len(self.groups))
        predicted.addTables(self, self._logic.scene)
        self._end(None)
        return self._last

    def provenance(self) -> dict[str, str]:
        """What is written onto each result: run, hash of its weights, date, model."""
        task = f"{self.model.task}, {self.model.encoder}"
        when = time.strftime("%Y-%m-%d %H:%M")
        return {"run": str(self.model.path), "weightsHash": self._hash, "date": when, "model": task}

    def _end(self, error: VocoError | None) -> None:
        if error is not None:
            self.exitCode = error.exit_code
            self.log = self._task.log if self._task is not None else ""
        self._last = Progress(ENDED, text="", finished=True, error=error)

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
                    f"{group[0].GetName()}: the model takes {wanted} images of a case "
                    f"({', '.join(self.model.channels)}), not {len(group)}",
                    "choose another model, or group the channels of each case",
                )


def fileNames(names: Iterable[str]) -> list[str]:
    """What `voco predict` calls the files of cases of these names: without what file systems do not take."""
    taken: set[str] = set()
    made = []
    for name in names:
        plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
        plain = plain.lstrip(".") or "case"
        unique, number = plain, 2
        while unique.lower() in taken:
            unique, number = f"{plain}-{number}", number + 1
        taken.add(unique.lower())
        made.append(unique)
    return made


def readLabels(output: Path) -> tuple[dict[int, str], dict[int, tuple[int, int, int]]]:
    """Names and RGB colours (0 to 255) by voxel value, as prediction wrote them beside its label maps."""
    facts = read_json(output / "labels.json") or {}
    labels = {int(value): str(name) for name, value in (facts.get("labels") or {}).items()}
    colours = {name: tuple(map(int, colour)) for name, colour in (facts.get("colours") or {}).items()}
    return labels, {value: colours[name] for value, name in labels.items() if name in colours}
