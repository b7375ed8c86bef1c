"""The choice of the weights that a job starts from: none, those of a known run, or a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from VoCoCore.settings import SCRATCH
from VoCoSlicerLib import adapter
from VoCoSlicerLib.panels.choice_box import ChoiceBox


class StartWeights:
    """Drives a combo box and a button that asks for a file; ``changed(init)`` tells what a user chose."""

    def __init__(self, logic: Any, combo: Any, button: Any, changed: Callable[[str], Any]) -> None:
        self._logic, self._combo, self._changed = logic, combo, changed
        self._box = ChoiceBox(combo, SCRATCH, _("from scratch"), changed)
        adapter.onClicked(button, self._ask)

    def offer(self) -> None:
        """Offer the known runs that have weights by now; what is chosen stays chosen."""
        for row in self._logic.jobs.rows():
            if row.result:
                self._box.offer(str(row.path), f"{row.name} ({row.result})")

    def show(self, init: str) -> None:
        """Show what is chosen: ``scratch``, a run's folder or a file."""
        init = init or SCRATCH
        self._box.show(init, Path(init).name)
        self._combo.setToolTip(adapter.plainTip(init) if init != SCRATCH else _("Weights to start from"))

    def _ask(self) -> None:
        path = adapter.chooseFile(
            _("File of weights"), "", "*.safetensors *.pt *.pth (*.safetensors *.pt *.pth)"
        )
        if path:
            self._changed(path)
