"""The choice of the weights that a job starts from: none, those of a known run, or a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from VoCoCore.settings import SCRATCH
from VoCoSlicerLib import adapter


class StartWeights:
    """Drives a combo box and a button that asks for a file; ``changed(init)`` tells what a user chose."""

    def __init__(self, logic: Any, combo: Any, button: Any, changed: Callable[[str], Any]) -> None:
        self._logic, self._combo, self._changed = logic, combo, changed
        self._values = [SCRATCH]
        combo.addItem(_("from scratch"))
        combo.connect("currentIndexChanged(int)", self._onPicked)
        adapter.onClicked(button, self._ask)

    def offer(self) -> None:
        """Offer the known runs that have weights by now; what is chosen stays chosen."""
        for row in self._logic.jobs.rows():
            result = self._logic.jobs.result(row.path)
            if result is not None and str(row.path) not in self._values:
                with adapter.blocked(self._combo):
                    self._add(str(row.path), f"{row.name} ({result[0]})")

    def show(self, init: str) -> None:
        """Show what is chosen: ``scratch``, a run's folder or a file."""
        init = init or SCRATCH
        with adapter.blocked(self._combo):
            if init not in self._values:
                self._add(init, Path(init).name)
            self._combo.setCurrentIndex(self._values.index(init))
        self._combo.setToolTip(init if init != SCRATCH else _("Weights to start from"))

    def _add(self, value: str, text: str) -> None:
        self._values.append(value)
        self._combo.addItem(text)

    def _ask(self) -> None:
        path = adapter.chooseFile(
            _("File of weights"), "", "*.safetensors *.pt *.pth (*.safetensors *.pt *.pth)"
        )
        if path:
            self._changed(path)

    def _onPicked(self, index: int) -> None:
        if 0 <= index < len(self._values):
            self._changed(self._values[index])
