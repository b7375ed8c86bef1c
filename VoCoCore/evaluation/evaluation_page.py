"""evaluation.html: one self-contained page with the scores by label, box plots and the worst cases in pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from VoCoCore.data.images import grid_difference, read_image
from VoCoCore.data.intensity import decide
from VoCoCore.data.patients import cases_of
from VoCoCore.errors import DataError, counted
from VoCoCore.evaluation.boxes import SHOWN, boxes_figure
from VoCoCore.evaluation.cases_table import BY_NAME, Scores, table_of
from VoCoCore.evaluation.metrics import ABSENT, INVENTED, MISSED, Labels
from VoCoCore.evaluation.overlay import Overlay, overlay_figure
from VoCoCore.evaluation.pages import render, svg_text, write_whole
from VoCoCore.evaluation.pairs import Pair
from VoCoCore.evaluation.score_pair import Rules, read_pair, without
from VoCoCore.evaluation.statistics import FEW_PATIENTS, mean_of
from VoCoCore.geometry import to_ras, triple
from VoCoCore.models.card import Colour, palette
from VoCoCore.settings import PrepareSettings

PAGE = "evaluation.html"
COLUMNS = ("dice", "iou", "surface_dice", "hd95", "asd", "volume_error_ml", "volume_error_percent")
MOST_PICTURES = 4
MOST_ROWS = 1000
MOST_NAMED = 12


def write_page(
    folder: Path,
    scores: Scores,
    rules: Rules,
    summary: Mapping[str, Any],
    colours: Mapping[str, Colour] | None = None,
    pairs: Sequence[Pair] = (),
) -> Path:
    """Write evaluation.html into ``folder``; ``pairs`` are what the worst cases' pictures are drawn from, and
    ``rules`` (with all labels) how they were scored.

    ``summary``: the content of summary.json. Raises EnvironmentFault where it cannot be written.
    """
    names = list(rules.labels)
    tables = {name: table_of(scores, names, name) for name in SHOWN}
    shades = dict(zip(names, palette(len(names) + 1)[1:], strict=True)) | dict(colours or {})
    page = render(
        "evaluation.html.j2",
        facts=_facts(summary, len(names)),
        many=cases_of(summary["cases"], summary["patients"]),
        summary=summary,
        few=FEW_PATIENTS,
        most=MOST_NAMED,
        columns=[(BY_NAME[name].title, BY_NAME[name].unit) for name in COLUMNS],
        rows=_label_rows(summary),
        boxes=svg_text(boxes_figure(tables, names), "boxes", _BOXES),
        worst=_worst(scores, rules, pairs, shades),
        cases=_case_rows(scores)[:MOST_ROWS],
        all_cases=sum(map(len, scores.values())),
        written=datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    return write_whole(folder / PAGE, page.encode(errors="replace"))


_BOXES = (
    "Box plots of Dice, surface Dice and HD95 of all cases, a row for each label; the table has the figures"
)


def _number(value: float | None) -> float:
    return nan if value is None else value


def _between(name: str, found: Mapping[str, Any]) -> str:
    """``low to high`` of a 95 % interval, empty where there is none."""
    low, high = (BY_NAME[name].text(_number(found[end])) for end in ("low", "high"))
    return f"{low} to {high}" if found["low"] is not None else ""


def _facts(summary: Mapping[str, Any], labels: int) -> list[tuple[str, str, str]]:
    cases, patients = summary["cases"], summary["patients"]
    whose = f", of {counted(patients, 'patient')}" if patients < cases else ""
    facts = [("cases", str(cases), f"{counted(labels, 'label')} each{whose}")]
    for name in ("dice", "surface_dice", "hd95", "asd"):
        measure, found = BY_NAME[name], summary["overall"][name]
        title = f"{measure.title}, mean" if name != "asd" else measure.title
        note = f"95 %: {_between(name, found)}" if _between(name, found) else ""
        if name == "surface_dice":
            note = f"within {summary['tolerance_mm']:g} mm" + (f"; {note}" if note else "")
        facts.append((title, f"{measure.text(_number(found['mean']))} {measure.unit}", note))
    return facts


def _label_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a label and one for all: mean and interval of each column, and how often a mask was empty."""
    found = {**summary["labels"], "mean over labels": summary["overall"]}
    rows = []
    for name, figures in found.items():
        cells = [
            (BY_NAME[c].text(_number(figures[c]["mean"])), _between(c, figures[c]))
            if c in figures
            else ("", "")
            for c in COLUMNS
        ]
        counts = [figures.get(state, "") for state in (MISSED, INVENTED, ABSENT)]
        scored = figures["dice"]["n"]
        rows.append(
            {"name": name, "cells": cells, "n": scored, "counts": counts, "all": "values" not in figures}
        )
    return rows


def case_mean(scores: Mapping[str, Any]) -> float:
    """Mean Dice of a case over the labels that it or its prediction has."""
    return mean_of(np.array([found.dice for found in scores.values()]))


def _case_rows(scores: Scores) -> list[list[str]]:
    rows = []
    for case, labels in scores.items():
        for label, found in labels.items():
            figures = [BY_NAME[name].text(getattr(found, name)) for name in COLUMNS]
            rows.append([case, label, *figures, found.state])
    return rows


def _worst(
    scores: Scores, rules: Rules, pairs: Sequence[Pair], colours: dict[str, Colour]
) -> list[dict[str, Any]]:
    """The cases of the lowest mean Dice, with words and, where their files can be read, a picture."""
    by_case = {pair.case: pair for pair in pairs}
    order = sorted(
        (case for case in scores if np.isfinite(case_mean(scores[case]))), key=lambda c: case_mean(scores[c])
    )
    shown = []
    for place, case in enumerate(order[:MOST_PICTURES]):
        picture, why = "", "its files are not at hand"
        if case in by_case:
            try:
                figure = overlay_figure(overlay_of(by_case[case], rules, colours))
                picture, why = svg_text(figure, f"worst{place}", _PICTURE.format(case)), ""
            except DataError:
                why = "its files could not be read again"
        shown.append({"case": case, "words": _words(scores[case]), "picture": picture, "why": why})
    return shown


_PICTURE = "Case {}: reference and prediction side by side on an axial and a coronal slice"


def _words(found: Mapping[str, Any]) -> str:
    """Mean Dice of a case and its worst labels."""
    dice = BY_NAME["dice"]
    order = sorted((n for n in found if np.isfinite(found[n].dice)), key=lambda n: found[n].dice)
    parts = []
    for name in order[:3]:
        hd95 = BY_NAME["hd95"].text(found[name].hd95)
        state = found[name].state
        said = state if state else f"HD95 {hd95} mm"
        parts.append(f"{name} {dice.text(found[name].dice)} % ({said})")
    return f"mean Dice {dice.text(case_mean(found))} %; lowest: {', '.join(parts)}"


def overlay_of(pair: Pair, rules: Rules, colours: dict[str, Colour]) -> Overlay:
    """Read a pair, and its image where it is known, for its picture; where nothing counts, both maps are empty.

    Raises DataError where a file cannot be read.
    """
    reference, prediction, _ = read_pair(pair, rules.resample)
    image = None
    if pair.reference.image is not None:
        image = _grey(pair, reference.array.shape, reference.affine)
    spacing = triple(reference.spacing, "the spacing of a reference")
    ours, theirs, _ = without(rules.ignored, reference.array, prediction.array)
    ours, theirs = _scored_only(ours, rules.labels), _scored_only(theirs, rules.labels)
    return Overlay(ours, theirs, image, spacing, rules.labels, colours)


def _scored_only(array: np.ndarray, labels: Labels) -> np.ndarray:
    """The map without the values that no label has: what is not scored shall not choose the slice."""
    table = np.zeros(int(np.iinfo(array.dtype).max) + 1, array.dtype)
    known = [value for values in labels.values() for value in values if value < len(table)]
    table[known] = known
    return table[array]


def _grey(pair: Pair, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray | None:
    """The image in [0, 1] along R, A, S; None where it lies on another grid or cannot be read."""
    assert pair.reference.image is not None
    try:
        volume = read_image(pair.reference.image)
        if grid_difference(*_turned_header(volume.array.shape, volume.affine), shape, affine):
            return None
        order, flips, _ = to_ras(volume.array.shape, volume.affine)
        array = np.flip(volume.array.transpose(order), flips)
        return decide(array, PrepareSettings(), None).apply(array.astype(np.float32))
    except DataError:
        return None


def _turned_header(shape: Sequence[int], affine: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    order, _, turned = to_ras(shape, affine)
    return tuple(shape[axis] for axis in order), turned
