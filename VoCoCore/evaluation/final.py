"""The last look of a fine-tuning: cases kept for the end, predicted from their own files, scored at native spacing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from VoCoCore.data.cases import Case, Index, load_index
from VoCoCore.data.images import grid_difference, read_case
from VoCoCore.data.label_maps import ignored_value, map_along
from VoCoCore.data.patients import EACH_ITS_OWN, Patients, grouped
from VoCoCore.data.private_names import names_in
from VoCoCore.devices import choose
from VoCoCore.downstream.scores import diagnosis_scores, score_name
from VoCoCore.errors import DataError, StopRequested, counted
from VoCoCore.evaluation.case_names import CaseNames
from VoCoCore.evaluation.cases_table import SUMMARY, Scores, summarise, table_of, write_results
from VoCoCore.evaluation.diagnoses_table import DIAGNOSES, Diagnosis, write_diagnoses
from VoCoCore.evaluation.metrics import TOLERANCE, LabelMetrics, Labels, case_metrics
from VoCoCore.evaluation.score_pair import without
from VoCoCore.evaluation.statistics import column_means, mean_of
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.geometry import steps_of
from VoCoCore.inference.predict import Predictor
from VoCoCore.models.card import ModelCard
from VoCoCore.models.model_files import load_model
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.events import read_events
from VoCoCore.runs.narrate import shell_word
from VoCoCore.runs.privacy import without_names
from VoCoCore.training.intervals import bootstrap_interval, counts_of

Emit = Callable[..., None]
Found = TypeVar("Found")


def examine(
    run_folder: str | Path, emit: Emit | None = None, should_stop: Callable[[], bool] = lambda: False
) -> dict[str, float]:
    """Score the test cases of a finished fine-tuning, once, with the network that was kept.

    Without test cases the validation cases are scored in the same way. Tables go to ``test/`` or ``validation/`` of the
    run, where cases go by the hash of their images; ``private/cases.json`` says what they are called. Scores of test
    cases go to its events. Nothing happens where the run is not finished. Returns the scores.

    ``should_stop`` is asked before each case. Raises StopRequested when it says so; the next call begins anew.
    """
    run = RunDirectory(run_folder)
    status = run.read_status()
    if status is None or status.state != "finished":
        return {}
    settings = FinetuneSettings.from_dict(run.read_settings())
    index, split = _held_out(run)
    if not _of(index, split) or _is_done(run, settings.task, split):
        return {}
    tell: Any = emit or run.events.emit
    model, card = load_model(run.weights / "model.safetensors")
    predictor = Predictor([(model, card)], choose(settings.run), overlap=settings.run.overlap)
    score = _segmentations if settings.task == "segmentation" else _diagnoses
    look_at = partial(_look_at, run, _of(index, split), tell, should_stop)
    values = score(run, index, split, predictor, card, look_at)
    if split == "test" and not _is_told(run):
        tell("metrics", step=status.step, split="test", values=values)
    return values


def is_examined(run_folder: str | Path) -> bool:
    """Whether the held-out cases of a finished fine-tuning have been scored; yes where there are none."""
    run = RunDirectory(run_folder)
    task = FinetuneSettings.from_dict(run.read_settings()).task
    index, split = _held_out(run)
    return not _of(index, split) or _is_done(run, task, split)


def _held_out(run: RunDirectory) -> tuple[Index, str]:
    """The run's cases, and the split that is scored: test, or else val."""
    index = load_index(run.private / "index.json")
    return index, "test" if _of(index, "test") else "val"


def _of(index: Index, split: str) -> list[Case]:
    return [case for case in index.cases if case.split == split]


def _folder(run: RunDirectory, split: str) -> Path:
    return run.path / ("test" if split == "test" else "validation")


def _made_folder(run: RunDirectory, split: str) -> Path:
    folder = _folder(run, split)
    folder.mkdir(exist_ok=True)
    return folder


def _is_done(run: RunDirectory, task: str, split: str) -> bool:
    # The table that is written last says that the look came to its end.
    last = _folder(run, split) / (SUMMARY if task == "segmentation" else DIAGNOSES)
    return last.is_file() and (split != "test" or _is_told(run))


def _is_told(run: RunDirectory) -> bool:
    return any(e["type"] == "metrics" and e.get("split") == "test" for e in read_events(run.events_file))


def _look_at(
    run: RunDirectory,
    cases: Sequence[Case],
    tell: Emit,
    should_stop: Callable[[], bool],
    look: Callable[[Case], Found],
    faults: tuple[type[Exception], ...],
) -> tuple[dict[str, Found], Patients]:
    """What ``look`` finds of each case, by its public name; cases with one of the ``faults`` are left out, and said."""
    names, found = CaseNames(), dict[str, Found]()
    private = names_in(run.private / "index.json")
    for number, case in enumerate(cases, start=1):
        if should_stop():
            done = f"{number - 1} of {counted(len(cases), 'held-out case')} scored; the weights are there"
            raise StopRequested(done, f"voco jobs resume {shell_word(run.path)} scores all of them")
        try:
            one = look(case)
            found[names.of(case)] = one
        except faults as error:
            # Names of files may name patients.
            told = f"one of the held-out cases cannot be scored: {without_names(error, private)}"
            tell("warning", message=told, hint="'voco data check' of the list of cases says which")
        tell("stage", name="last look", done=number, total=len(cases), text="")
    names.write(run.private)
    return found, names.patients()


def _segmentations(
    run: RunDirectory,
    index: Index,
    split: str,
    predictor: Predictor,
    card: ModelCard,
    look_at: Callable[..., tuple[dict[str, Any], Patients]],
) -> dict[str, float]:
    labels = {kind.name: kind.values for kind in card.classes if kind.values != (0,)}
    ignored = ignored_value(index.labels)

    def look(case: Case) -> dict[str, LabelMetrics]:
        return _score(case, predictor, labels, ignored)

    scores, patients = look_at(look, (DataError,))
    summary = {"cases": len(scores), "tolerance_mm": TOLERANCE, **summarise(scores, labels, patients)}
    write_results(_made_folder(run, split), scores, summary, patients)
    return _values(scores, labels, patients)


def _score(case: Case, predictor: Predictor, labels: Labels, ignored: int | None) -> dict[str, LabelMetrics]:
    array, affine = read_case(case)
    assert case.label is not None
    truth = map_along(case.label, array.shape[1:], affine)
    if difference := grid_difference(array.shape[1:], affine, truth.array.shape, truth.affine):
        raise DataError(f"the label {case.label.path} is not on the grid of its image: {difference}")
    ours, theirs, away = without(ignored, truth.array, predictor.segment(array, affine))
    return case_metrics(ours, theirs, steps_of(affine), labels, ignored=away)


def _values(scores: Scores, labels: Labels, patients: Patients = EACH_ITS_OWN) -> dict[str, float]:
    whose = grouped(list(scores), patients)
    table = table_of(scores, list(labels), "dice")
    low, high = bootstrap_interval(table, whose)
    each = dict(zip((score_name("dice", name) for name in labels), column_means(table), strict=True))
    values = {"dice": mean_of(column_means(table)), "dice_low": low, "dice_high": high, **counts_of(whose)}
    return {name: float(v) for name, v in {**values, **each}.items() if np.isfinite(v)}


def _diagnoses(
    run: RunDirectory,
    index: Index,
    split: str,
    predictor: Predictor,
    card: ModelCard,
    look_at: Callable[..., tuple[dict[str, Any], Patients]],
) -> dict[str, float]:
    classes = [kind.name for kind in card.classes]

    def look(case: Case) -> Diagnosis:
        return Diagnosis(classes.index(str(case.target)), predictor.classify(*read_case(case)))

    found, patients = look_at(look, (DataError, ValueError))
    seen = {case: replace(one, patient=patients[case]) for case, one in found.items()}
    write_diagnoses(_made_folder(run, split) / DIAGNOSES, classes, seen)
    scores: dict[str, Any] = diagnosis_scores(
        np.asarray([one.probabilities for one in seen.values()]).reshape(-1, len(classes)),
        np.asarray([one.truth for one in seen.values()], int),
    )
    values = {name: scores[name] for name in ("accuracy", "balanced_accuracy", "auroc")}
    values |= counts_of(grouped(list(seen), patients))
    return {name: float(v) for name, v in values.items() if np.isfinite(v)}
