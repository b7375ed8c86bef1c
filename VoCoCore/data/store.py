"""The prepared volumes: one compressed array a case with its header beside it, read block by block.

    store.json        what this folder is, and the version of its format
    cases/ab/<key>/   volume.zarr (Zarr v3, one shard of compressed blocks) and header.json;
                      with a label as its last channel: places.npy, where each label value lies
    partial/          cases being written; renamed into place when whole
    locks/  hashes.txt

A key covers the content of a case's files, every preparing setting and the format's version, so that a
changed setting never reads stale data. A stored value v stands for v / 255, in int16 for v / 32767.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from VoCoCore.data.store_volume import (
    PLACES_FILE,
    VOLUME,
    PreparedVolume,
    bytes_in,
    damaged,
    is_usable,
    open_volume,
    write_volume,
)
from VoCoCore.errors import DataError, EnvironmentFault
from VoCoCore.runs.files import is_leftover, patiently, read_json, write_json, writing
from VoCoCore.runs.lock import FileLock, alone
from VoCoCore.runs.space import STORE_MARK, STORE_MARKER, is_left, partial_folders
from VoCoCore.settings import PrepareSettings

FORMAT = 1  # raise it whenever the same source and settings would give other values
_MARK = {"what": STORE_MARK, "format": FORMAT}
_OPEN_VOLUMES = 256


def case_key(
    content: Sequence[str],
    prepare: PrepareSettings,
    volume_size: Sequence[int],
    body_part: str | None,
    beyond: Mapping[str, Any] | None = None,
) -> str:
    """Key of a prepared case: sha256 over its files' content, all preparing settings and the format.

    ``beyond``: what else the result depends on.
    """
    facts = {
        "format": FORMAT,
        "content": list(content),
        "prepare": prepare.to_dict(),
        "volume_size": [int(n) for n in volume_size],
        "body_part": body_part,
        **(beyond or {}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Store:
    """A folder of prepared volumes. Making the object touches no file; it may be sent to other processes."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._opened: OrderedDict[str, PreparedVolume] = OrderedDict()

    def __reduce__(self):
        return Store, (self.root,)

    def create(self) -> Store:
        """Make the folder where it is not there yet, and check that it is a store of this version.

        Raises EnvironmentFault where it cannot be written, is another version's, or holds other files.
        """
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            marker = self.root / STORE_MARKER
            if not marker.exists():
                others = any(not is_leftover(item.name) for item in self.root.iterdir())
                # Asked again: another job may have made the store between the two looks.
                if others and not marker.exists():
                    hint = "choose an empty or a new folder (data.store)"
                    raise EnvironmentFault(
                        f"{self.root} holds other files and is no store of prepared volumes", hint
                    )
                write_json(marker, _MARK)
        self.check()
        with writing(self.root):
            for name in ("cases", "partial", "locks"):
                (self.root / name).mkdir(exist_ok=True)
        return self

    def check(self) -> None:
        """Raise EnvironmentFault unless this is a store that this version can read."""
        mark = read_json(self.root / STORE_MARKER)
        if not isinstance(mark, dict) or mark.get("what") != _MARK["what"]:
            raise EnvironmentFault(
                f"{self.root} is no store of prepared volumes", "voco data prepare makes one"
            )
        if mark.get("format") != FORMAT:
            found = (
                f"made by another version of VoCoCore (format {mark.get('format')}, this one reads {FORMAT})"
            )
            raise EnvironmentFault(
                f"the store {self.root} was {found}", "choose another folder (data.store), or delete it"
            )

    def has(self, key: str) -> bool:
        """Whether the case is there, whole."""
        return (self._folder(key) / "header.json").is_file()

    def keys(self) -> list[str]:
        """Keys of all cases, in order."""
        return sorted(path.parent.name for path in (self.root / "cases").glob("??/*/header.json"))

    def size(self, key: str) -> int:
        """Bytes on disk of one case."""
        return sum(path.stat().st_size for path in self._folder(key).rglob("*") if path.is_file())

    def header(self, key: str) -> dict[str, Any]:
        """What was done to a case. Raises DataError where it is not there or damaged."""
        folder = self._folder(key)
        header = read_json(folder / "header.json")
        if header is None and not folder.exists():
            raise DataError(
                f"the store {self.root} has no case {key[:12]}", "prepare the cases again (voco data prepare)"
            )
        if not isinstance(header, dict) or not is_usable(header):
            raise damaged(folder, "its header cannot be read")
        return header

    def open(self, key: str) -> PreparedVolume:
        """Open one case; voxels are read when asked for. Raises DataError if it is missing or damaged."""
        if key in self._opened:
            self._opened.move_to_end(key)
            return self._opened[key]
        header, folder = self.header(key), self._folder(key)
        # Zarr takes a missing file for zeros, so the size is what tells a lost or cut one.
        if bytes_in(folder / VOLUME / "c") != header["stored_bytes"]:
            raise damaged(folder, "its voxels are missing or cut off")
        volume = open_volume(folder, header)
        self._opened[key] = volume
        if len(self._opened) > _OPEN_VOLUMES:
            self._opened.popitem(last=False)
        return volume

    def write(
        self,
        key: str,
        array: np.ndarray,
        header: Mapping[str, Any],
        places: Sequence[np.ndarray] | None = None,
    ) -> None:
        """Add a case: ``array`` (C, X, Y, Z), uint8 or int16. It is seen by nobody before it is whole.

        ``places``: `Places.voxels`, where the last channel is a label.

        A key that is there already is kept. Raises EnvironmentFault for a full disk or a folder that cannot
        be written; nothing half-written stays.
        """
        partial = self.root / "partial" / f"{key}.{uuid.uuid4().hex}"
        with writing(self.root):
            try:
                partial.mkdir(parents=True)
                write_volume(partial / VOLUME, array)
                if places is not None:
                    np.save(partial / PLACES_FILE, np.concatenate(places), allow_pickle=False)
                stored = bytes_in(partial / VOLUME / "c")
                text = json.dumps({**header, "shape": list(array.shape), "stored_bytes": stored}, indent=1)
                (partial / "header.json").write_text(text + "\n", encoding="utf-8")
                self._folder(key).parent.mkdir(parents=True, exist_ok=True)
                self._move_in(partial, key)
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the lock of a case while preparing it; another process that wants the same case waits.

        256 lock files serve all cases, so that a large store does not hold a lock file for each.
        """
        with alone(self.root / "locks" / f"{key[:2]}.lock"):
            yield

    def clean(self) -> None:
        """Remove what a job that was killed has left half-written; work in progress is locked and stays.

        On a disk without locks, where nobody knows whether its writer lives, it stays for a day.
        """
        for partial in partial_folders(self.root):
            lock = FileLock(self.root / "locks" / f"{partial.name[:2]}.lock")
            with suppress(OSError):
                if lock.acquire(wait=0) and is_left(partial, lock):
                    shutil.rmtree(partial, ignore_errors=True)
            lock.release()

    def remove(self, key: str) -> None:
        """Delete one case."""
        self._opened.pop(key, None)
        with writing(self._folder(key)), suppress(FileNotFoundError):
            shutil.rmtree(self._folder(key))

    def _folder(self, key: str) -> Path:
        return self.root / "cases" / key[:2] / key

    def _move_in(self, partial: Path, key: str) -> None:
        if not self.has(key):
            shutil.rmtree(self._folder(key), ignore_errors=True)  # what somebody began to delete
        try:
            patiently(lambda: os.rename(partial, self._folder(key)))
        except OSError:
            # On a disk without locks two jobs may finish the same case: either copy will do.
            if not self.has(key):
                raise
