"""The table of runs in the section "Jobs": filled in place, so that selection and scrolling stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from VoCoCore.runs.narrate import duration, number
from VoCoSlicerLib import adapter, tints
from VoCoSlicerLib.job_rows import JobRow

_WHERE = 7  # the column
_LEAST = 110  # pixels of a run's name; with less room the table is scrolled sideways
_MOST_HIGH = 5  # rows that are seen without scrolling: what is below them must be on the screen too
_MEASURED = 100  # rows that widths go by: of a thousand it takes 40 ms
_RED, _GREEN = "#b3261e", "#1b6e3c"
_BAD, _GOING = ("failed", "lost", "gone"), ("preparing", "running", "stopping", "starting")


class JobRowsTable:
    """Drives a QTableWidget; ``changed()`` is called when the user has selected another run."""

    def __init__(self, table: Any, changed: Callable[[], Any]) -> None:
        self._table, self._changed = table, changed
        self._paths: list[Path] = []
        self._rows: list[JobRow] = []  # as they were filled in, and with which colours
        self._colors: Any = None
        self._cells: dict[tuple[int, int], tuple[str, ...]] = {}
        self._narrow: bool | None = None  # whether there is no room for the names
        self._filled: Any = None  # which cells said something when columns got their widths
        self._selected: Path | None = None
        heads = [
            _("Run"),
            _("Job"),
            _("State"),
            _("Done"),
            _("Time left"),
            _("Loss"),
            _("Score"),
            _("Where"),
        ]
        table.setColumnCount(len(heads))
        table.setHorizontalHeaderLabels(heads)
        table.verticalHeader().setVisible(False)
        table.setWordWrap(False)
        table.horizontalHeader().setStretchLastSection(False)
        table.setTextElideMode(qt.Qt.ElideMiddle)  # names often differ at their ends alone
        table.horizontalHeader().setHighlightSections(False)
        table.horizontalHeader().setResizeContentsPrecision(_MEASURED)
        table.itemSelectionChanged.connect(self._onSelection)

    @property
    def selected(self) -> Path | None:
        """The run that is selected; None where none is."""
        return self._selected

    def fill(self, rows: Sequence[JobRow]) -> None:
        """Show these rows; only those that are others than before are looked at, and cells that differ touched."""
        paths = [row.path for row in rows]
        colors = [tints.suited(color, self._table) for color in (_RED, _GREEN)]
        before = self._rows if colors == self._colors else []
        new = [n for n, row in enumerate(rows) if n >= len(before) or before[n] is not row]
        self._rows, self._colors = list(rows), colors
        others = paths != self._paths
        with adapter.blocked(self._table):
            if others:
                # A run that was not in the table yet may come: many runs are read one after the other.
                if self._selected in self._paths and self._selected not in paths:
                    self._selected = None
                self._paths = paths
                self._table.setRowCount(len(rows))
                self._mark()
            for place in new:
                self._fillRow(place, rows[place])
        self._table.setColumnHidden(_WHERE, all(row.local for row in rows))
        if new or others or self._filled is None:
            self._fitColumns(paths)
        self._fitName()

    def _fitColumns(self, paths: list[Path]) -> None:
        """Give the columns new widths where other cells say something."""
        filled = (paths, [place for place, (text, *_more) in self._cells.items() if text])
        if filled != self._filled:  # else the widths are the user's
            self._filled, self._narrow = filled, None
            self._table.resizeColumnsToContents()
            adapter.fitHeight(self._table, _MOST_HIGH)

    def select(self, path: Path | None) -> None:
        """Select a run, also one that will be in the table only later; tells nobody."""
        self._selected = path
        with adapter.blocked(self._table):
            self._mark()

    def _fitName(self) -> None:
        """Give the runs' names what the other columns leave of the width."""
        table = self._table
        others = sum(table.columnWidth(n) for n in range(1, _WHERE + 1) if not table.isColumnHidden(n))
        narrow = int(adapter.read(table.viewport(), "width")) - others < _LEAST
        if narrow != self._narrow:
            self._narrow = narrow
            modes = qt.QHeaderView
            table.horizontalHeader().setSectionResizeMode(0, modes.Interactive if narrow else modes.Stretch)
            if narrow:
                table.setColumnWidth(0, _LEAST)

    def _mark(self) -> None:
        self._table.clearSelection()
        if self._selected in self._paths:
            self._table.selectRow(self._paths.index(self._selected))

    def _fillRow(self, place: int, row: JobRow) -> None:
        red, green = self._colors
        color = red if row.state in _BAD else green if row.state in _GOING else ""
        for column, text in enumerate(cellsOf(row)):
            wanted = (text, str(row.path), color if column == 2 else "")
            if self._cells.get((place, column)) == wanted and self._table.item(place, column) is not None:
                continue
            item = self._table.item(place, column)
            if item is None:
                item = qt.QTableWidgetItem()
                self._table.setItem(place, column, item)
            item.setText(text)
            item.setToolTip(
                _("step {step} of {total}").format(step=row.step, total=row.total)
                if column == 3
                else adapter.plainTip(wanted[1])
            )
            item.setForeground(qt.QBrush(qt.QColor(color)) if wanted[2] else qt.QBrush())
            self._cells[place, column] = wanted

    def _onSelection(self) -> None:
        places = [index.row() for index in self._table.selectionModel().selectedRows()]
        self._selected = self._paths[places[0]] if places and places[0] < len(self._paths) else None
        self._changed()


def cellsOf(row: JobRow) -> list[str]:
    """What the table says of a run, by column."""
    words = _words()
    return [
        row.name,
        words.get(row.kind, row.kind),
        stateWord(row.state),
        f"{100 * min(row.step, row.total) // row.total} %" if row.total > 0 else "",
        duration(row.etaSeconds) if row.etaSeconds is not None else "",
        number(row.loss) if row.loss is not None else "",
        number(row.score, 3) if row.score is not None else "",
        words["local"] if row.local else row.host,
    ]


def stateWord(state: str) -> str:
    """A state in the user's language."""
    return _words().get(state, state)


@cache
def _words() -> dict[str, str]:
    """Words of the table in the user's language, looked up once: `tr` asks the disk who calls it, each time, and the
    table is filled every second.
    """
    return {
        "pretrain": _("pre-training"),
        "finetune": _("fine-tuning"),
        "local": _("this machine"),
        "starting": _("starting"),
        "preparing": _("preparing"),
        "running": _("running"),
        "stopping": _("stopping"),
        "stopped": _("stopped"),
        "finished": _("finished"),
        "failed": _("failed"),
        "lost": _("lost"),
        "gone": _("folder deleted"),
    }
