"""Which model made which file in a folder of predictions, and from which images: one line a file, added as it is made.

The next call skips what is done by this, and a folder that two models wrote into says which files are whose.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from VoCoCore.data.predicted import MEMORY, remembered
from VoCoCore.runs.files import append


class Provenance:
    """What is known of ``folder`` to ``maker``, the fingerprint of a model and its options.

    ``last``: who has written into the folder last, empty where nobody has. A damaged line is as if it were not there.
    """

    def __init__(self, folder: Path, maker: str) -> None:
        self.folder, self.maker, self.last = folder, maker, ""
        # maker, case, content of its images, where they lay
        self._made: dict[tuple[str, str], tuple[str, str, str, str]] = {}
        for facts in remembered(folder):
            self._take(facts)

    def begin(self) -> None:
        """Say that this maker writes from now on. Raises EnvironmentFault."""
        append(self.folder / MEMORY, json.dumps({"maker": self.maker}) + "\n")

    def add(self, case: str, content: str, files: list[str], origin: str = "") -> None:
        """Keep that ``files``, none for a row of a table alone, were made from images with ``content``.

        ``origin``: a word for the folder of the images. Raises EnvironmentFault.
        """
        facts = {"maker": self.maker, "case": case, "content": content, "origin": origin}
        each = [{**facts, "file": file} for file in files or [""]]
        append(self.folder / MEMORY, "".join(json.dumps(one) + "\n" for one in each))
        for one in each:
            self._take(one)

    def content(self, case: str, files: list[str]) -> str | None:
        """Of the images that this maker has made ``files`` from for ``case``; None where it has not made them all."""
        one = self._one(case, files)
        return one[2] if one else None

    def origin(self, case: str, files: list[str]) -> str:
        """Where these images lay, as `add` was told; empty where that is not known."""
        one = self._one(case, files)
        return one[3] if one else ""

    def case_of(self, file: str) -> str:
        """The case that ``file`` was made for last, by whomever; empty where that is not known.

        A file that is there without a line of its own may be one in other letters: to some disks A and a are one name.
        """
        if one := self._made.get((file, "")):
            return one[1]
        alike = (case for (name, _), (_, case, *_) in self._made.items() if name.lower() == file.lower())
        return next(alike, "")

    def has(self, case: str) -> bool:
        """Whether a file that this maker has made for ``case`` is still known as its own."""
        return any(facts[:2] == (self.maker, case) for facts in self._made.values())

    def cases_of_others(self) -> set[str]:
        """Cases of which this maker has made nothing, but another one has."""
        ours = {case for maker, case, *_ in self._made.values() if maker == self.maker}
        return {case for _, case, *_ in self._made.values()} - ours

    def files_of_others(self) -> list[str]:
        """Files of other makers that still lie there, in the order in which they were made."""
        theirs = [file for (file, _), (maker, *_) in self._made.items() if file and maker != self.maker]
        return [file for file in theirs if (self.folder / file).is_file()]

    def _one(self, case: str, files: list[str]) -> tuple[str, str, str, str] | None:
        found = {self._made.get(_place(case, file)) for file in files or [""]}
        one = found.pop() if len(found) == 1 else None
        return one if one and one[:2] == (self.maker, case) else None

    def _take(self, facts: dict[str, str]) -> None:
        if not all(isinstance(value, str) for value in facts.values()):
            return
        with suppress(KeyError):  # of a line of who begins
            self.last = facts["maker"]
            place = _place(facts["case"], facts["file"])
            self._made.pop(place, None)
            self._made[place] = (facts["maker"], facts["case"], facts["content"], facts.get("origin", ""))


def _place(case: str, file: str) -> tuple[str, str]:
    """A file is one place whichever case it is of; a row of a table belongs to its case."""
    return file, "" if file else case
