"""`voco compare`: do runs differ, on the same cases, by more than chance?"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from VoCoCore.cli.main import Parser
from VoCoCore.errors import SettingsError

METRICS = ("dice", "iou", "surface_dice", "hd95", "asd")
OUTPUTS = ("comparison.md", "comparison.csv", "comparison.png")
DICE = "dice"


def run(words: Sequence[str]) -> int:
    """Carry out the command."""
    parser = Parser(
        prog="voco compare",
        description="Compare evaluations or fine-tuning runs: means, paired differences, intervals, Wilcoxon's test.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="FOLDER",
        help="folders of 'voco evaluate', fine-tuning runs, or folders of folds",
    )
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", help=f"where to write {', '.join(OUTPUTS)}; default: print only"
    )
    parser.add_argument("--metric", choices=METRICS, help="what is compared of segmentations (dice)")
    parser.add_argument(
        "--baseline", default="", metavar="NAME", help="method that the others are held against (the first)"
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="FOLDER=NAME",
        help="name of a run's method, repeatable; runs of one name are draws of one method",
    )
    asked = parser.parse_args(list(words))
    names = dict(_pair(word) for word in asked.name)
    if len(asked.runs) < 2:
        raise SettingsError("a comparison needs two runs", "name the baseline first, then the others")
    from VoCoCore.evaluation.compare_diagnoses import are_diagnoses

    if are_diagnoses(asked.runs):
        return _diagnoses(asked, names)
    from VoCoCore.evaluation.compare import compare
    from VoCoCore.evaluation.compare_output import markdown, write_comparison
    from VoCoCore.evaluation.compare_read import read_runs

    metric = asked.metric or DICE
    runs = read_runs(asked.runs, metric, names)
    found = compare(runs, metric, _named(asked.baseline, asked.runs, [one.name for one in runs]))
    print(markdown(found), end="")
    if asked.output:
        _tell(write_comparison(_folder(asked.output), found))
    return 0


def _diagnoses(asked: Any, names: Mapping[str, str]) -> int:
    """The same for classifications, whose three scores are compared together."""
    from VoCoCore.evaluation.compare_diagnoses import compare_diagnoses, read_diagnosis_runs
    from VoCoCore.evaluation.diagnoses_output import diagnosis_markdown, write_diagnosis_comparison

    if asked.metric:
        raise SettingsError(
            f"--metric {asked.metric} is of segmentations", "leave it out for classifications"
        )
    runs = read_diagnosis_runs(asked.runs, names)
    found = compare_diagnoses(runs, _named(asked.baseline, asked.runs, [one.name for one in runs]))
    print(diagnosis_markdown(found), end="")
    if asked.output:
        _tell(write_diagnosis_comparison(_folder(asked.output), found))
    return 0


def _folder(output: str) -> Path:
    return Path(os.path.abspath(output))


def _tell(written: Sequence[Path]) -> None:
    print("\n" + "\n".join(f"written: {path}" for path in written))


def _pair(word: str) -> tuple[str, str]:
    folder, _, name = word.rpartition("=")
    if not folder or not name.strip():
        raise SettingsError(
            f"--name needs FOLDER=NAME, not '{word}'", "for example --name runs/first=scratch"
        )
    return folder, name.strip()


def _named(baseline: str, folders: Sequence[str], names: Sequence[str]) -> str:
    """The baseline's name, also where its folder was given."""
    wanted = os.path.abspath(baseline)
    places = [os.path.abspath(folder) for folder in folders]
    return names[places.index(wanted)] if baseline and wanted in places else baseline
