"""The table of the crop preview: base crops that the random crop meets, with y and what a run says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import qt
from slicer.i18n import tr as _

from VoCoSlicerLib.preview_nodes import classColours

MOST_ROWS = 4096
LEAST = 0.0005  # less is written as 0.000
_MISSING = "–"


class LabelsTable:
    """Fills a QTableWidget; rows are kept from one drag to the next, so that only texts change."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._colours = np.zeros((0, 3))
        titles = (_("Class"), _("Place i, j, k"), _("Overlap y"), _("Predicted"), _("Similarity"))
        table.setColumnCount(len(titles))
        table.setHorizontalHeaderLabels(list(titles))
        table.verticalHeader().setVisible(False)
        table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)

    def show(
        self, labels: np.ndarray, counts: tuple[int, int, int], scores: dict[str, np.ndarray], whole: bool
    ) -> None:
        """List the labels (n,) of a grid of ``counts``; ``whole``: all, else those met, largest first."""
        met = int(np.count_nonzero(labels >= LEAST))
        order = range(len(labels)) if whole else np.argsort(-labels, kind="stable")[:met]
        numbers = [int(number) for number in list(order)[:MOST_ROWS]]
        self._resize(len(numbers))
        if len(self._colours) != len(labels):
            self._colours = classColours(len(labels))
        for name, column in (("predicted", 3), ("similarity", 4)):
            self._table.setColumnHidden(column, name not in scores)
        for row, number in enumerate(numbers):
            place = ", ".join(str(int(part)) for part in np.unravel_index(number, counts))
            texts = [str(number), place, f"{labels[number]:.3f}"]
            for name in ("predicted", "similarity"):
                texts.append(f"{scores[name][number]:.3f}" if name in scores else _MISSING)
            for column, text in enumerate(texts):
                self._table.item(row, column).setText(text)
            red, green, blue = (int(255 * part) for part in self._colours[number])
            self._table.item(row, 0).setBackground(qt.QBrush(qt.QColor(red, green, blue)))
            self._table.item(row, 0).setForeground(qt.QBrush(qt.QColor(_ink(self._colours[number]))))

    def _resize(self, rows: int) -> None:
        before = self._table.rowCount
        self._table.setRowCount(rows)
        for row in range(before, rows):
            for column in range(5):
                item = qt.QTableWidgetItem("")
                item.setTextAlignment(qt.Qt.AlignCenter)
                self._table.setItem(row, column, item)


def _ink(colour: np.ndarray) -> str:
    """Black or white, whichever can be read on ``colour``."""
    return "#000000" if float(colour @ (0.3, 0.59, 0.11)) > 0.5 else "#ffffff"
