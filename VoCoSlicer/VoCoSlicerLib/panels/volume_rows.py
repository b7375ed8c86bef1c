"""The rows of the table of volumes: filled from plain values, and telling what a user changed in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import qt
from slicer.i18n import tr as _

from VoCoSlicerLib import adapter
from VoCoSlicerLib.logic_check import CheckJob

NAME, SIZE, SPACING, KIND, SEGMENTATION, CLASS, NOTES = range(7)
ID_ROLE = 0x0100  # Qt.UserRole
_AT_ONCE = (
    20  # rows that are made in one call: each is some fifty calls of Qt, and a list of all segmentations
)
_MOST_HIGH = 10  # rows that are seen without scrolling
_WIDEST_LIST, _SCROLL_BAR = 600, 20  # pixels
_WIDEST_NAME = 150  # pixels: the other columns are to be seen too in a panel of usual width


@dataclass(frozen=True)
class Shown:
    """One row as text. ``key``: ID of the volume, or the source of a cohort on disk, whose ``labels`` is None."""

    key: str
    name: str
    size: str
    spacing: str
    kind: str
    chosen: bool
    usable: bool
    notes: tuple[str, ...]
    segmentation: str | None = None
    classLabel: str = ""


class VolumeRows:
    """Drives a QTableWidget. ``changed(key, what, value)`` tells a user's change.

    ``what`` is ``chosen`` (bool), ``segmentation`` (ID, "" for none) or ``classLabel`` (text).
    """

    def __init__(self, table: Any, changed: Callable[[str, str, Any], None]) -> None:
        self._table, self._changed = table, changed
        self._structure: Any = None
        self._filled: Any = None  # the structure, and which rows were described when columns got their widths
        self._combos: list[Any] = []
        self._listWidth = 0  # pixels, of the names to choose from
        self._rows: list[Shown] = []
        self._labelNodes: dict[str, str] = {}
        self._classes = False
        self._made = 0  # rows that have their items
        self._lines: list[Shown | None] = []  # what each row shows; None: a user has changed it since
        self._timer = adapter.makeTimer(0, self._goOn)
        headers = [_("Volume"), _("Size\n[voxels]"), _("Spacing\n[mm]"), _("Kind"), _("Segmentation")]
        headers += [_("Class"), _("Notes")]
        table.setColumnCount(len(headers))
        table.setHorizontalHeaderLabels(headers)
        table.horizontalHeader().setStretchLastSection(True)
        table.horizontalHeader().setHighlightSections(False)
        table.verticalHeader().setVisible(False)
        table.connect("itemChanged(QTableWidgetItem*)", self._onItem)

    def show(self, rows: Sequence[Shown], labelNodes: Mapping[str, str], classes: bool = False) -> None:
        """Show ``rows``; ``labelNodes``: names by ID of what can be chosen as segmentation.

        ``classes``: whether classes are wanted. Columns that say nothing are hidden: a panel is narrow. Of many
        new rows some are made at once, and the others between what else the window does.
        """
        structure = ([(row.key, row.segmentation is None) for row in rows], list(labelNodes.items()))
        self._rows, self._labelNodes, self._classes = list(rows), dict(labelNodes), classes
        if structure != self._structure:
            self._structure, self._made = structure, 0
            self._combos, self._lines, self._listWidth = [], [None] * len(rows), 0
            with adapter.blocked(self._table):
                self._table.setRowCount(0)
                self._table.setRowCount(len(rows))
        self._goOn()

    def cleanup(self) -> None:
        """Make no more rows."""
        self._timer.stop()

    def _goOn(self) -> None:
        made, self._made = self._made, min(len(self._rows), self._made + _AT_ONCE)
        with adapter.blocked(self._table):
            for number in range(made, self._made):
                self._make(number, self._rows[number])
            for number, row in enumerate(self._rows[: self._made]):
                if row != self._lines[number]:
                    self._fill(number, row)
                    self._lines[number] = row
        whole = self._made == len(self._rows)
        if whole:
            self._timer.stop()
        else:
            self._timer.start()
        self._fit(whole)

    def _fit(self, whole: bool) -> None:
        """Hide the columns that say nothing; give the others their widths when there is something new to see."""
        rows = self._rows
        hidden = (
            not self._labelNodes,
            not (self._classes or any(row.classLabel for row in rows)),
            not any(row.notes for row in rows),
        )
        for column, hide in zip((SEGMENTATION, CLASS, NOTES), hidden, strict=True):
            self._table.setColumnHidden(column, hide)
        filled = (self._structure, [bool(row.size) for row in rows], hidden, whole)
        if filled != self._filled:  # else the widths are the user's
            self._filled = filled
            self._table.resizeColumnsToContents()
            if self._table.columnWidth(NAME) > _WIDEST_NAME:
                self._table.setColumnWidth(NAME, _WIDEST_NAME)
            # Qt 5 stretches no column that became the last one seen by the hiding of others, until it is told again.
            self._table.horizontalHeader().setStretchLastSection(False)
            self._table.horizontalHeader().setStretchLastSection(True)
            adapter.fitHeight(self._table, _MOST_HIGH)

    def selectedKeys(self) -> list[str]:
        """Keys of the rows that are selected."""
        lines = {index.row() for index in self._table.selectionModel().selectedRows()}
        lines = {line for line in lines if line < self._made}
        return [str(self._table.item(line, NAME).data(ID_ROLE)) for line in sorted(lines)]

    def _make(self, number: int, row: Shown) -> None:
        for column in range(7):
            item = qt.QTableWidgetItem("")
            item.setData(ID_ROLE, row.key)
            self._table.setItem(number, column, item)
        if row.segmentation is not None:
            self._table.setCellWidget(number, SEGMENTATION, self._combo(number, row.key))

    def _combo(self, number: int, key: str) -> Any:
        combo = qt.QComboBox()
        combo.setSizeAdjustPolicy(qt.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        combo.setMinimumContentsLength(8)
        combo.addItems([_("none"), *self._labelNodes.values()])
        ids = ["", *self._labelNodes]
        # Else the list is as narrow as the column, and names that begin and end alike look the same in it. All lists
        # have the same names: measuring them is for the first one.
        view = combo.view()
        self._listWidth = self._listWidth or min(view.sizeHintForColumn(0) + _SCROLL_BAR, _WIDEST_LIST)
        view.setMinimumWidth(self._listWidth)

        def chosen(index: int) -> None:
            self._lines[number] = None
            self._changed(key, "segmentation", ids[max(0, index)])

        combo.connect("currentIndexChanged(int)", chosen)
        self._combos.append(combo)  # PythonQt: a widget without another reference may lose its connections
        return combo

    def _fill(self, number: int, row: Shown) -> None:
        notes = "; ".join(row.notes)
        texts = {NAME: row.name, SIZE: row.size, SPACING: row.spacing, KIND: row.kind, NOTES: notes}
        for column, text in {**texts, CLASS: row.classLabel}.items():
            item = self._table.item(number, column)
            if item.text() != text:
                item.setText(text)
            tip = "\n".join([row.name, *row.notes] if column == NAME else row.notes)
            item.setToolTip(adapter.plainTip(tip))
            item.setFlags(self._flags(column, row))
        box = qt.Qt.Checked if row.chosen else qt.Qt.Unchecked
        self._table.item(number, NAME).setCheckState(box)
        combo = self._table.cellWidget(number, SEGMENTATION)
        if combo is not None and row.segmentation is not None:
            ids = list(self._labelNodes)
            what = _("Segmentation or label map that belongs to the volume; for fine-tuning.")
            why = _("Suggested by the volume that it was drawn on, else by its name.")
            name = self._labelNodes.get(row.segmentation)
            combo.setToolTip(adapter.plainTip("\n".join(filter(None, (name, what, why)))))
            with adapter.blocked(combo):
                combo.setCurrentIndex(1 + ids.index(row.segmentation) if row.segmentation in ids else 0)

    def _flags(self, column: int, row: Shown) -> Any:
        flags = qt.Qt.ItemIsSelectable
        if row.usable:
            flags = flags | qt.Qt.ItemIsEnabled
        if column == NAME:
            flags = flags | qt.Qt.ItemIsUserCheckable
        if column == CLASS and row.segmentation is not None:
            flags = flags | qt.Qt.ItemIsEditable
        return flags

    def _onItem(self, item: Any) -> None:
        key = str(item.data(ID_ROLE))
        self._lines[item.row()] = None
        if item.column() == NAME:
            self._changed(key, "chosen", item.checkState() == qt.Qt.Checked)
        elif item.column() == CLASS:
            self._changed(key, "classLabel", item.text().strip())


def summary(job: CheckJob) -> tuple[str, ...]:
    """What a check of a cohort has found, as sentences for one row of the table."""
    bad = list(dict.fromkeys(one.case for one in job.found if one.severity == "error"))
    warned = {one.case for one in job.found} - set(bad)
    words = []
    if bad:
        first = next(one for one in job.found if one.severity == "error")
        text = _("{n} of {total} cases cannot be used; the first: {why}")
        words.append(text.format(n=len(bad), total=job.checked, why=first.message))
    if warned:
        first = next(one for one in job.found if one.case in warned)
        words.append(_("{n} cases with warnings; the first: {why}").format(n=len(warned), why=first.message))
    if job.skipped:
        words.append(_("{n} files are no case").format(n=job.skipped))
    return tuple(words) or (_("checked: nothing found"),)
