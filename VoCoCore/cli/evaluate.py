"""`voco evaluate`: score segmentations against references, label by label and case by case."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from VoCoCore.cli.main import Parser
from VoCoCore.data.patients import cases_of
from VoCoCore.errors import DataError, SettingsError, counted

if TYPE_CHECKING:
    from VoCoCore.evaluation.evaluate import Evaluation, Problems

MOST_NAMED = 20


def run(words: Sequence[str]) -> int:
    """Carry out the command."""
    asked = _parser().parse_args(list(words))
    if not (math.isfinite(asked.tolerance) and asked.tolerance >= 0):
        raise SettingsError(
            f"--tolerance cannot be {asked.tolerance:g} mm", "give 0 or more millimetres, such as 1"
        )
    if asked.workers is not None and asked.workers < 0:
        raise SettingsError(f"--workers cannot be {asked.workers}", "give 0 or more")
    from VoCoCore.cli.data import Progress
    from VoCoCore.evaluation.evaluate import evaluate, open_folder, write_evaluation

    folder = open_folder(asked.output)
    with Progress("evaluating") as progress:
        done = evaluate(
            asked.predictions,
            asked.references,
            labels=asked.labels,
            tolerance=asked.tolerance,
            split=asked.split,
            resample=asked.resample,
            workers=asked.workers,
            progress=progress,
        )
    _name_unscored(done.problems)
    _tell(done, write_evaluation(folder, done))
    if fault := _fault(done.problems, asked.allow_missing, len(done.scores)):
        raise fault
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="voco evaluate",
        description="Score label maps against true ones: Dice, IoU, surface Dice, HD95, surface distance, volumes.",
    )
    parser.add_argument("--predictions", required=True, metavar="FOLDER", help="predicted label maps")
    parser.add_argument(
        "--references",
        required=True,
        metavar="FOLDER|index.json",
        help="folder of true label maps, or a list of cases: index.json, dataset.json, CSV",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FOLDER",
        help="where per_case.csv, summary.json and evaluation.html go",
    )
    parser.add_argument(
        "--labels",
        default="",
        metavar="NAME=VALUE,...",
        help="what to score: names of the list's labels, liver=1,tumour=2+3, or a JSON file; default: all",
    )
    parser.add_argument(
        "--tolerance", type=float, default=1.0, metavar="MM", help="of the surface Dice, in millimetres (1)"
    )
    parser.add_argument("--split", default="", metavar="train|val|test", help="only these cases of the list")
    parser.add_argument(
        "--resample",
        action="store_true",
        help="bring predictions on another grid onto the reference's (nearest neighbour)",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="exit with 0 although references lack a prediction or the other way round",
    )
    parser.add_argument("--workers", type=int, help="processes that score cases; 0: this one alone")
    return parser


def _tell(done: Evaluation, folder: Path) -> None:
    """Print a table of the labels, and where everything is."""
    from rich.console import Console
    from rich.table import Table

    from VoCoCore.evaluation.cases_table import BY_NAME

    names = ("dice", "surface_dice", "hd95", "asd")
    table = Table(box=None, pad_edge=False)
    for heading in (
        "label",
        "cases",
        *(f"{BY_NAME[n].title}, {BY_NAME[n].unit}" for n in names),
        "missed",
        "invented",
    ):
        table.add_column(heading, justify="left" if heading == "label" else "right")
    for label, found in {**done.summary["labels"], "mean": done.summary["overall"]}.items():
        cells = [BY_NAME[n].text(math.nan if found[n]["mean"] is None else found[n]["mean"]) for n in names]
        counts = [str(found.get(state, "")) for state in ("missed", "invented")]
        table.add_row(label, str(found["dice"]["n"]), *cells, *counts)
    # Where nobody's terminal sets a width, a table must not be folded to 80 columns.
    Console(width=None if sys.stdout.isatty() else 160).print(table, highlight=False)
    overall = done.summary["overall"]["dice"]
    if overall["low"] is not None:
        print(f"mean Dice {overall['mean']:.1%}, 95 % interval {overall['low']:.1%} to {overall['high']:.1%}")
    many = cases_of(len(done.scores), done.summary["patients"])
    print(f"{many} scored; evaluation.html, per_case.csv and summary.json are in {folder}")


def _name_unscored(problems: Problems) -> None:
    """Print every case that was not scored, and why."""
    for word, names in (
        ("no prediction for", problems.unpredicted),
        ("no reference for", problems.unreferenced),
    ):
        for name in names[:MOST_NAMED]:
            print(f"{word} {name}")
        if len(names) > MOST_NAMED:
            print(f"{word} {len(names) - MOST_NAMED} more, all named in summary.json")
    for one in problems.failed:
        print(f"not scored: {one.case}: {one.fault}")


def _fault(problems: Problems, allow_missing: bool, scored: int) -> DataError | None:
    """The error to end with where not every case was scored; None where all were, or it is meant."""
    if problems.failed:
        first = problems.failed[0]
        return DataError(
            f"{len(problems.failed)} of {counted(len(problems.failed) + scored, 'case')} could not be scored; "
            f"the first: {first.fault}",
            first.hint or "mend the file and evaluate again",
        )
    parts, ways = [], []
    for what, other, names, way in (
        ("reference", "prediction", problems.unpredicted, "predict the missing ones"),
        ("prediction", "reference", problems.unreferenced, "add the missing references"),
    ):
        if names:
            parts.append(f"{counted(len(names), what, 'has', 'have')} no {other}, such as {names[0]}")
            ways.append(way)
    if allow_missing or not parts:
        return None
    ways += ["choose cases with --split", "or say that it is meant with --allow-missing"]
    return DataError("; ".join(parts), ", ".join(ways))
