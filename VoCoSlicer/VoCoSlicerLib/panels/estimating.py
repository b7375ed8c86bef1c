"""The estimate of a pre-training in the background, and in words whether this machine can do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from VoCoCore.errors import VocoError
from VoCoSlicerLib import adapter
from VoCoSlicerLib.logic_estimate import Needs, lacking, readNeeds

_LOOK = 200  # milliseconds


class Estimating:
    """One estimate at a time; a newer one replaces it. ``changed()`` is called when there is something new to say.

    ``needs``: the figures for the settings asked last, None until they are there; ``error``: why there are none;
    ``log``: what the commands printed.
    """

    def __init__(self, logic: Any, changed: Callable[[], Any]) -> None:
        self._logic, self._changed = logic, changed
        self.needs: Needs | None = None
        self.error: VocoError | None = None
        self.log = ""
        self._asked: dict[str, Any] | None = None
        self._task: Any = None
        self._probe: Any = None
        self._timer = adapter.makeTimer(_LOOK, self._look)

    @property
    def busy(self) -> bool:
        """Whether a command is under way."""
        return self._task is not None or self._probe is not None

    def ask(self, values: Mapping[str, Any], again: bool = False) -> None:
        """Estimate a job of these settings, unless that is known or under way; ``again`` does so anyway."""
        if dict(values) == self._asked and not again:
            return
        self.forget()
        self._asked = dict(values)
        try:
            self._task = self._logic.estimate(values).start()
            if self._logic.facts is None or again:
                self._probe = self._logic.environment.probe().start()
        except VocoError as error:
            self.error = error
        self._timer.start()
        self._changed()

    def forget(self) -> None:
        """Drop the estimate, and what is under way."""
        for task in (self._task, self._probe):
            if task is not None:
                task.cancel()
        self._timer.stop()
        self._task = self._probe = self._asked = self.needs = self.error = None

    def warnings(self, folder: Path, cases: int) -> list[str]:
        """What the machine lacks, and that there is no GPU where there is none."""
        facts = self._logic.facts
        said = lacking(self.needs, facts, folder, cases) if self.needs is not None else []
        if facts is not None and facts.device == "cpu":
            said.append(_("no GPU can be used here: training on the processor takes far longer"))
        return said

    def words(self, folder: Path, cases: int) -> str:
        """What there is to say: figures, what is under way, or why there are none."""
        if self._task is not None:
            return _("Estimating memory, disk and time ...")
        if self.error is not None:
            return _("No estimate: {why}").format(why=self.error.message)
        if self.needs is None:
            return ""
        text = _("About {memory:.1f} GB of memory, {disk:.1f} GB of disk, {time} on {device}")
        return text.format(
            memory=self.needs.memoryMb * 2**20 / 1e9,
            disk=self.needs.diskMb(cases) * 2**20 / 1e9,
            time=self.needs.time,
            device=self.needs.device,
        )

    def _look(self) -> None:
        if self._probe is not None and not self._probe.poll().running:
            self._logic.facts, self._probe = self._logic.environment.facts(self._probe), None
            self._changed()
        if self._task is not None and not self._task.poll().running:
            task, self._task = self._task, None
            self.log, self.error = task.log, task.error()
            try:
                self.needs = None if self.error else readNeeds(task.result())
            except VocoError as error:
                self.error = error
            self._changed()
        if not self.busy:
            self._timer.stop()
