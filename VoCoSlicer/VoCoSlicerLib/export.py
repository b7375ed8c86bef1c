"""The scene's cases as files and one list of cases, written in a thread while Slicer goes on.

Everything that touches a node happens in `CaseExport.start` and `CaseExport.poll`, on the caller's thread and in a few
milliseconds; the thread sees copies of pointers alone, and does its work in few, long calls that need no lock of Python
(see `threads`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from VoCoCore.data.cases import Case, with_unique_ids
from VoCoCore.data.names import same_name
from VoCoCore.errors import DataError, SettingsError, StopRequested, VocoError
from VoCoSlicerLib.channels import channelNames, differ
from VoCoSlicerLib.export_index import (
    checkCohorts,
    cohortLabels,
    joined,
    labelValues,
    readCohorts,
    saveBeside,
    withPatient,
)
from VoCoSlicerLib.export_writer import Writer, spaceOf, workOf
from VoCoSlicerLib.snapshots import CaseSnapshot, SceneCase, caseStamp, isThere, takeCase
from VoCoSlicerLib.threads import asVocoError, begin, giveTurn

__all__ = ["CaseExport", "ExportProgress", "SceneCase"]

_ROUNDS = 3  # how often a case that is changed meanwhile is written again
_SLICE = 0.01  # seconds of the caller's thread at a time


@dataclass(frozen=True)
class ExportProgress:
    """How far an export is: ``done`` of ``total`` bytes of work, and what is going on.

    ``error`` is set where it ended without an index; ``warnings`` are sentences on cases that were exported.
    """

    done: int
    total: int
    text: str
    finished: bool
    error: VocoError | None = None
    warnings: tuple[str, ...] = ()


class CaseExport:
    """One export of ``cases`` of ``scene``, and of ``folders`` (index files of cohorts), into ``folder``.

    ``segmentNames``: the segments that become labels, in this order; None: all, by name. ``labels`` False leaves those
    of cohorts out, for a job that wants none: they need not agree then. After the end, ``index`` is the list of cases,
    ``volumesById`` says which nodes each case of the scene was made from, and ``labels`` is name -> voxel value. An
    export is used once.
    """

    def __init__(
        self,
        scene,
        cases: Sequence[SceneCase],
        folder: str | Path,
        folders: Iterable[str | Path] = (),
        segmentNames: Sequence[str] | None = None,
        labels: bool = True,
    ) -> None:
        self.scene, self.cases = scene, list(cases)
        self.folder, self.folders = Path(os.path.abspath(folder)), list(folders)
        self.segmentNames = None if segmentNames is None else list(segmentNames)
        self._labelled = labels
        self.index: Path | None = None
        self.volumesById: dict[str, tuple[str, ...]] = {}
        self.labels: dict[str, int] = {}
        self._snapshots: list[CaseSnapshot] = []
        self._written: dict[int, Case] = {}
        self._writer: Writer | None = None
        self._values: dict[str, int] = {}
        self._cohorts: list = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._turn: Iterator[None] | None = None  # what the caller's thread has to do first
        self._nodes: list[list] = []
        self._done, self._total, self._text, self._rounds = 0, 1, "", 0
        self._error: VocoError | None = None
        self._finished = False

    def start(self) -> None:
        """Begin to take what is needed of the scene, which `poll` goes on with, and then to write.

        Raises SettingsError where there is nothing to do, DataError for nodes that cannot be exported, as far as it has
        come to them in a moment; `poll` tells of the others, before anything is written.
        """
        if not self.cases and not self.folders:
            raise SettingsError("no volume is chosen", "choose volumes, or add a folder")
        self._nodes = [[self.scene.GetNodeByID(one) for one in case.volumeIds] for case in self.cases]
        self._text = "looking for what is there"
        self._turn = self._takeAll()
        self._goOn()
        if self._error is not None:
            raise self._error

    def poll(self) -> ExportProgress:
        """How far it is; call this several times a second until it is finished. Never waits."""
        if self._thread is None and self._turn is None and not self._finished:
            raise SettingsError("this export was not started", "call start() first")
        if self._thread is not None and not self._finished:
            giveTurn(self._thread)
        if not self._finished and (self._thread is None or not self._thread.is_alive()):
            self._goOn()
        with self._lock:
            warnings = tuple(self._writer.warnings) if self._writer and self._finished else ()
            return ExportProgress(
                self._done,
                self._total,
                self._text,
                self._finished,
                self._error,
                tuple(dict.fromkeys(warnings)),
            )

    def cancel(self) -> None:
        """Stop as soon as possible; no half-written file stays. `poll` then says StopRequested."""
        self._stop.set()

    def run(self, progress: Callable[[ExportProgress], None] | None = None) -> Path:
        """Do all of it and wait; returns the list of cases. Raises what went wrong."""
        self.start()
        while not (state := self.poll()).finished:
            if progress is not None:
                progress(state)
            time.sleep(0.005)
        if progress is not None:
            progress(state)
        if state.error is not None:
            raise state.error
        assert self.index is not None
        return self.index

    # The caller's thread ------------------------------------------------------------------------------------

    def _begin(self, work: Callable[[], None]) -> None:
        self._thread = begin(partial(self._guarded, work), "VoCo export")

    def _goOn(self) -> None:
        """No thread is at work: a slice of what is to be done here before the next one begins, or the end."""
        if self._turn is None and (self._error is not None or self.index is not None):
            self._finish()
            return
        self._turn = self._turn or self._takeChanged()
        until = time.perf_counter() + _SLICE
        try:
            for _ in self._turn:
                self._step(0)
                if time.perf_counter() >= until:
                    return
        except Exception as error:  # nor has a timer
            self._error = asVocoError(error, "the export")
            self._finish()
        self._turn = None

    def _takeAll(self) -> Iterator[None]:
        for case, nodes in zip(self.cases, self._nodes, strict=True):
            now = [self.scene.GetNodeByID(one) for one in case.volumeIds]
            if any(node is not one for node, one in zip(now, nodes, strict=True)):
                # A closed scene gives the IDs of its nodes to those of another.
                raise DataError("the scene has changed since the export began", "choose the volumes again")
            self._snapshots.append(takeCase(self.scene, case))
            yield
        self._nodes = []
        _checkChannels(self._snapshots)
        self._total = sum(map(workOf, self._snapshots)) + 1
        self._begin(self._writeAll)

    def _takeChanged(self) -> Iterator[None]:
        """What changed while it was written is taken once more; then the list is made."""
        again = []
        for number in list(self._written):
            if self._changed(number):
                again.append(number)
            yield
        if again and self._rounds >= _ROUNDS:
            name = self._snapshots[again[0]].name
            raise DataError(f"{name} keeps changing while it is exported", "try again when it is at rest")
        for number in again:
            if not isThere(self.scene, self._snapshots[number]):
                continue  # it went since it was compared, and its ID may be another volume's by now
            self._snapshots[number] = takeCase(self.scene, self.cases[number])
            del self._written[number]
            self._total += workOf(self._snapshots[number])
            yield
        self._rounds += 1
        self._begin(self._writeAll if again else self._writeIndex)

    def _changed(self, number: int) -> bool:
        taken = self._snapshots[number]
        return isThere(self.scene, taken) and caseStamp(self.scene, taken.case) != taken.stamp

    def _finish(self) -> None:
        if self._error is None:
            self._done = self._total
            self._text = f"{len(self._snapshots)} cases are ready"
        else:
            self._text = self._error.message
        self._snapshots = []  # lets go of the scene's memory
        self._finished = True

    # The thread ---------------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # a thread has nobody to raise to
            self._error = asVocoError(error, "the export")

    def _writeAll(self) -> None:
        if self._writer is None:
            self._writer = Writer(self.folder, self._step, self._say)
            self._cohorts = readCohorts(self.folders, self._labelled)
            labelled = any(case.segments is not None for case in self._snapshots)
            checkCohorts(self._cohorts, _channelsOf(self._snapshots[0]) if self._snapshots else (), labelled)
            self._writer.prepare(spaceOf(self._snapshots))
        self._values = self._chooseValues()
        bySegment = {same_name(name): value for name, value in self._values.items()}
        for number, snapshot in enumerate(self._snapshots):
            if number not in self._written:
                self._written[number] = self._writeCase(snapshot, bySegment)

    def _chooseValues(self) -> dict[str, int]:
        names = self.segmentNames
        if names is None:
            names = [
                segment.name
                for case in self._snapshots
                for segment in (case.segments() if case.segments else ())
            ]
        return labelValues(names, cohortLabels(self._cohorts))

    def _writeCase(self, snapshot: CaseSnapshot, values: dict[str, int]) -> Case:
        assert self._writer is not None
        images = self._writer.images(snapshot)
        label = self._writer.label(snapshot, values) if snapshot.segments is not None else None
        case = Case(snapshot.name, images, label, split=snapshot.case.split, target=snapshot.case.classLabel)
        return withPatient(case, snapshot.patient)

    def _writeIndex(self) -> None:
        self._say("writing the list of cases")
        cases = with_unique_ids(self._written[number] for number in range(len(self.cases)))
        channels = _channelsOf(self._snapshots[0]) if self._snapshots else ()
        index = joined(cases, channels, self._values, self._cohorts)
        found = zip(index.cases, self.cases, strict=False)  # the scene's cases come first
        self.volumesById = {made.id: tuple(case.volumeIds) for made, case in found}
        self.labels = dict(self._values)
        assert self._writer is not None
        with self._writer.alone():
            self.index = saveBeside(index, self.folder)

    def _step(self, work: int) -> None:
        if self._stop.is_set():
            raise StopRequested("the export was stopped", "start it again: what is written is used again")
        with self._lock:
            self._done = min(self._done + work, self._total - 1)

    def _say(self, text: str) -> None:
        self._step(0)
        with self._lock:
            self._text = text


def _checkChannels(cases: Sequence[CaseSnapshot]) -> None:
    counts = {len(case.volumes): case.name for case in cases}
    if len(counts) > 1:
        (few, one), (many, other) = sorted(counts.items())[:2]
        raise DataError(
            f"{one} has {few} volume{'s' * (few > 1)} and {other} has {many}",
            "choose the same channels for all cases",
        )
    for case in cases[1:]:
        here, there = _channelsOf(cases[0]), _channelsOf(case)
        if differ(here, there):
            raise DataError(
                f"the channels of {cases[0].name} are {', '.join(here)}, those of {case.name} {', '.join(there)}",
                "choose the same channels, in the same order, for all cases",
            )


def _channelsOf(case: CaseSnapshot) -> tuple[str, ...]:
    return channelNames([volume.name for volume in case.volumes])
