"""The table of a folder of predictions while it grows: a case costs a few lines at its end, however long it is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from VoCoCore.inference.results import as_csv, read_table, write_table
from VoCoCore.runs.files import append


class Table:
    """Rows by case in a CSV below ``header``; its first ``keys`` columns, the case before all, tell rows apart.

    ``keep``: go on with the rows that are there, but for those of the cases in ``without``. Raises DataError for a
    table that another program has changed.
    """

    def __init__(
        self, path: Path, header: Sequence[str], keys: int, keep: bool, without: Collection[str] = ()
    ) -> None:
        self.path, self.header, self.keys = path, header, keys
        self._rows: dict[str, dict[tuple[str, ...], Sequence[Any]]] = {}
        for row in read_table(path, header) if keep else []:
            if row[0] not in without:
                # A case that was predicted again, before all was killed, has its new rows below the old ones.
                self._rows.setdefault(row[0], {})[tuple(row[:keys])] = row
        there = path.read_bytes() if keep and path.is_file() else None
        # Whether the file is what stands here, and takes rows at its end.
        self._grows = there == self._text().encode()
        self._surplus = not (there is None or self._grows)  # it holds rows that count no more

    def __contains__(self, case: str) -> bool:
        return case in self._rows

    def begin(self) -> None:
        """Take rows that are not kept off the disk, before ours stand beside them. Raises EnvironmentFault."""
        if self.path.is_file() and not self._grows:
            self._write()

    def add(self, case: str, rows: Sequence[Sequence[Any]]) -> None:
        """Give ``case`` these rows, on the disk too; rows that it had before stay there until `tidy`.

        Raises EnvironmentFault.
        """
        again = self._rows.pop(case, None) is not None
        self._rows[case] = {tuple(map(str, row[: self.keys])): row for row in rows}
        if self._grows and self.path.is_file():
            append(self.path, as_csv(rows))
            self._surplus |= again
        else:
            self._write()

    def tidy(self) -> None:
        """Write the table anew where it holds rows that count no more. Raises EnvironmentFault."""
        if self._surplus:
            self._write()

    def _write(self) -> None:
        write_table(self.path, self.header, self._all())
        self._grows, self._surplus = True, False

    def _text(self) -> str:
        return as_csv([self.header, *self._all()])

    def _all(self) -> list[Sequence[Any]]:
        return [row for rows in self._rows.values() for row in rows.values()]
