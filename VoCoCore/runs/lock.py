"""A lock that the operating system holds for as long as its process lives, whatever kills it.

POSIX: a record lock (``lockf``), which forked loader workers do not inherit, so that orphans cannot keep it.
Such a lock has a trap: when a process closes *any* handle of the file, its lock on it is gone. The file is
therefore opened once and kept open, and within the owning process every question about it goes through
that handle. Windows: one byte past the end of the file, so that the text in it stays readable.

The file holds the owner (a token, host, process, since when) and is never deleted. On a file system that
cannot lock, ``supported`` is False and the token alone says who came last.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from VoCoCore.runs.files import OWN, UNWAITING, open_plain, writing

_REFUSED = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
_FAR = 1 << 20  # the byte locked on Windows
_PAUSE = 0.02
_MOST = 4096  # bytes of an owner
_mine: dict[tuple[int, int], FileLock] = {}  # locks that this process holds, by device and file number


class FileLock:
    """One process's claim on ``path``; ``acquire``, ``claim``, and ``release`` when the work is done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.supported = True
        self._file = -1
        self._key = (0, 0)
        self._pid = 0
        self._token = ""
        self._guard = threading.Lock()

    def acquire(self, wait: float = 0.5) -> bool:
        """Take the lock, trying for ``wait`` seconds (another process may be asking whether it is free).

        Returns False where somebody holds it. Raises OSError where the file cannot be opened for writing.
        """
        if self._inside() is not None:
            return False
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | OWN, 0o666)
        give_up = time.monotonic() + wait
        while (answer := _try(handle)) is False and time.monotonic() < give_up:
            time.sleep(_PAUSE)
        if answer is False:
            os.close(handle)
            return False
        status = os.fstat(handle)
        self.supported = answer is True
        self._file, self._key, self._pid = handle, (status.st_dev, status.st_ino), os.getpid()
        _mine[self._key] = self
        return True

    def claim(self, owner: Mapping[str, Any]) -> None:
        """Write who owns the lock, with a new token, into the file."""
        self._token = uuid.uuid4().hex
        data = json.dumps({"token": self._token, **owner}).encode() + b"\n"
        with self._guard:
            os.lseek(self._file, 0, os.SEEK_SET)
            os.ftruncate(self._file, 0)
            os.write(self._file, data)

    def is_ours(self) -> bool:
        """Whether the file still holds our token: False when somebody took us for dead and took over."""
        try:
            owner = _parsed(self._content())
        except OSError:
            return True  # a network disk that does not answer now tells of nobody who took over
        return bool(owner) and owner.get("token") == self._token

    def release(self) -> None:
        """Give the lock up; the owner's name stays in the file."""
        if self._file < 0:
            return
        _mine.pop(self._key, None)
        if self.supported:
            _unlock(self._file)
        os.close(self._file)
        self._file = -1

    def _content(self) -> bytes:
        with self._guard:
            os.lseek(self._file, 0, os.SEEK_SET)
            return os.read(self._file, _MOST)

    def _inside(self) -> FileLock | None:
        return _held_here(self.path)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock at ``path``; another process that wants it too waits. Raises EnvironmentFault."""
    lock = FileLock(path)
    with writing(path):
        while not lock.acquire(wait=1.0):
            time.sleep(_PAUSE)
    try:
        yield
    finally:
        lock.release()


def probe(path: Path) -> bool | None:
    """Say whether any process holds the lock at ``path``: True or False, None where locks do not work.

    Takes nothing away from a holder and writes nothing. A file that is not there is not locked.
    """
    if _held_here(path) is not None:
        return True
    try:
        handle = os.open(path, os.O_RDONLY | UNWAITING if os.name == "posix" else os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        answer = _try(handle, shared=True)
        if answer is False and os.name == "nt":  # two who ask at once: Windows has no shared kind here
            time.sleep(_PAUSE)
            answer = _try(handle, shared=True)
        if answer:
            _unlock(handle)
        return None if answer is None else not answer
    finally:
        os.close(handle)


def read_owner(path: Path) -> dict[str, Any]:
    """Return what the last owner wrote into the lock file, an empty dict where there is nothing to read."""
    here = _held_here(path)
    try:
        if here:
            return _parsed(here._content())
        with open_plain(path) as file:
            return _parsed(file.read(_MOST))
    except OSError:
        return {}


def _held_here(path: Path) -> FileLock | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    lock = _mine.get((status.st_dev, status.st_ino))
    return lock if lock is not None and lock._pid == os.getpid() else None  # a forked child holds nothing


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _try(handle: int, shared: bool = False) -> bool | None:
    """Try to lock at once: True locked, False held by somebody else, None not possible on this disk."""
    try:
        _lock(handle, shared)
    except OSError as error:
        if error.errno in _REFUSED:
            return False
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int, shared: bool) -> None:
        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

    def _unlock(handle: int) -> None:
        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(handle: int, shared: bool) -> None:
        fcntl.lockf(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)

    def _unlock(handle: int) -> None:
        fcntl.lockf(handle, fcntl.LOCK_UN)
