"""The estimate of a job in the background, and in words whether this machine can do it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from VoCoCore.errors import VocoError
from VoCoCore.runs.narrate import duration
from VoCoSlicerLib import adapter
from VoCoSlicerLib.logic_estimate import EstimateJob, Needs, lacking
from VoCoSlicerLib.logic_steps import EXPORTING
from VoCoSlicerLib.threads import asVocoError

_LOOK = 200  # milliseconds


class Estimating:
    """One estimate at a time; a newer one replaces it. ``changed()`` is called when there is something new to say.

    ``needs``: the figures for what was asked last, None until they are there; ``error``: why there are none;
    ``asked``: whether anything was asked since `forget`.
    """

    def __init__(self, logic: Any, changed: Callable[[], Any]) -> None:
        self._logic, self._changed = logic, changed
        self.needs: Needs | None = None
        self.error: VocoError | None = None
        self._judged: tuple[Any, list[str]] = (None, [])  # needs, folder and cases, and what these lack
        self._asked: Any = None
        self._job: EstimateJob | None = None
        self._now: Any = None
        self._probe: Any = None
        self._timer = adapter.makeTimer(_LOOK, self._look)

    @property
    def asked(self) -> bool:
        """Whether anything was asked since `forget`."""
        return self._asked is not None

    @property
    def busy(self) -> bool:
        """Whether something is under way."""
        return self._job is not None or self._probe is not None

    def ask(self, question: Any, make: Callable[[], EstimateJob], again: bool = False) -> None:
        """Do the estimate that ``make`` starts, unless it is known or under way; ``again`` does so anyway.

        ``question``: what it depends on, of any kind that can be compared.
        """
        if question == self._asked and not again:
            return
        self.forget()
        self._asked = question
        try:
            self._job = make()
            if self._logic.facts is None or again:
                self._probe = self._logic.environment.probe().start()
        except Exception as error:  # a timer has nobody to raise to
            self.error = asVocoError(error, "the estimate")
        self._timer.start()
        self._changed()

    def forget(self) -> None:
        """Drop the estimate, and what is under way."""
        for work in (self._job, self._probe):
            if work is not None:
                work.cancel()
        self._timer.stop()
        self._job = self._probe = self._asked = self._now = self.needs = self.error = None

    def warnings(self, folder: Path, cases: int) -> list[str]:
        """What the machine lacks, and that there is no GPU where there is none."""
        facts = self._logic.facts
        if (question := (self.needs, folder, cases)) != self._judged[0]:  # the disk is asked once for each
            self._judged = question, lacking(*question) if self.needs is not None else []
        said = list(self._judged[1])
        if facts is not None and facts.device == "cpu":
            said.append(
                _(
                    "The graphics card cannot be used, see Environment: training runs on the processor and takes much "
                    "longer."
                )
                if facts.cards
                else _("No GPU was found: training runs on the processor and takes much longer.")
            )
        return said

    def words(self, cases: int) -> str:
        """What there is to say: figures, what is under way, or why there are none."""
        if self._job is not None:
            now = self._now
            if now is not None and now.stage == EXPORTING and now.text:
                return _("Writing volumes: {text}").format(text=now.text)
            return _("Estimating memory, disk and time ...")
        if self.error is not None:
            return _("No estimate: {why}").format(why=self.error.message)
        if self.needs is None:
            return ""
        text = _("Needs about {memory:.1f} GB of memory, {disk:.1f} GB of disk and {time} {device}.")
        return text.format(
            memory=self.needs.memoryMb * 2**20 / 1e9,
            disk=self.needs.diskMb(cases) * 2**20 / 1e9,
            time=roughly(self.needs.seconds),
            device=_deviceWords().get(self.needs.device, ""),
        )

    def plan(self) -> str:
        """What a fine-tuning will choose by its cases, a line each; empty where nothing is left to choose."""
        return "\n".join(self.needs.plan) if self.needs is not None else ""

    def _look(self) -> None:
        if self._probe is not None and not self._probe.poll().running:
            self._logic.facts, self._probe = self._logic.environment.facts(self._probe), None
            self._changed()
        if self._job is not None:
            self._now = self._job.poll()
            if self._now.finished:
                job, self._job = self._job, None
                self.needs, self.error = job.needs, self._now.error
            self._changed()
        if not self.busy:
            self._timer.stop()


def roughly(seconds: float) -> str:
    """A length of time as exactly as an estimate is: ``30 min`` of 29 min 48 s, ``5 h 10 min`` of 5 h 12 min."""
    if not math.isfinite(seconds):
        return duration(seconds)
    part = next((part for part, below in ((1, 60), (60, 7200), (600, 86400)) if seconds < below), 3600)
    return duration(max(1, round(seconds / part)) * part)


def _deviceWords() -> dict[str, str]:
    return {
        "cpu": _("on the processor"),
        "cuda": _("on the graphics card"),
        "mps": _("on the graphics processor of this Mac"),
    }
