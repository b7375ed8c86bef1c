"""On Linux, memory that is freed stays with the process while windows are predicted.

glibc hands every freed block of more than 32 MB back to the system and gets it back zeroed, page by page: with windows
of 96^3 voxels that is a quarter of a small network's time.
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


@contextmanager
def kept_memory() -> Iterator[None]:
    """For the length of the block, keep what is freed; then give it back. Does nothing on other systems."""
    library = _library()
    if library is None:
        yield
        return
    for name, value in _KEEP.items():
        library.mallopt(name, value)
    try:
        yield
    finally:
        for name, value in _USUAL.items():
            library.mallopt(name, value)
        library.malloc_trim(0)


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
