"""docs/evidence.md and its figure, from the finished cells of `evidence.py`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from VoCoCore.evaluation.pages import COLOURS, png_bytes, styled, write_whole
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
# Single runs of one draw (seed 0, 2 labelled cases): they chose the settings of the table, and say no more.
TRIED = """\
## What was tried before

One run each, on the torso, 2 labelled cases, feature size 8, the same draw: enough to choose the table's settings by,
not to tell small differences from chance. Mean Dice in percent.

| fine-tuning from scratch | Dice |
|---|---|
| crops of 32 x 32 x 32 voxels of 4 mm, learning rate 2e-3, 600 steps | 23.4 |
| the same, learning rate 5e-3 | 20.3 |
| the same, without augmentation | 19.4 |
| crops of 32 x 32 x 48 voxels of 4 mm | 29.2 |
| crops of 32 x 32 x 32 voxels of 6 mm | 42.7 |
| crops of 48 x 48 x 48 voxels of 6 mm, 400 steps | 42.0 |
| voxels of 6.1 x 4.9 x 5.5 mm, 800 steps: Tversky in place of Dice, learning rate 2e-3 | 37.9 |
| the same: Dice, learning rate 6e-3 | 58.3 |
| the same: Dice, learning rate 1.2e-2 | 57.2 |
| the same: learning rate 6e-3, 3 crops a step in place of 2 | 61.5 |

| from a pre-training with both losses (grid 4x4x1), learning rate 6e-3 | Dice |
|---|---|
| the encoder at the decoder's learning rate | 59.4 |
| the encoder at 0.3 of it | 59.2 |

- How much of the body a crop shows matters most: organs that look alike are told apart by what lies around them.
- The tiny U-Net wants a learning rate of 4e-3 to 1e-2 in so few steps. At 2e-3 whole organs (kidneys, aorta) stay
  unlearnt: a class that is never predicted has next to no gradient in the Dice loss.
- Nodules of 9 mm stay unlearnt at voxels of 6 mm, in every row.
- With 1200 steps in place of 800 every organ but the smallest is learnt from 2 cases, from any start: 58.6 and 58.6
  (two draws) from scratch, 59.4 and 58.1 from both losses.

| pre-training, both losses, grid 4x4x1: held-out position accuracy (chance 0.11), effective rank of 16 bases | |
|---|---|
| gradient not clipped, 1000 steps (with 100 to 500 steps spikes, and bases that grow alike) | 0.31, 12.3 |
| gradient clipped at 1 (now the default of the recipe `paper`), 900 of 1500 steps | 0.44, 14.4 |
| the same, 1500 steps | 0.49, 15.0 |
| the same with a U-Net of four levels, whose lowest map has 32 voxels in place of 4 | 0.53, 15.4 |
| clipped, learning rate 3e-3, 200 steps (1e-3: 0.46, 13.3) | 0.35, 13.1 |
| grid 4x4x2, whose crops of 16 x 16 x 32 leave 2 voxels in the lowest map | collapsed |
"""
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
    devices = sorted({str(cell["device"]).split(",")[0] for cell in found})
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
        scores, shown = _scores(cells, ("method", "labels")), []
        for (method, labels), draws in sorted(scores.items()):
            base = scores.get(("scratch", labels), {})
            shared = sorted(set(draws) & set(base))
            low, high = bootstrap_interval(np.asarray([draws[d] - base[d] for d in shared]))
            if method != "scratch" and (low > 0 or high < 0):
                shown.append(f"{method} with {labels} labels {'helps' if low > 0 else 'harms'}")
        words = "; ".join(shown) or "no difference from scratch is told from chance at this budget"
        lines.append(f"- {table}: {words}.")
    return lines


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
        "| start | " + " | ".join(f"{n} labelled cases" for n in counts) + " |",
        "|---|" + "---|" * len(counts),
    ]
    for method in methods[1:]:
        row = [_difference(scores.get((method, n), {}), scores.get(("scratch", n), {})) for n in counts]
        lines.append(f"| {method} | " + " | ".join(row) + " |")
    return lines


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


def _difference(ours: Mapping[int, float], base: Mapping[int, float]) -> str:
    shared = sorted(set(ours) & set(base))
    if not shared:
        return "–"
    values = np.asarray([ours[draw] - base[draw] for draw in shared])
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
