"""The choice of a run in the crop preview, and the question what it says of the crop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from VoCoCore.errors import VocoError
from VoCoCore.settings import PretrainSettings
from VoCoSlicerLib import adapter
from VoCoSlicerLib.panels.choice_box import ChoiceBox
from VoCoSlicerLib.preview_scores import CropScores, runSettings

_POLL = 100  # milliseconds


class CropRun:
    """Drives the combo box of runs and the button; ``changed(run)`` tells what was chosen, ``showState()`` redraws."""

    def __init__(self, logic: Any, host: Any, ui: Any, changed: Any) -> None:
        self._logic, self._host, self._ui = logic, host, ui
        self._read: tuple[str, PretrainSettings | VocoError | None] = ("", None)
        self._scores: CropScores | None = None
        self._asked = ""  # the run whose answer the preview has, or waits for
        self._timer = adapter.makeTimer(_POLL, self._poll)
        self._box = ChoiceBox(ui.runComboBox, "", _("none"), changed)
        ui.scoreButton.clicked.connect(lambda *_: self.ask())

    def offer(self) -> None:
        """Offer the pre-training runs that are known by now."""
        for row in self._logic.jobs.rows():
            if row.kind == "pretrain":
                self._box.offer(str(row.path), row.path.name)

    def show(self, run: str) -> None:
        """Show what is chosen: a run's folder, or ""; what another one has said is void."""
        if self._scores is not None and self._asked not in ("", run):
            self._asked = ""
            self._timer.stop()
            self._scores.cancel()
            self._logic.preview.setPredicted(None)
            self._logic.preview.setSimilarity(None)
        self._box.show(run, Path(run).name)

    def settings(self, run: str) -> PretrainSettings | None:
        """The settings of ``run``, read once until `cancel`; None for "". Raises SettingsError where it has none."""
        if self._read[0] != run:
            self._read = (run, _settingsOf(run) if run else None)
        found = self._read[1]
        if isinstance(found, VocoError):
            raise found
        return found

    def showState(self, run: str) -> None:
        """Let the button say what it can do now."""
        asking = self._scores is not None and self._scores.running
        self._ui.scoreButton.setEnabled(bool(run) and self._logic.preview.ready and not asking)
        self._ui.scoreButton.setText(_("Asking...") if asking else _("Predict this crop"))

    def ask(self) -> None:
        """Ask the chosen run of the crop where it is now."""
        run = self._box.value
        if run:
            self._scores = self._scores or CropScores(self._logic.environment)
            self._scores.start(run)
            self._asked = run
            self._timer.start()
            self._poll()

    def cancel(self) -> None:
        """Give a question up, and forget what was wrong with a run."""
        self._timer.stop()
        if isinstance(self._read[1], VocoError):
            self._read = ("", None)
        if self._scores is not None:
            self._scores.cancel()

    def _poll(self) -> None:
        if self._scores is not None and self._scores.poll(self._logic.preview):
            self.showState("")
            return
        self._timer.stop()
        self.showState(self._box.value)
        if self._scores is None:
            return
        if self._scores.error is not None:
            self._host.showError(self._scores.error)
        elif self._scores.step is None:
            if self._logic.preview.shown:
                self._host.say(_("The crop or its volume changed meanwhile: ask again"))
        else:
            self._host.say(_("Predicted by step {step} of the run").format(step=self._scores.step))


def _settingsOf(run: str) -> PretrainSettings | VocoError:
    """The settings of a run, or why there are none: reading those of one that is gone may take seconds each time."""
    try:
        return runSettings(run)
    except VocoError as error:
        return error
