"""Content hashes of source files, remembered in the store: a file is read again only when it has changed.

The memory is a text file of lines ``<who> <hash>``; who is itself a hash over path, size and time of change,
so that no path can be read from it. Lines are only ever added, and a torn one is ignored.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from VoCoCore.data.cases import Source
from VoCoCore.data.images import files_of
from VoCoCore.errors import DataError
from VoCoCore.runs.files import open_end

_LINE = re.compile(r"([0-9a-f]{64}) ([0-9a-f]{64})")


class Hashes:
    """What is known about the content of sources; ``path`` is the file that remembers it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, str] = {}
        if path.is_file():
            lines = path.read_text(encoding="ascii", errors="replace").splitlines()
            self._known = {m[1]: m[2] for line in lines if (m := _LINE.fullmatch(line))}

    def find(self, sources: Sequence[Source]) -> tuple[str, ...] | None:
        """Hashes of sources if all are known and unchanged. Raises DataError where a file is not there."""
        known = [self._known.get(_identity(source)) for source in sources]
        return None if None in known else tuple(each for each in known if each)

    def remember(self, sources: Sequence[Source], content: Sequence[str]) -> None:
        """Keep the hashes of sources. Where that cannot be written, they are only computed again next time."""
        for source, each in zip(sources, content, strict=True):
            who = _identity(source)
            if self._known.get(who) == each:
                continue
            with suppress(OSError):
                if files_of(source) != source.paths:
                    continue  # voxels in another file, which may change while this one does not
            self._known[who] = each
            with suppress(OSError), open_end(self.path) as file:
                # The leading line break parts this line from a torn one before it.
                file.write(f"\n{who} {each}\n".encode())


def _identity(source: Source) -> str:
    parts = [str(source.volume)]
    for path in source.paths:
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:  # ValueError: no name that a file can have
            why = getattr(error, "strerror", None) or error
            raise DataError(
                f"{path} cannot be read: {why}", "make the index again, or correct the path"
            ) from None
        parts.append(f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}")
    return hashlib.sha256("\0\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
