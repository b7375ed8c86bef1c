"""The button that plots the chosen run, and lets the views come back as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer


class JobPlot:
    """Follows the checkable ``button``: pressed, the run ``selected()`` is plotted, also when it becomes another."""

    def __init__(self, logic: Any, button: Any, selected: Callable[[], Path | None]) -> None:
        self._logic, self._button, self._selected = logic, button, selected
        self._plotted: Path | None = None

    def toggled(self) -> None:
        """The button was pressed, or let go. Raises VocoError for a run that cannot be read."""
        if not self._button.isChecked():
            self._plotted = None
            self._logic.plots.cleanup()
            return
        self.update()
        layouts = getattr(slicer.app, "layoutManager", lambda: None)()
        self._logic.plots.show(layouts.layoutLogic().GetLayoutNode() if layouts is not None else None)

    def update(self) -> None:
        """Bring the plot in step with the run, where the button is pressed."""
        run = self._selected()
        if not self._button.isChecked() or run is None:
            return
        follower = self._logic.jobs.follower(run)
        follower.poll()
        self._logic.plots.update(follower)
        if self._plotted != run:
            self._plotted = run
            self._logic.plots.show()
