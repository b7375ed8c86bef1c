"""A folder of predictions into the scene: files are read in a thread, nodes are made in small steps between polls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from VoCoCore.data.names import file_names
from VoCoCore.errors import DataError, SettingsError, StopRequested, VocoError
from VoCoSlicerLib import results_read as files
from VoCoSlicerLib.overlays import belongsTo
from VoCoSlicerLib.results import addProbabilityVolume, addSegmentation
from VoCoSlicerLib.results_surfaces import surfaces
from VoCoSlicerLib.results_tables import caseTitle, classTable, volumeOf, volumesTable
from VoCoSlicerLib.threads import asVocoError, inThread
from VoCoSlicerLib.volumes import isStillThere

_TOLERANCE = 0.002  # ml that volumes.csv, which has three decimals, may differ
MOST_MAPS = 4 * 10**9  # bytes of probability maps in the scene from one folder: 12 of a 512 x 512 x 300 CT


@dataclass(frozen=True)
class LoadProgress:
    """``done`` of ``total`` cases are in the scene; ``error``: it was stopped, or nothing could be loaded."""

    done: int
    total: int
    text: str
    finished: bool
    error: VocoError | None = None


class PredictionLoad:
    """Loads what `voco predict` wrote into ``folder``.

    ``volumesById``: id of a case -> node id of its volume (or a tuple of those of its channels), in the order of the
    cases, as `CaseExport.volumesById` has it; ``predicted``: ids of all cases that were predicted together, in order
    (None: these): what the files of a case are called depends on the others. Afterwards: ``segmentations`` and
    ``probabilityNodes`` (nodes), ``tables``, ``failed`` {case: reason}, ``warnings`` (sentences).
    """

    def __init__(
        self,
        scene,
        folder: str | Path,
        volumesById: Mapping[str, Any],
        provenance: Mapping[str, str] | None = None,
        *,
        predicted: Sequence[str] | None = None,
        probabilities: bool = False,
        show3d: bool = True,
    ) -> None:
        self.scene, self.folder, self.volumesById = scene, Path(folder), dict(volumesById)
        self._predicted = list(self.volumesById if predicted is None else predicted)
        self.provenance, self.probabilities, self.show3d = dict(provenance or {}), probabilities, show3d
        self.segmentations: list[Any] = []
        self.probabilityNodes: list[Any] = []
        self._mapBytes = 0
        self.tables: list[Any] = []
        self.failed: dict[str, str] = {}
        self.warnings: list[str] = []
        self._volumes: list[dict[str, float]] = []
        self._steps: Iterator[None] | None = None
        self._last = LoadProgress(0, len(self.volumesById), "", False)
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin. Raises DataError where the folder holds no predictions."""
        if not any((self.folder / name).is_file() for name in (files.LABELS, files.DIAGNOSES)):
            raise DataError(
                f"{self.folder} holds no predictions", "choose the folder that 'voco predict' wrote"
            )
        self._nodes = {case: volumeOf(self.scene, ids) for case, ids in self.volumesById.items()}
        self._steps = self._work()

    def poll(self) -> LoadProgress:
        """Go on by one small step, and say how far it is; never waits for a file."""
        if self._steps is None:
            raise SettingsError("this was not started", "call start() first")
        if self._last.finished:
            return self._last
        try:
            if self._stop.is_set():
                raise StopRequested("loading was stopped", "what is in the scene already stays")
            next(self._steps)
        except StopIteration:
            self._say(f"{len(self.segmentations)} segmentations", finished=True, error=self._verdict())
        except Exception as error:  # a timer has nobody to raise to
            fault = asVocoError(error, "adding the results")
            self._say(fault.message, finished=True, error=fault)
        return self._last

    def cancel(self) -> None:
        """Stop at the next poll; what is in the scene stays."""
        self._stop.set()

    def run(self, progress: Callable[[LoadProgress], None] | None = None) -> PredictionLoad:
        """Load all and wait; returns itself. Raises what went wrong; single cases only stand in ``failed``."""
        self.start()
        while not (state := self.poll()).finished:
            if progress is not None:
                progress(state)
        if state.error is not None:
            raise state.error
        return self

    def _say(self, text: str, *, finished: bool = False, error: VocoError | None = None) -> None:
        done = len(self.segmentations) + len(self.failed)
        self._last = LoadProgress(
            min(done, len(self.volumesById)), len(self.volumesById), text, finished, error
        )

    def _verdict(self) -> VocoError | None:
        if self.failed and not self.segmentations and not self.tables:
            case, reason = next(iter(self.failed.items()))
            return DataError(f"no case could be loaded: {case}: {reason}", "predict again")
        return None

    def _work(self) -> Iterator[None]:
        """All steps, on the caller's thread; each `yield` gives the window a chance."""
        diagnoses = self.folder / files.DIAGNOSES
        if diagnoses.is_file() and not (self.folder / files.LABELS).is_file():
            self.tables.append(classTable(self.scene, diagnoses, self.volumesById, self.provenance))
            return
        names = files.readNames(self.folder)
        sizes = files.readTable(self.folder / files.VOLUMES, ["case", "label"], ["volume_ml"])
        fileNames = dict(zip(self._predicted, file_names(self._predicted), strict=True))
        for case in self.volumesById:
            self._say(f"loading {caseTitle(self.scene, case, self.volumesById)}")
            try:
                rows = [row for row in sizes if row["case"] == case]
                yield from self._case(case, fileNames[case], names, rows)
            except VocoError as error:
                self.failed[case] = str(error)
        made = zip(self.segmentations, self._volumes, strict=True)
        if kept := [pair for pair in made if isStillThere(self.scene, pair[0])]:
            nodes, known = map(list, zip(*kept, strict=True))
            self.tables.append(volumesTable(self.scene, nodes, self.provenance, known))

    def _case(
        self, case: str, name: str, names: files.LabelNames, rows: list[dict[str, Any]]
    ) -> Iterator[None]:
        path = files.labelFile(self.folder, name)
        if path is None:
            raise DataError("it was not predicted", "the log says why")
        found = yield from inThread(lambda: files.readLabelMap(path).prepare(names), f"reading {path}")
        volume = self._nodes[case]
        self._mustBeThere(volume)
        known = names if names.labels else _unnamed(found)
        node = addSegmentation(
            self.scene,
            path,
            volume,
            known.labels,
            self.provenance,
            colors=known.colours,
            regions=known.regions,
            labelMap=found,
            show3d=False,
        )
        self.segmentations.append(node)
        sizes = {label: found.milliliters(known.valuesOf(value)) for value, label in known.labels.items()}
        self._volumes.append(sizes)
        self._compare(case, sizes, rows)
        yield
        if self.show3d:
            yield from surfaces(node, found, known)
        if self.probabilities and self._mapBytes <= MOST_MAPS:
            yield from self._probabilities(case, name, known)

    def _mustBeThere(self, volume: Any) -> None:
        """Raise DataError for a volume that has gone since: what is in its place now may be another patient's."""
        if volume is not None and not isStillThere(self.scene, volume):
            raise DataError("its volume is no longer in the scene", f"its result is in {self.folder}")

    def _probabilities(self, case: str, name: str, names: files.LabelNames) -> Iterator[None]:
        volume, ids = self._nodes[case], self.volumesById[case]
        path = self.folder / files.PROBABILITIES / f"{name}.nii.gz"
        maps = files.readProbabilities(path, list(names.labels.values()))
        while (each := (yield from inThread(lambda: next(maps, None), f"reading {path}"))) is not None:
            self._mustBeThere(volume)
            self._mapBytes += each.array.nbytes
            if self._mapBytes > MOST_MAPS:
                self.warnings.append(
                    f"only the first {len(self.probabilityNodes)} probability maps were loaded, to leave memory "
                    f"for the rest; load others from {path.parent}"
                )
                return
            node = addProbabilityVolume(self.scene, each, volume, self.provenance)
            belongsTo(node, each.name, () if isinstance(ids, str) else ids[1:])  # the other channels
            self.probabilityNodes.append(node)
            yield

    def _compare(self, case: str, sizes: Mapping[str, float], rows: list[dict[str, Any]]) -> None:
        """Say where the table beside the label maps tells other volumes than their voxels."""
        for row in rows:
            told, ours = row["volume_ml"], sizes.get(row["label"])
            if ours is not None and abs(told - ours) > _TOLERANCE + 1e-3 * told:
                self.warnings.append(
                    f"{case}: {row['label']} has {ours:.1f} ml in the label map and {told:.1f} ml in {files.VOLUMES}"
                )


def loadPredictions(
    scene, folder: str | Path, volumesById: Mapping[str, Any], **options: Any
) -> PredictionLoad:
    """Load a folder of predictions and wait; see `PredictionLoad` for the options and what comes back."""
    return PredictionLoad(scene, folder, volumesById, **options).run()


def _unnamed(found: files.LabelMap) -> files.LabelNames:
    present = (value for value, count in enumerate(found.counts) if value and count)
    return files.LabelNames({value: f"label {value}" for value in present})
