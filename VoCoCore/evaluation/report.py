"""report.html of a run: one self-contained file that anyone can open, print or pass on.

It is written from what the job left in the run's folder, at any time: before the first metrics, while the job
runs, and after it stopped, failed or was lost. It holds no path, no file name and no case's name.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from VoCoCore.errors import SettingsError
from VoCoCore.evaluation import curves, tables
from VoCoCore.evaluation.figures import CropView, crop_table, crops_figure
from VoCoCore.evaluation.pages import render, svg_text, write_whole
from VoCoCore.evaluation.run_page import RunPage
from VoCoCore.evaluation.verdict import judge, number, percent
from VoCoCore.geometry import Box, Grid, triple

Event = Mapping[str, Any]


def write_report(run_folder: str | Path) -> Path:
    """Write ``report.html`` into the run ``run_folder`` and return its path.

    May be called again at any time; the file is replaced as a whole. Raises SettingsError where there is
    no run, EnvironmentFault where the file cannot be written.
    """
    page = RunPage.open(run_folder)
    text = render(
        "report.html.j2",
        title="VoCo pre-training report",
        usual="recipe, preset and encoder",
        words=_words(page.settings),
        facts=_facts(page),
        verdict=judge(page.latest("val"), _bases(page.settings), page.active),
        curves=_curves(page.events),
        checks=tables.checks_table(page.events),
        pictures=_pictures(page.run.validation / "latest.npz"),
        **page.common(),
    )
    return write_whole(page.run.path / "report.html", text.encode(errors="replace"))


def _bases(settings: Mapping[str, Any]) -> int | None:
    counts = settings.get("crops.counts")
    return prod(counts) if isinstance(counts, list | tuple) and counts else None


def _facts(page: RunPage) -> list[tuple[str, str, str]]:
    val = page.latest("val") or {}
    return [
        *page.progress_facts(),
        ("held-out position accuracy", percent(number(val, "position_accuracy")), _bounds(val)),
        (
            "chance",
            percent(number(val, "chance")),
            f"labels shuffled: {percent(number(val, 'shuffled_accuracy'))}",
        ),
        *page.work_facts(),
    ]


def _words(settings: Mapping[str, Any]) -> list[str]:
    named = [settings.get("recipe"), settings.get("preset"), settings.get("model.encoder")]
    words = [
        f"{kind} {name}" for kind, name in zip(("recipe", "preset", "encoder"), named, strict=True) if name
    ]
    counts = settings.get("crops.counts")
    return [*words, " × ".join(str(n) for n in counts) + " base crops"] if counts else words


def _bounds(values: Mapping[str, Any]) -> str:
    low, high = number(values, "accuracy_low"), number(values, "accuracy_high")
    return f"95 %: {percent(low)} to {percent(high)}" if np.isfinite(low) else ""


def _curves(events: Sequence[Event]) -> str:
    figure = curves.curves_figure(events)
    return "" if figure is None else svg_text(figure, "curves", curves.DESCRIPTION)


def _pictures(path: Path) -> dict[str, Any]:
    """Pictures and tables of the held-out volumes that the job kept; none without a whole file."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            views, step = _views(kept), int(kept["step"])
    except (OSError, ValueError, LookupError, EOFError, BadZipFile, zlib.error, SettingsError):
        return {"step": 0, "shown": []}
    shown = []
    for place, view in enumerate(views):
        text = f"Held-out volume {place + 1}: {len(view.boxes)} random crops, true and predicted labels"
        shown.append({"picture": svg_text(crops_figure(view), f"volume{place}", text), **crop_table(view)})
    return {"step": step, "shown": shown}


def _views(kept: Mapping[str, np.ndarray]) -> list[CropView]:
    grid, views = Grid(tuple(kept["volume_size"]), tuple(kept["counts"])), []
    for i in range(len(kept["axial"])):
        axial, coronal = (_grey(kept[name][i]) for name in ("axial", "coronal"))
        boxes = tuple(Box(tuple(start), tuple(edges)) for start, edges in kept["boxes"][i])
        spacing = triple(kept["spacing"][i], "the spacing of a picture")
        views.append(CropView(axial, coronal, grid, boxes, kept["labels"][i], kept["logits"][i], spacing))
    return views


def _grey(image: np.ndarray) -> np.ndarray:
    return image / 255.0 if image.dtype == np.uint8 else image
