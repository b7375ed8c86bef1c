"""On Linux, memory that is freed stays with the process while windows are predicted and while a network trains.

glibc hands freed memory of more than 32 MB back to the system and gets it back zeroed, page by page: with windows of
96^3 voxels that is a quarter of a small network's time, and a tenth of its training's.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

_TRIM, _MAPPED = -1, -3  # names of mallopt's parameters
_KEEP = {_MAPPED: 1 << 30, _TRIM: (1 << 31) - 1}
_USUAL = {_MAPPED: 1 << 25, _TRIM: 1 << 26}  # where glibc's own rules end after the first large blocks
_open: set[object] = set()  # one for each block at work


@contextmanager
def kept_memory() -> Iterator[None]:
    """For the length of the block, keep what is freed; then give it back. Does nothing on other systems.

    In a block within another one, such as a prediction while training, what is freed goes at both ends.
    """
    library, block = _library(), object()
    if library is None:
        yield
        return
    _open.add(block)
    _set(library, _KEEP)
    try:
        yield
    finally:
        _open.remove(block)
        if not _open:
            _set(library, _USUAL)
        library.malloc_trim(0)


def _set(library: Any, options: dict[int, int]) -> None:
    for name, value in options.items():
        library.mallopt(name, value)


@cache
def _library() -> Any:
    """The C library, or None where it is not glibc, or where the user has set its ways."""
    chosen = any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ
    if platform.libc_ver()[0] != "glibc" or chosen:
        return None
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    return None
