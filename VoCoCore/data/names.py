"""Names of cases and of their files, none twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

BACKGROUND = "background"  # what voxels of no label are called

# What is written to such a name goes nowhere on Windows, whatever its extension.
_DEVICE = re.compile(r"^(con|prn|aux|nul|(?:com|lpt)[0-9¹²³])(?=\.|$)", re.IGNORECASE)


def file_names(ids: Iterable[str]) -> list[str]:
    """A name for each case's files, without what file systems do not take; no two are the same, whatever the case."""
    given = Names(fold=str.lower)
    plain = (re.sub(r"[^\w.-]", "_", case).lstrip(".") for case in ids)
    return [given.new(_DEVICE.sub(r"_\1", name) or "case") for name in plain]


class Names:
    """Gives names that nobody has yet: a number is added to one that is taken.

    The last number of each name is kept: 100 000 cases may all be called "image", and counting from 2 for each of
    them takes hours. Names are the same where ``fold`` makes them so.
    """

    def __init__(self, fold: Callable[[str], str] = str) -> None:
        self.fold = fold
        self.taken: set[str] = set()
        self.last: dict[str, int] = {}

    def new(self, wished: str) -> str:
        """The wished name, or the first one free of ``wished-2``, ``wished-3``, ..."""
        name, base = wished, self.fold(wished)
        while (folded := self.fold(name)) in self.taken:
            number = self.last[base] = self.last.get(base, 1) + 1
            name = f"{wished}-{number}"
        self.taken.add(folded)
        return name


def same_name(name: str) -> str:
    """What names of two segments, or labels, are compared by: spaces and capitals do not count."""
    return " ".join(name.split()).casefold()
