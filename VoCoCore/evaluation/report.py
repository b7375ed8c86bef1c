"""report.html of a run: one self-contained file that anyone can open, print or pass on.

It is written from what the job left in the run's folder, at any time: before the first metrics, while the job
runs, and after it stopped, failed or was lost. It holds no path, no file name and no case's name.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from VoCoCore.errors import SettingsError
from VoCoCore.evaluation import curves, tables
from VoCoCore.evaluation.figures import CropView, crop_table, crops_figure
from VoCoCore.evaluation.pages import render, svg_text, write_whole
from VoCoCore.evaluation.privacy import without_names
from VoCoCore.evaluation.verdict import judge, number, percent
from VoCoCore.fields import flatten
from VoCoCore.geometry import Box, Grid, triple
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.events import read_events
from VoCoCore.runs.files import read_json
from VoCoCore.runs.narrate import duration
from VoCoCore.runs.status import ACTIVE, Status

Event = Mapping[str, Any]
STATES = {
    "preparing": "preparing the volumes",
    "running": "running",
    "stopping": "stopping after this step",
    "stopped": "stopped on request; it can be resumed",
    "finished": "finished",
    "failed": "failed",
    "lost": "lost: the process ended without a word; it can be resumed",
}


def write_report(run_folder: str | Path) -> Path:
    """Write ``report.html`` into the run ``run_folder`` and return its path.

    May be called again at any time; the file is replaced as a whole. Raises SettingsError where there is
    no run, EnvironmentFault where the file cannot be written.
    """
    run = RunDirectory.open(run_folder)
    events = read_events(run.events_file)
    settings = _settings(run)
    environment = read_json(run.path / "environment.json")
    state = run.state()
    page = render(
        "report.html.j2",
        **_headline(run, state, events, settings),
        verdict=judge(_latest(events, "val"), _bases(settings), state in ACTIVE),
        errors=_errors(events, run.read_status()),
        warnings=_warnings(events),
        curves=_curves(events),
        checks=tables.checks_table(events),
        pictures=_pictures(run.validation / "latest.npz"),
        data=tables.data_rows(events, environment),
        settings=tables.settings_rows(settings),
        environment=tables.environment_rows(events, environment),
    )
    return write_whole(run.path / "report.html", page.encode())


def _settings(run: RunDirectory) -> dict[str, Any]:
    """Settings by dotted name; empty where the file is damaged, for a report must still come."""
    found = read_json(run.settings_file)
    return dict(flatten(found)) if isinstance(found, dict) else {}


def _bases(settings: Mapping[str, Any]) -> int | None:
    counts = settings.get("crops.counts")
    return prod(counts) if isinstance(counts, list | tuple) and counts else None


def _latest(events: Iterable[Event], split: str) -> Mapping[str, Any] | None:
    found = [
        e
        for e in events
        if e["type"] == "metrics" and e.get("split") == split and isinstance(e.get("values"), dict)
    ]
    return found[-1]["values"] if found else None


def _headline(
    run: RunDirectory, state: str, events: Sequence[Event], settings: Mapping[str, Any]
) -> dict[str, Any]:
    status = run.read_status()
    train, val = _latest(events, "train") or {}, _latest(events, "val") or {}
    step, total = (status.step, status.total) if status else (0, 0)
    accuracy, skipped = number(val, "position_accuracy"), number(train, "skipped_steps")
    rate, memory = number(train, "rate"), number(train, "memory_mb")
    facts = [
        ("state", STATES[state].split(":")[0].split(";")[0], STATES[state].partition("; ")[2]),
        ("step", f"{step:,}", f"of {total:,}" if total else ""),
        ("time", duration(_worked(events)), _starts(events)),
        ("held-out position accuracy", percent(accuracy), _bounds(val)),
        (
            "chance",
            percent(number(val, "chance")),
            f"labels shuffled: {percent(number(val, 'shuffled_accuracy'))}",
        ),
        ("skipped steps", f"{skipped:.0f}" if np.isfinite(skipped) else "unknown", "gradient not finite"),
        (
            "speed",
            f"{rate:.3g} steps/s" if np.isfinite(rate) else "unknown",
            f"{memory:,.0f} MB" if memory > 0 else "",
        ),
    ]
    named = [settings.get("recipe"), settings.get("preset"), settings.get("model.encoder")]
    words = [
        f"{kind} {name}" for kind, name in zip(("recipe", "preset", "encoder"), named, strict=True) if name
    ]
    counts = settings.get("crops.counts")
    if counts:
        words.append(" × ".join(str(n) for n in counts) + " base crops")
    return {
        "state": state,
        "facts": facts,
        "words": words,
        "active": state in ACTIVE,
        "written": _moment(time.time()),
    }


def _bounds(values: Mapping[str, Any]) -> str:
    low, high = number(values, "accuracy_low"), number(values, "accuracy_high")
    return f"95 %: {percent(low)} to {percent(high)}" if np.isfinite(low) else ""


def _worked(events: Sequence[Event]) -> float:
    """Seconds of work in all attempts: gaps before a new attempt do not count."""
    seconds, before = 0.0, None
    for event in events:
        now = event.get("time")
        if not isinstance(now, int | float):
            continue
        if before is not None and event["type"] != "started":
            seconds += max(0.0, now - before)
        before = now
    return seconds


def _starts(events: Sequence[Event]) -> str:
    times = [e["time"] for e in events if isinstance(e.get("time"), int | float)]
    attempts = sum(e["type"] == "started" for e in events)
    if not times:
        return "not begun"
    return f"since {_moment(times[0])}" + (f", {attempts} attempts" if attempts > 1 else "")


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return "an unknown time"


def _errors(events: Sequence[Event], status: Status | None) -> list[dict[str, str]]:
    """The error that ended the run, if one did; earlier attempts' errors are history."""
    if status is None or status.state != "failed":
        return []
    said = {"kind": "", "message": status.message, "hint": "see log.txt in the run's folder"}
    last = next((e for e in reversed(events) if e["type"] in ("error", "started")), None)
    told = last if last is not None and last["type"] == "error" else said
    return [{key: without_names(told.get(key, "")) for key in said}]


def _warnings(events: Sequence[Event]) -> list[tuple[str, str, int]]:
    """Warnings as (message, hint, how often), in the order of their first coming."""
    told = Counter(
        (without_names(e.get("message", "")), without_names(e.get("hint", "")))
        for e in events
        if e["type"] == "warning"
    )
    return [(message, hint, times) for (message, hint), times in told.items()]


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
