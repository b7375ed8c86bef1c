"""The main job on a synthetic cohort: make it, prepare it, pre-train a tiny network, show what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from VoCoCore.data.phantom import make_cohort
from VoCoCore.errors import SettingsError
from VoCoCore.evaluation.preview import draw_preview
from VoCoCore.evaluation.report import write_report
from VoCoCore.presets import DEMO, resolve_pretrain
from VoCoCore.runs.environment import environment
from VoCoCore.runs.events import read_events
from VoCoCore.training.pretrain import pretrain
from VoCoCore.training.reporter import Listener

CASES = 48


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration left: the report, a picture of crops, and the last held-out figures by name."""

    report: Path
    picture: Path
    figures: dict[str, float]
    finished: bool


def demonstrate(
    folder: Path,
    changes: dict[str, Any],
    listeners: Iterable[Listener] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> Demonstration:
    """Run the demonstration in ``folder`` (new or empty), with ``changes`` of settings by dotted name.

    Raises SettingsError where the folder holds something already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise SettingsError(f"{folder} is not empty", "name a new folder with --folder, or delete this one")
    ears = list(listeners)

    def tell(done: int, total: int, text: str) -> None:
        for ear in ears:
            ear({"type": "stage", "name": "making volumes", "done": done, "total": total, "text": text})

    cohort = make_cohort(folder / "cohort", CASES, labels=False, progress=tell)
    settings = resolve_pretrain(
        DEMO, {"data.source": str(cohort), "data.store": str(folder / "store"), **changes}
    )
    first = next(iter(sorted((cohort / "imagesTr").iterdir())))
    picture = draw_preview(first, settings, folder / "crops.png").path
    result = pretrain(
        settings,
        folder / "run",
        environment=environment(),
        listeners=ears,
        should_stop=should_stop,
        after=lambda run: write_report(run.path),
    )
    return Demonstration(result.run / "report.html", picture, held_out(result.run), result.finished)


def held_out(run: Path) -> dict[str, float]:
    """The last held-out figures of a run by name; empty where there are none yet."""
    found = [
        event["values"]
        for event in read_events(run / "events.jsonl")
        if event.get("type") == "metrics" and event.get("split") == "val"
    ]
    return found[-1] if found else {}
