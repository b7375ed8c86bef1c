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
_MOST_HIGH = 10  # rows that are seen without scrolling
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

        ``classes``: whether classes are wanted. Columns that say nothing are hidden: a panel is narrow.
        """
        structure = ([(row.key, row.segmentation is None) for row in rows], list(labelNodes.items()))
        with adapter.blocked(self._table):
            if structure != self._structure:
                self._structure = structure
                self._build(rows, labelNodes)
            for number, row in enumerate(rows):
                self._fill(number, row, labelNodes)
        hidden = (
            not labelNodes,
            not (classes or any(row.classLabel for row in rows)),
            not any(row.notes for row in rows),
        )
        for column, hide in zip((SEGMENTATION, CLASS, NOTES), hidden, strict=True):
            self._table.setColumnHidden(column, hide)
        filled = (structure, [bool(row.size) for row in rows], hidden)
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
        return [str(self._table.item(line, NAME).data(ID_ROLE)) for line in sorted(lines)]

    def _build(self, rows: Sequence[Shown], labelNodes: Mapping[str, str]) -> None:
        self._table.setRowCount(0)
        self._table.setRowCount(len(rows))
        self._combos = []
        for number, row in enumerate(rows):
            for column in range(7):
                item = qt.QTableWidgetItem("")
                item.setData(ID_ROLE, row.key)
                self._table.setItem(number, column, item)
            if row.segmentation is not None:
                self._table.setCellWidget(number, SEGMENTATION, self._combo(row.key, labelNodes))

    def _combo(self, key: str, labelNodes: Mapping[str, str]) -> Any:
        combo = qt.QComboBox()
        combo.setSizeAdjustPolicy(qt.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        combo.setMinimumContentsLength(8)
        combo.addItem(_("none"))
        for name in labelNodes.values():
            combo.addItem(name)
        ids = ["", *labelNodes]
        combo.connect(
            "currentIndexChanged(int)", lambda index: self._changed(key, "segmentation", ids[max(0, index)])
        )
        self._combos.append(combo)  # PythonQt: a widget without another reference may lose its connections
        return combo

    def _fill(self, number: int, row: Shown, labelNodes: Mapping[str, str]) -> None:
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
            ids = list(labelNodes)
            what = _(
                "Segmentation or label map that belongs to the volume; for fine-tuning. Suggested by its name."
            )
            name = labelNodes.get(row.segmentation)
            combo.setToolTip(adapter.plainTip(f"{name}\n{what}" if name else what))
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
