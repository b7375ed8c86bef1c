"""The table of a folder of predictions while it grows: a case costs a few lines at its end, however long it is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from VoCoCore.inference.results import as_csv, read_table, write_table
from VoCoCore.runs.files import append

_Rows = dict[str, dict[tuple[str, ...], Sequence[Any]]]  # by case, then by what tells rows of a case apart


class Table:
    """Rows by case in a CSV below ``header``; its first ``keys`` columns, the case before all, tell rows apart.

    Several processes may add rows; what is written here is for the holder of the folder's lock. ``keep``: go on with
    the rows that are there, but for those of the cases in ``without``. Raises DataError for a table that another
    program has changed.
    """

    def __init__(
        self, path: Path, header: Sequence[str], keys: int, keep: bool, without: Collection[str] = ()
    ) -> None:
        self.path, self.header, self.keys = path, header, keys
        self._rows = self._read(without) if keep else {}

    def __contains__(self, case: str) -> bool:
        return case in self._rows

    def begin(self) -> None:
        """Take rows that are not kept off the disk, before ours stand beside them. Raises EnvironmentFault."""
        self._write_if_other(self._rows)

    def add(self, case: str, rows: Sequence[Sequence[Any]]) -> None:
        """Give ``case`` these rows, on the disk too; rows that it had before stay there until `tidy`.

        Raises EnvironmentFault.
        """
        self._rows[case] = {tuple(map(str, row[: self.keys])): row for row in rows}
        if self.path.is_file():
            append(self.path, as_csv(rows))
        else:
            write_table(self.path, self.header, _all(self._rows))

    def drop(self, case: str) -> None:
        """Take the rows of ``case`` away, off the disk too. Raises DataError, EnvironmentFault."""
        self._rows.pop(case, None)
        self._write_if_other(self._read({case}))

    def tidy(self) -> None:
        """Write the table anew where it holds rows that count no more. Raises DataError, EnvironmentFault."""
        self._write_if_other(self._read())

    def _read(self, without: Collection[str] = ()) -> _Rows:
        """The rows on the disk, also those that other processes have added."""
        found: _Rows = {}
        for row in read_table(self.path, self.header):
            if row[0] not in without:
                # A case that was predicted again, before all was killed, has its new rows below the old ones.
                found.setdefault(row[0], {})[tuple(row[: self.keys])] = row
        return found

    def _write_if_other(self, rows: _Rows) -> None:
        text = as_csv([self.header, *_all(rows)]).encode()
        if self.path.is_file() and self.path.read_bytes() != text:
            write_table(self.path, self.header, _all(rows))


def _all(rows: _Rows) -> list[Sequence[Any]]:
    return [row for of_case in rows.values() for row in of_case.values()]
