"""docs/evidence.md and its figure, from the finished cells of `evidence.py`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from VoCoCore.evaluation.pages import COLOURS, png_bytes, styled, write_whole
from VoCoCore.evaluation.statistics import FEWEST_PAIRS
from VoCoCore.training.intervals import bootstrap_interval

PAPER_6 = {"scratch": (80.53, 86.11), "L_pred": (82.96, 88.82), "L_pred + L_reg": (83.85, 90.54)}
PAPER_7 = {
    "2x2x1": (81.56, 86.73),
    "3x3x1": (82.77, 89.31),
    "4x4x1": (83.85, 90.54),
    "5x5x1": (83.60, 90.49),
    "3x3x2": (82.86, 89.14),
    "4x4x2": (83.47, 90.52),
}
# Single runs of draws that the tables leave out: they chose the settings of the tables, and say no more.
TRIED = Path(__file__).with_name("evidence_tried.md").read_text(encoding="utf-8")
Cells = list[dict[str, Any]]


def write_page(results: Path) -> Path:
    """Write the page beside the folder ``results`` of finished cells, its figure into pictures/; returns the page."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    lines = ["# Does pre-training help?", "", *_intro(found)]
    for table, title in (("torso", "Synthetic torso"), ("hippocampus", "Hippocampus, real MRs")):
        cells = [cell for cell in found if cell["table"] == table]
        if cells:
            lines += ["", f"## {title}", "", *_tables(cells)]
    if any(cell["table"] == "torso" for cell in found):
        lines += ["", *_grids([cell for cell in found if cell["table"] == "torso" and cell["labels"] == 2])]
    lines += ["", *_pretexts(found), "", *_verdict(found), "", TRIED.rstrip()]
    _figure(found, results.parent / "pictures" / "evidence.png")
    lines += ["", "![Mean Dice by labelled cases and method](pictures/evidence.png)", ""]
    return write_whole(results.parent / "evidence.md", "\n".join(lines).encode())


def _intro(found: Cells) -> list[str]:
    devices = sorted({str(cell["device"]).split(",")[0].replace("threads", "thread") for cell in found})
    return [
        "`python Testing/benchmarks/evidence.py` makes all on this page: cohorts, pre-trainings, fine-tunings at",
        "equal budgets, and the tables. A cell is the mean Dice in percent over held-out cases that nothing was chosen",
        "by, of the last state; the range is the 95 % interval of the mean over draws (which cases are labelled, and",
        "the seed of the network). Networks and budgets are tiny, so that a laptop can repeat it: compare rows, not",
        f"with other publications. {len(found)} cells, on {', '.join(devices)}; steps of pre-training and fine-tuning: "
        + ", ".join(sorted({" and ".join(map(str, cell["steps"])) for cell in found}))
        + ".",
    ]


def _verdict(found: Cells) -> list[str]:
    """Whether any difference from scratch is told from chance, in words."""
    lines = ["## What this shows", ""]
    for table in sorted({cell["table"] for cell in found}):
        cells = [cell for cell in found if cell["table"] == table]
        cells = [cell for cell in cells if cell["grid"] in ("4x4x1", _usual_grid(cells))]
        methods = sorted({cell["method"] for cell in cells} - {"scratch"})
        shown = [words for method in methods for words in _told(cells, method)]
        words = "; ".join(shown) or "no difference from scratch is told from chance at this budget"
        lines += wrap(f"- {table}: {words}.", 118, subsequent_indent="  ")
    return lines


def _told(cells: Cells, method: str) -> list[str]:
    """The differences of a method from scratch whose interval leaves 0 out, in words; a test needs enough draws."""
    scores, shown = _scores(cells, ("method", "labels")), []
    counts = sorted({cell["labels"] for cell in cells if cell["method"] == method})
    by_count = [_gains(scores, method, n) for n in counts]
    tried = {f"with {n} labelled cases": gain for n, gain in zip(counts, by_count, strict=True)}
    tried["over all numbers of labelled cases"] = _together(by_count)
    for where, gain in tried.items():
        low, high = bootstrap_interval(np.asarray(list(gain.values())))
        if not (low > 0 or high < 0):
            continue
        if len(gain) < FEWEST_PAIRS:
            shown.append(f"{method} less scratch, {where}: {_difference(gain)}: too few draws for a test")
        else:
            shown.append(f"{method} {'helps' if low > 0 else 'harms'} {where}")
    return shown


def _tables(cells: Cells) -> list[str]:
    """Method by number of labels: means, intervals, and differences from scratch draw by draw."""
    cells = [cell for cell in cells if cell["grid"] in ("4x4x1", _usual_grid(cells))]
    counts = sorted({cell["labels"] for cell in cells})
    scores = _scores(cells, ("method", "labels"))
    methods = [name for name in PAPER_6 if any(key[0] == name for key in scores)]
    lines = ["| start | " + " | ".join(f"{n} labelled cases" for n in counts) + " |"]
    lines += ["|---|" + "---|" * len(counts)]
    for method in methods:
        lines.append(f"| {method} | " + " | ".join(_cell(scores.get((method, n), {})) for n in counts) + " |")
    lines += ["", "Difference from scratch, draw by draw (points of Dice):", ""]
    lines += [
        "| start | " + " | ".join(f"{n} labelled cases" for n in counts) + " | mean of these |",
        "|---|" + "---|" * (len(counts) + 1),
    ]
    for method in methods[1:]:
        by_count = [_gains(scores, method, n) for n in counts]
        together = _together(by_count)
        lines.append(f"| {method} | " + " | ".join(map(_difference, [*by_count, together])) + " |")
    return lines


def _gains(scores: Mapping[tuple, Mapping[int, float]], method: str, labels: int) -> dict[int, float]:
    """Points of Dice above scratch, by draw."""
    ours, base = scores.get((method, labels), {}), scores.get(("scratch", labels), {})
    return {draw: ours[draw] - base[draw] for draw in sorted(set(ours) & set(base))}


def _together(gains: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The mean over the numbers of labels that have all draws: cells of a draw share a seed and are no two draws."""
    most = max(map(len, gains), default=0)
    whole = [each for each in gains if len(each) == most]
    shared = set.intersection(*(set(each) for each in whole)) if whole else set()
    return {draw: float(np.mean([each[draw] for each in whole])) for draw in sorted(shared)}


def _usual_grid(cells: Cells) -> str:
    grids = [cell["grid"] for cell in cells]
    return max(set(grids), key=grids.count)


def _grids(cells: Cells) -> list[str]:
    """Table 7 of the paper: grids, with both losses."""
    scores = _scores([cell for cell in cells if cell["method"] == "L_pred + L_reg"], ("grid",))
    if len(scores) < 2:
        return []
    shared = set.intersection(*(set(draws) for draws in scores.values()))
    lines = [
        "## Grids",
        "",
        f"Both losses, 2 labelled cases, the {len(shared)} draws that all grids have.",
        "",
    ]
    lines += ["| grid | here | paper: BTCV | paper: MM-WHS |", "|---|---|---|---|"]
    for (grid,), draws in sorted(scores.items()):
        paper = PAPER_7.get(grid, ("", ""))
        same = {draw: value for draw, value in draws.items() if draw in shared}
        lines.append(f"| {grid} | {_cell(same)} | {paper[0]} | {paper[1]} |")
    return lines


def _pretexts(found: Cells) -> list[str]:
    """What each pre-training had learnt of its own task: one that learnt nothing can help nobody."""
    lines = ["## What the pre-trainings learnt", "", "On held-out volumes, after the last step.", ""]
    lines += [
        "| cohort | grid | losses | position accuracy (95 % from) | chance | effective rank |",
        "|" + "---|" * 6,
    ]
    rows = {}
    for cell in found:
        if learnt := cell.get("pretext"):
            bases = int(np.prod([int(n) for n in cell["grid"].split("x")]))
            numbers = (
                f"{learnt['position_accuracy']:.2f} ({learnt['accuracy_low']:.2f}) | {learnt['chance']:.2f}"
            )
            rank = f"{learnt['effective_rank']:.1f} of {bases}"
            rows[cell["table"], cell["grid"], cell["method"]] = f"{numbers} | {rank}"
    return lines + [f"| {' | '.join(key)} | {rows[key]} |" for key in sorted(rows)]


def _scores(cells: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[tuple, dict[int, float]]:
    """Mean Dice in percent by draw, for each combination of ``names``."""
    found: dict[tuple, dict[int, float]] = defaultdict(dict)
    for cell in cells:
        found[tuple(cell[name] for name in names)][cell["draw"]] = 100 * cell["scores"]["dice"]
    return found


def _cell(draws: Mapping[int, float]) -> str:
    if not draws:
        return "–"
    values = np.asarray([draws[draw] for draw in sorted(draws)])
    return f"{values.mean():.1f}{_range(values)}"


def _difference(gains: Mapping[int, float]) -> str:
    if not gains:
        return "–"
    values = np.asarray(list(gains.values()))
    better = int((values > 0).sum())
    return f"{values.mean():+.1f}{_range(values)}, better in {better} of {len(values)}"


def _range(values: np.ndarray) -> str:
    low, high = bootstrap_interval(values)
    return f" ({low:.1f} to {high:.1f}; n = {len(values)})" if np.isfinite(low) else f" (n = {len(values)})"


def _figure(found: Cells, path: Path) -> None:
    from matplotlib.figure import Figure

    tables = sorted({cell["table"] for cell in found}, reverse=True)
    with styled():
        figure = Figure(figsize=(4.6 * max(len(tables), 1), 3.4), layout="constrained")
        panels = figure.subplots(1, max(len(tables), 1), squeeze=False)[0]
        for axes, table in zip(panels, tables, strict=False):
            cells = [c for c in found if c["table"] == table]
            cells = [c for c in cells if c["grid"] in ("4x4x1", _usual_grid(cells))]
            scores = _scores(cells, ("method", "labels"))
            for number, method in enumerate(PAPER_6):
                _line(
                    axes, method, number, {key[1]: draws for key, draws in scores.items() if key[0] == method}
                )
            axes.set_title(f"{table}: mean Dice, %")
            axes.set_xlabel("labelled cases")
            axes.set_xscale("log")
            counts = sorted({c["labels"] for c in cells})
            axes.set_xticks(counts, [str(n) for n in counts])
            axes.minorticks_off()
            axes.grid(True, axis="y")
            axes.legend()
        write_whole(path, png_bytes(figure))


def _line(axes: Any, method: str, number: int, by_count: Mapping[int, Mapping[int, float]]) -> None:
    counts = sorted(by_count)
    if not counts:
        return
    shifted = [count * 1.04 ** (number - 1) for count in counts]  # so that the points do not cover each other
    for x, count in zip(shifted, counts, strict=True):
        values = list(by_count[count].values())
        axes.plot([x] * len(values), values, "o", ms=3, color=COLOURS[number], alpha=0.5)
    means = [np.mean(list(by_count[count].values())) for count in counts]
    axes.plot(shifted, means, "D-", ms=5, color=COLOURS[number], label=method)
