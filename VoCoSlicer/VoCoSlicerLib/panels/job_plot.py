"""The button that plots the chosen run, the choice of what is plotted, and the views as they were afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

from VoCoSlicerLib import adapter
from VoCoSlicerLib.plots import CHARTS
from VoCoSlicerLib.signals import weakly

_SOON = 50  # milliseconds to the next look at a run of which there is more to read


class JobPlot:
    """Follows the checkable ``button``: pressed, the run ``selected()`` is plotted, also when it becomes another.

    ``combo`` says which of CHARTS, in their order; it follows a choice made in the plot view itself.
    """

    def __init__(self, logic: Any, button: Any, combo: Any, selected: Callable[[], Path | None]) -> None:
        self._logic, self._button, self._combo, self._selected = logic, button, combo, selected
        self._charts: dict[str, Any] = {}  # those that were put into the views
        self._soon = adapter.makeTimer(_SOON, self.update)
        self._over = False
        if (window := slicer.util.mainWindow()) is not None:
            adapter.connect(window.moduleSelector(), "moduleSelected(QString)", weakly(self._onModule))

    @property
    def on(self) -> bool:
        """Whether the button is pressed."""
        return bool(self._button.isChecked())

    def toggled(self) -> None:
        """The button was pressed, or let go. Raises VocoError for a run that cannot be read."""
        if not self.on:
            self.stop()
            self._charts = {}
            self._logic.plots.cleanup()
            return
        self.update()
        layouts = getattr(slicer.app, "layoutManager", lambda: None)()
        self._show(layouts.layoutLogic().GetLayoutNode() if layouts is not None else None)

    def chosen(self) -> None:
        """Another chart was chosen."""
        if self.on:
            self._show()

    def update(self) -> None:
        """Bring the plot in step with the run, where the button is pressed; without a run it is let go."""
        if not self.on:
            return
        run = self._selected()
        if run is None:
            self._button.setChecked(False)
            return
        plots, follower = self._logic.plots, self._logic.jobs.follower(run)
        more = bool(follower.poll())
        plots.update(follower)
        self._soon.start() if more or plots.behind else self._soon.stop()
        if plots.charts != self._charts:  # the first ones in this scene
            self._show()
        elif (shown := plots.shown) and self._name not in shown:
            with adapter.blocked(self._combo):
                self._combo.setCurrentIndex(CHARTS.index(shown[0]))

    def stop(self) -> None:
        """Read no more."""
        self._soon.stop()

    def cleanup(self) -> None:
        """Read no more, and listen to nothing."""
        self.stop()
        self._over = True

    def _onModule(self, name: str) -> None:
        """Without a module: Slicer closes, and is about to keep the layout for its next start."""
        if not name and not self._over and self.on:
            self._button.setChecked(False)

    @property
    def _name(self) -> str:
        return CHARTS[max(0, int(adapter.read(self._combo, "currentIndex")))]

    def _show(self, layoutNode: Any = None) -> None:
        self._logic.plots.show(self._name, layoutNode)
        self._charts = self._logic.plots.charts
