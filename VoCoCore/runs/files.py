"""Small JSON files that nobody ever sees half written, and file-system errors as one clear line.

A file is written beside its place and renamed onto it. Windows refuses a rename, or a reader, for the moment
in which the other one holds the file open; both sides therefore try again for up to two seconds there.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, TypeVar

from VoCoCore.errors import EnvironmentFault

T = TypeVar("T")

PATIENCE = 2.0 if os.name == "nt" else 0.0  # seconds
_PAUSE = 0.02
# Numbers of errors that say there is no room: on the disk, in a quota, below a limit on files.
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
# A folder that somebody else made may hold pipes, devices and links: we wait for none and write through none.
UNWAITING = getattr(os, "O_NONBLOCK", 0)
OWN = UNWAITING | getattr(os, "O_NOFOLLOW", 0)


def write_json(path: Path, data: object, *, durable: bool = True) -> None:
    """Replace ``path`` by ``data`` as strict JSON; whoever reads it sees the old content or the new one.

    ``durable`` waits for the disk, so that the content also survives a power cut. Raises EnvironmentFault
    where it cannot be written, ValueError for NaN or infinity.
    """
    text = json.dumps(data, indent=1, allow_nan=False)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    with writing(path):
        try:
            with open(beside, "w", encoding="utf-8", newline="\n") as file:
                file.write(text + "\n")
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            move(beside, path)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise


def read_json(path: Path) -> Any:
    """Return the content of ``path``, or None where there is no such file or it is not JSON."""
    try:
        return patiently(lambda: glance_json(path))
    except PermissionError:
        return None


def glance_json(path: Path) -> Any:
    """Like `read_json`, for who may not wait: raises PermissionError where the file cannot be read now."""
    try:
        with open_plain(path) as file:
            return json.loads(file.read(), parse_constant=_no_number)
    except PermissionError:
        raise
    except (OSError, ValueError, RecursionError):
        return None


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def patiently(action: Callable[[], T]) -> T:
    """Do ``action``, again for up to PATIENCE seconds while another process stands in its way."""
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            return action()
        except PermissionError:
            if time.monotonic() >= give_up:
                raise
            time.sleep(_PAUSE)


def move(source: Path, target: Path) -> None:
    """`os.replace`, which on Windows waits `patiently` for who holds either of them."""
    patiently(lambda: os.replace(source, target))


def open_plain(path: Path) -> BufferedReader:
    """Open a file to read it; OSError where it is a pipe or a device, whose end might never come."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | UNWAITING))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))
    return file


def open_end(path: Path) -> FileIO:
    """Open a file, made where it is not there, to add to its end; OSError where it is a link, a pipe or a device."""
    return open(path, "ab", buffering=0, opener=lambda name, flags: os.open(name, flags | OWN, 0o666))


def is_leftover(name: str) -> bool:
    """Whether ``name`` is that of a file which a killed ``write_json`` left beside its target."""
    return name.startswith(".") and name.endswith(".tmp")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError while writing ``path`` into an EnvironmentFault that names it and what to do."""
    try:
        yield
    except OSError as error:
        raise fault(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside ``path``, of the same ending, for a file or a folder that takes its place at the end.

    After an error nothing is left beside it, and ``path`` is as it was. Raises like `writing`.
    """
    beside = path.with_name(f".{os.getpid()}-{path.name}")
    with writing(path):
        try:
            yield beside
            if path.is_dir() and beside.is_dir():
                shutil.rmtree(path)
            move(beside, path)
        finally:
            with suppress(OSError):
                shutil.rmtree(beside) if beside.is_dir() else beside.unlink(missing_ok=True)


def append(path: Path, text: str) -> None:
    """Add ``text`` (whole lines) to the end of ``path``, all of it or nothing, below a last line that was cut off.

    A reader, and whoever comes after a kill, sees what was there before and perhaps a part of ``text``. Raises like
    `writing`.
    """
    with writing(path), open_end(path) as file:
        end_torn_line(file, path)
        write_or_nothing(file, text.encode())


def write_or_nothing(file: FileIO, data: bytes) -> None:
    """Write at the end of a file that was opened without a buffer; where there is no room, the file is as it was."""
    start = os.fstat(file.fileno()).st_size
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        file.truncate(start)
        raise


def end_torn_line(file: FileIO, path: Path) -> None:
    """Write an end of line where ``file``, opened at the end of ``path``, lacks one: a kill may have cut it off."""
    if file.tell() == 0:
        return
    with open(path, "rb") as written:
        written.seek(-1, os.SEEK_END)
        torn = written.read(1) != b"\n"
    if torn:
        file.write(b"\n")


def fault(path: Path, error: OSError) -> EnvironmentFault:
    """Say in one line why ``path`` could not be written."""
    if error.errno in FULL:
        return EnvironmentFault(
            f"{path} could not be written: the disk is full", "free some space, then try again"
        )
    if error.errno in _FORBIDDEN:
        hint = "choose a folder that you may write to, or change its permissions"
        return EnvironmentFault(f"{path} could not be written: permission denied", hint)
    if error.errno == errno.ENOENT and not path.parent.exists():
        return EnvironmentFault(
            f"{path} could not be written: there is no folder {path.parent}", "make it, or name another place"
        )
    if error.errno == errno.EISDIR:
        hint = "name a file within it, or another place"
        return EnvironmentFault(f"{path} could not be written: it is a folder", hint)
    if error.errno in (errno.ELOOP, errno.ENXIO):
        hint = "put a file in its place, or use another folder"
        return EnvironmentFault(f"{path} could not be written: it is a link or a pipe", hint)
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return EnvironmentFault(
            f"{path} could not be written: it is a file, or lies below one",
            "move that away, or name another place",
        )
    return EnvironmentFault(
        f"{path} could not be written: {error.strerror or error}", "check the disk and the path"
    )


def free_bytes(folder: Path) -> int | None:
    """Free space on the disk on which ``folder`` is or will be; None where the system does not say."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), None)
    try:
        return None if there is None else shutil.disk_usage(there).free
    except OSError:
        return None
