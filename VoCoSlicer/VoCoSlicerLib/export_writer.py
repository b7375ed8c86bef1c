"""The part of an export that runs in a thread: snapshots become files, and those that are there are used again.

Files are named after their content ("volume-9f3c....nrrd"): the same voxels are written once, also after a restart of
Slicer, and no file's name says whose they are.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from VoCoCore.data.cases import Source
from VoCoCore.errors import EnvironmentFault
from VoCoCore.runs.files import write_json, writing
from VoCoSlicerLib.image_files import holdsVolume, sameGrid
from VoCoSlicerLib.nrrd import CHUNK, nrrdHeader, writeNrrd
from VoCoSlicerLib.resample import exportGrid, linear
from VoCoSlicerLib.segments import drawLabels
from VoCoSlicerLib.snapshots import CaseSnapshot, VolumeSnapshot

MARKER, MARK = "voco-volumes.json", "VoCo volumes exported from 3D Slicer"
OURS = re.compile(r"(volume|label)-[0-9a-f]{32}\.nrrd|index(-\d+)?\.json|" + re.escape(MARKER))
_LEFT = re.compile(r"\.\d+-(volume|label)-[0-9a-f]{32}\.nrrd")
Step = Callable[[int], None]
_WRITING = threading.Lock()
_COMPARED: set[tuple] = set()  # files, as they were, that hold a volume, as it was


class Writer:
    """Writes cases into ``folder``. ``step`` hears of work done, in bytes; it may raise to stop everything.

    ``say`` hears what is being written.
    """

    def __init__(self, folder: Path, step: Step, say: Callable[[str], None]) -> None:
        self.folder, self.step, self.say = folder, step, say
        self.warnings: list[str] = []

    def prepare(self, needed: int) -> None:
        """Make the folder, mark it as ours, and look for room for ``needed`` bytes. Raises EnvironmentFault."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / MARKER, {"what": MARK, "version": 1})
        _clean(self.folder)
        self._haveRoom(needed)

    def _haveRoom(self, needed: int) -> None:
        with writing(self.folder):
            free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise EnvironmentFault(
                f"{self.folder} has {free / 1e9:.1f} GB left, the volumes need up to {needed / 1e9:.1f} GB",
                "free some space, or choose a folder on another disk",
            )

    def images(self, case: CaseSnapshot) -> tuple[Source, ...]:
        """Write the volumes of a case, or name the files they were read from."""
        return tuple(Source(self._volume(case, volume)) for volume in case.volumes)

    def label(self, case: CaseSnapshot, values: Mapping[str, int]) -> Source:
        """Write the label map of a case, on the grid of its images."""
        self.say(f"drawing the segments of {case.name}")
        shape, affine = exportGrid(case.volumes[0].shape, case.volumes[0].affine)
        drawn = drawLabels(case.segments() if case.segments else (), values, shape, affine, self.step)
        self.warnings += [f"{case.name}: {text}" for text in drawn.warnings]
        return Source(str(self._once("label", drawn.labels, affine, compress=True)))

    def _volume(self, case: CaseSnapshot, volume: VolumeSnapshot) -> str:
        first = case.volumes[0]
        shape, affine = exportGrid(first.shape, first.affine)
        there = sameGrid(volume.shape, volume.affine, shape, affine)
        if there and volume.file and self._isInFile(volume):
            self.step(volume.array.nbytes)
            return volume.file
        self.say(f"writing {volume.name}")
        if there:
            return str(self._once("volume", volume.array, volume.affine))
        if volume is not first:
            self.warnings.append(f"{volume.name} is resampled onto the grid of {first.name}")
        moved = linear(volume.array, volume.affine, shape, affine, lambda done: self.step(0))
        return str(self._once("volume", moved, affine))

    def _isInFile(self, volume: VolumeSnapshot) -> bool:
        """Whether the file that a volume was read from holds it to this day; a file at rest is compared once."""
        try:
            facts = os.stat(volume.file)
        except OSError:
            return False
        state = (facts.st_size, facts.st_mtime_ns, facts.st_ino)
        known = (volume.file, *state, volume.stamp, volume.affine.tobytes())
        if known in _COMPARED:
            self.step(volume.array.nbytes)
            return True
        self.say(f"comparing {volume.name} with its file")
        if not holdsVolume(volume.file, volume.array, volume.affine, self.step):
            return False
        _COMPARED.add(known)
        return True

    def _once(self, kind: str, array: np.ndarray, affine: np.ndarray, *, compress: bool = False) -> Path:
        """Write an array where no file holds it yet."""
        array = np.ascontiguousarray(array)
        head = nrrdHeader(array, affine, compress=compress)
        path = self.folder / f"{kind}-{self._key(array, head)}.nrrd"
        with self.alone():
            size = os.path.getsize(path) if path.is_file() else -1
            if size > len(head) if compress else size == len(head) + array.nbytes:
                self.step(array.nbytes)
                return path
            if not compress:
                self._haveRoom(
                    array.nbytes
                )  # `spaceOf` has trusted that a volume with a file is passed by it
            writeNrrd(path, array, affine, compress=compress, tick=self.step)
        return path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no other export of this process writes: two of them may have the same volume to write."""
        while not _WRITING.acquire(timeout=0.05):
            self.step(0)
        try:
            yield
        finally:
            _WRITING.release()

    def _key(self, array: np.ndarray, head: bytes) -> str:
        found, raw = hashlib.blake2b(head, digest_size=16), memoryview(array).cast("B")
        for start in range(0, len(raw), CHUNK):
            part = raw[start : start + CHUNK]
            found.update(part)
            self.step(len(part))
        return found.hexdigest()


def workOf(case: CaseSnapshot) -> int:
    """Bytes to handle for a case: each volume is read twice, a label map drawn, read and written."""
    label = 3 * case.volumes[0].array.size if case.segments is not None else 0
    return sum(2 * volume.array.nbytes for volume in case.volumes) + label


def spaceOf(cases: Sequence[CaseSnapshot]) -> int:
    """Bytes that the volumes of ``cases`` may need on disk; label maps are compressed to next to nothing."""
    return sum(volume.array.nbytes for case in cases for volume in case.volumes if not volume.file)


def _clean(folder: Path) -> None:
    """Remove what writers that were killed left behind more than an hour ago."""
    for entry in os.scandir(folder):
        if _LEFT.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > 3600:
            with suppress(OSError):
                os.unlink(entry.path)
