"""Score a folder of predictions: pairs over worker processes, then the tables, the summary and the page."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from VoCoCore.data.check_pool import Died, run_each, usable_cores
from VoCoCore.data.label_maps import ignored_value
from VoCoCore.data.patients import Patients, first_cases
from VoCoCore.errors import DataError, SettingsError, counted
from VoCoCore.evaluation.cases_table import (
    PER_CASE,
    SUMMARY,
    Scores,
    summarise,
    with_all_labels,
    write_results,
)
from VoCoCore.evaluation.evaluation_page import PAGE, write_page
from VoCoCore.evaluation.label_names import LabelNames, choose_labels
from VoCoCore.evaluation.metrics import TOLERANCE, Labels, check_rules
from VoCoCore.evaluation.pairs import Pair, Pairing, find_predictions, find_references, make_pairs
from VoCoCore.evaluation.score_pair import Rules, Scored, score_pair
from VoCoCore.evaluation.segment_names import by_segment_names, with_values_of
from VoCoCore.runs.directory import NOTES
from VoCoCore.runs.files import is_leftover, writing
from VoCoCore.runs.narrate import duration
from VoCoCore.runs.privacy import without_names

Progress = Callable[[int, int, str], None]
_MOST_WORKERS = 8


@dataclass(frozen=True)
class Problems:
    """What kept cases from being scored, and what is worth knowing of those that were."""

    unpredicted: tuple[str, ...] = ()
    unreferenced: tuple[str, ...] = ()
    failed: tuple[Scored, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()  # (case, what)

    def to_dict(self) -> dict[str, Any]:
        """As summary.json has it, without the folders of this machine."""
        return {
            "without_prediction": list(self.unpredicted),
            "without_reference": list(self.unreferenced),
            "failed": [{"case": s.case, "message": without_names(s.fault)} for s in self.failed],
            "notes": [{"case": case, "note": note} for case, note in self.notes],
        }


@dataclass(frozen=True)
class Evaluation:
    """What was found: the scores of every case with every label, how (``rules``, with these labels), and what went
    wrong.
    """

    scores: Scores
    names: LabelNames
    rules: Rules
    pairs: tuple[Pair, ...] = ()
    problems: Problems = field(default_factory=Problems)

    @property
    def labels(self) -> Labels:
        """The labels that were scored, with the values that each stands for."""
        return self.rules.labels

    @cached_property
    def patients(self) -> Patients:
        """Which of the scored cases are one patient's, as far as the references know."""
        owners = ((pair.case, pair.reference.patient) for pair in self.pairs)
        return first_cases((case, owner) for case, owner in owners if case in self.scores)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        return {
            "cases": len(self.scores),
            "tolerance_mm": self.rules.tolerance,
            "labels_from": self.names.source,
            **summarise(self.scores, self.labels, self.patients),
            **self.problems.to_dict(),
        }


def evaluate(
    predictions: str | Path,
    references: str | Path,
    *,
    labels: str = "",
    tolerance: float = TOLERANCE,
    split: str = "",
    resample: bool = False,
    workers: int | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Evaluation:
    """Score the predictions below a folder against the references of a folder or list of cases.

    ``labels``: see `label_names.parse_asked`. ``tolerance`` in mm, of the surface Dice. ``split``: of the references.
    ``resample``: bring predictions on another grid onto the reference's. ``workers``: processes, 0 for none, None
    chooses. Cases that cannot be scored are among the problems of what is returned. Raises DataError where there is
    nothing to score, SettingsError for a bad option.
    """
    found, index = find_references(references, split)
    place = Path(os.path.abspath(os.path.expanduser(predictions)))
    found, index = with_values_of(place, found, index)
    pairing = make_pairs(found, find_predictions(place))
    pairs, names = by_segment_names(pairing.pairs, choose_labels(labels, index, place))
    pairing = replace(pairing, pairs=pairs)
    check_rules(names.labels or {"any": (1,)}, tolerance)
    ignored = ignored_value(index.labels) if index is not None else None
    rules = Rules(names.labels, names.declared, tolerance, resample, ignored)
    scored = _score_all(pairing.pairs, rules, workers, progress)
    problems = _problems(pairing, scored)
    scores, known = _gathered(scored, names.labels)
    if scores:
        return Evaluation(scores, names, replace(rules, labels=known), pairing.pairs, problems)
    why = f"none of {counted(len(pairing.pairs), 'prediction')} can be scored"
    if problems.failed:
        first = problems.failed[0]
        raise DataError(f"{why}; the first: {first.fault}", first.hint or "mend the files")
    raise DataError(
        f"{why}: no label map marks anything in {place}", "check that these are the right folders"
    )


def write_evaluation(folder: Path, done: Evaluation) -> Path:
    """Write per_case.csv, summary.json and evaluation.html into ``folder``; returns it.

    Raises EnvironmentFault where they cannot be written.
    """
    write_results(folder, done.scores, done.summary, done.patients)
    write_page(folder, done.scores, done.rules, done.summary, done.names.colours, done.pairs)
    return folder


def open_folder(folder: str | Path) -> Path:
    """The folder for the results, made where it is missing; an older evaluation in it is replaced.

    Raises SettingsError where it holds anything else, EnvironmentFault where it cannot be made or written.
    """
    path = Path(os.path.abspath(os.path.expanduser(folder)))
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        inside = sorted(name for name in os.listdir(path) if not is_leftover(name))
        TemporaryFile(dir=path).close()  # may be written, which should not turn out after hours of scoring
    others = [name for name in inside if name not in (PER_CASE, SUMMARY, PAGE, *NOTES)]
    if others:
        raise SettingsError(
            f"{path} is not empty: it holds {others[0]}", "name a new folder for the evaluation with -o"
        )
    return path


def _score_all(pairs: Sequence[Pair], rules: Rules, workers: int | None, progress: Progress) -> list[Scored]:
    if workers is None:
        # Starting a worker takes about as long as a small case.
        workers = 0 if len(pairs) < 3 else max(1, min(usable_cores(), _MOST_WORKERS, len(pairs)))
    results: dict[int, Scored] = {}
    first = 0.0
    for position, result in run_each(partial(score_pair, rules=rules), pairs, workers):
        pair = pairs[position]
        if isinstance(result, Died):
            message = f"the process that scored {pair.prediction.path} died (exit code {result.exit_code})"
            result = Scored(pair.case, fault=message, hint="out of memory? use fewer workers")
        results[position] = result
        # Timed from the first result on: before it, workers are starting.
        first = first or time.monotonic()
        done, left = len(results) - 1, len(pairs) - len(results)
        words = f", {duration((time.monotonic() - first) / done * left)} left" if done and left else ""
        progress(len(results), len(pairs), pair.case + words)
    return [results[position] for position in range(len(pairs))]


def _problems(pairing: Pairing, scored: Iterable[Scored]) -> Problems:
    return Problems(
        pairing.unpredicted,
        pairing.unreferenced,
        tuple(one for one in scored if one.fault),
        tuple((one.case, note) for one in scored for note in one.notes),
    )


def _gathered(scored: Iterable[Scored], labels: Labels) -> tuple[Scores, dict[str, tuple[int, ...]]]:
    """Scores by case with every label; where nobody named labels, the values that occurred in any case."""
    found = {one.case: one.scores for one in scored if not one.fault}
    known: Mapping[str, tuple[int, ...]] = labels
    if not labels:
        values = {int(name.rpartition(" ")[2]) for scores in found.values() for name in scores}
        known = {f"label {value}": (value,) for value in sorted(values)}
    return (with_all_labels(found, known) if known else {}), dict(known)
