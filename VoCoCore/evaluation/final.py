"""The last look of a fine-tuning: cases kept for the end, predicted from their own files, scored at native spacing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from VoCoCore.data.cases import Case, load_index
from VoCoCore.data.images import read_case, read_image
from VoCoCore.devices import choose
from VoCoCore.downstream.scores import diagnosis_scores
from VoCoCore.errors import DataError
from VoCoCore.evaluation.cases_table import PER_CASE, write_per_case
from VoCoCore.evaluation.metrics import LabelMetrics, case_metrics
from VoCoCore.evaluation.statistics import bootstrap_interval
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.geometry import spacing_of
from VoCoCore.inference.predict import Predictor
from VoCoCore.models.card import ModelCard
from VoCoCore.models.model_files import load_model
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.events import read_events

Emit = Callable[..., None]


def examine(run_folder: str | Path, emit: Emit | None = None) -> dict[str, float]:
    """Score the test cases of a finished fine-tuning, once; what came out is an event, and a table in ``test/``.

    Nothing happens where there are none or the run is not finished. Returns the scores.
    """
    run = RunDirectory(run_folder)
    status = run.read_status()
    if status is None or status.state != "finished" or _is_done(run):
        return {}
    settings = FinetuneSettings.from_dict(run.read_settings())
    cases = [case for case in load_index(run.private / "index.json").cases if case.split == "test"]
    if not cases:
        return {}
    emit = emit or run.events.emit
    model, card = load_model(run.weights / "model.safetensors")
    predictor = Predictor([(model, card)], choose(settings.run), overlap=settings.run.overlap)
    judge = _segmentations if settings.task == "segmentation" else _diagnoses
    values = judge(run, cases, predictor, card, emit)
    emit("metrics", step=status.step, split="test", values=values)
    return values


def _is_done(run: RunDirectory) -> bool:
    return any(e["type"] == "metrics" and e.get("split") == "test" for e in read_events(run.events_file))


def _segmentations(
    run: RunDirectory, cases: list[Case], predictor: Predictor, card: ModelCard, emit: Emit
) -> dict[str, float]:
    labels = {kind.name: kind.values for kind in card.classes if kind.values != (0,)}
    scores: dict[str, dict[str, LabelMetrics]] = {}
    for number, case in enumerate(cases, start=1):
        try:
            array, affine = read_case(case)
            assert case.label is not None
            truth = read_image(case.label).array
            found = predictor.segment(array, affine)
            scores[case.id] = dict(case_metrics(truth, found, spacing_of(affine), labels))
        except DataError as error:
            emit("warning", message=f"a test case cannot be scored: {error.message}", hint=error.hint)
        emit("stage", name="test cases", done=number, total=len(cases), text="")
    folder = run.path / "test"
    folder.mkdir(exist_ok=True)
    write_per_case(folder / PER_CASE, scores)
    by_case = [_mean([m.dice for m in case.values()]) for case in scores.values()]
    known = np.asarray([value for value in by_case if np.isfinite(value)])
    values = {"dice": _mean(by_case), "cases": float(len(scores))}
    if len(known):
        values["dice_low"], values["dice_high"] = bootstrap_interval(known)
    for name in labels:
        values[f"dice_{name}"] = _mean([case[name].dice for case in scores.values()])
        values[f"hd95_{name}"] = _mean([case[name].hd95 for case in scores.values()])
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}


def _diagnoses(
    run: RunDirectory, cases: list[Case], predictor: Predictor, card: ModelCard, emit: Emit
) -> dict[str, float]:
    names = [kind.name for kind in card.classes]
    probabilities, targets = [], []
    for number, case in enumerate(cases, start=1):
        try:
            probabilities.append(predictor.classify(*read_case(case)))
            targets.append(names.index(str(case.target)))
        except (DataError, ValueError) as error:
            emit("warning", message=f"a test case cannot be scored: {error}", hint="look at its file")
        emit("stage", name="test cases", done=number, total=len(cases), text="")
    found: dict[str, Any] = diagnosis_scores(np.asarray(probabilities), np.asarray(targets))
    values = {name: found[name] for name in ("accuracy", "balanced_accuracy", "auroc")}
    return {name: float(v) for name, v in {**values, "cases": len(targets)}.items() if np.isfinite(v)}


def _mean(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
