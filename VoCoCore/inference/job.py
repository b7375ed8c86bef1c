"""Predict many cases: one bad case does not stop the others, and what is done is not done again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from VoCoCore.data.cases import Case
from VoCoCore.data.images import content_hash, read_case
from VoCoCore.errors import DataError, EnvironmentFault, SettingsError, VocoError
from VoCoCore.inference import results
from VoCoCore.inference.predict import Predictor
from VoCoCore.inference.restore import to_source
from VoCoCore.inference.tiling import tile
from VoCoCore.runs.files import read_json, write_json, writing
from VoCoCore.runs.narrate import duration

MEMORY = ".voco-predictions.json"
Progress = Callable[[int, int, str], None]


@dataclass
class Done:
    """What came of the cases: how many were predicted, how many had been before, and what failed."""

    predicted: int = 0
    skipped: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    stopped: bool = False


class Predictions:
    """A folder of predictions by one model. Raises SettingsError where it holds another model's."""

    def __init__(
        self, folder: Path, predictor: Predictor, models: Sequence[Path], options: dict[str, Any]
    ) -> None:
        self.folder, self.predictor, self.options = folder, predictor, options
        self.maker = _maker(models, options)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        kept = read_json(folder / MEMORY) or {}
        if kept and kept.get("maker") != self.maker and not options.get("overwrite"):
            raise SettingsError(
                f"{folder} holds predictions of another model or with other options",
                "name a new folder, or use --overwrite",
            )
        same = kept.get("maker") == self.maker
        self.known: dict[str, str] = dict(kept.get("cases", {})) if same else {}
        table = results.DIAGNOSES if self.classifies else results.VOLUMES
        self.table = folder / table
        self.rows = [list(row.values()) for row in results.read_table(self.table)] if same else []

    @property
    def classifies(self) -> bool:
        """Whether the model gives a diagnosis, not label maps."""
        return self.predictor.card.task == "classification"

    def predict(self, cases: Sequence[Case], progress: Progress, should_stop: Callable[[], bool]) -> Done:
        """Predict what is not done. Raises EnvironmentFault for disk or memory; bad cases are counted."""
        done, began = Done(), time.monotonic()
        if not self.classifies:
            results.write_names(self.folder, self.predictor.card)
        for number, case in enumerate(cases):
            if should_stop():
                done.stopped = True
                break
            try:
                fresh = self._one(case)
                done.predicted += fresh
                done.skipped += not fresh
            except EnvironmentFault:
                raise
            except VocoError as error:
                done.failed.append((case.id, str(error)))
            except Exception as error:  # one file that nobody foresaw must not end the work on all others
                done.failed.append((case.id, f"{type(error).__name__}: {error}"))
            rate = (time.monotonic() - began) / (number + 1)
            left = len(cases) - number - 1
            words = f"about {duration(rate * left)} left" if left else ""
            progress(number + 1, len(cases), words)
        return done

    def _one(self, case: Case) -> bool:
        """Predict one case; False where it is done already."""
        content = hashlib.sha256(
            "+".join(content_hash(source) for source in case.images).encode()
        ).hexdigest()
        path = self.folder / f"{_file_name(case.id)}.{self.options['format']}"
        if self.known.get(case.id) == content and (self.classifies or path.is_file()):
            return False
        array, affine = read_case(case)
        rows = (
            self._diagnose(case, array, affine)
            if self.classifies
            else self._segment(case, path, array, affine)
        )
        self.rows = [row for row in self.rows if row[0] != case.id] + rows
        header = ["case", "predicted", *(kind.name for kind in self.predictor.card.classes)]
        results.write_table(
            self.table, header if self.classifies else ["case", "label", "value", "volume_ml"], self.rows
        )
        self.known[case.id] = content
        write_json(self.folder / MEMORY, {"maker": self.maker, "cases": self.known}, durable=False)
        return True

    def _diagnose(self, case: Case, array: np.ndarray, affine: np.ndarray) -> list[list[Any]]:
        found = self.predictor.classify(array, affine)
        name = self.predictor.card.classes[int(found.argmax())].name
        return [[case.id, name, *(f"{value:.6f}" for value in found)]]

    def _segment(self, case: Case, path: Path, array: np.ndarray, affine: np.ndarray) -> list[list[Any]]:
        card, sink = self.predictor.card, None
        if self.options.get("probabilities"):
            plan = self.predictor.plan(array, affine)
            shape = tuple(array.shape[1:][place] for place in plan.order)
            axis = tile(plan.shape, card.window, self.predictor.overlap).axis
            folder = self.folder / "probabilities"
            sink = results.Probabilities(folder, card.outputs, shape, axis)
        labels = self.predictor.segment(array, affine, sink)
        if sink is not None:
            target = self.folder / "probabilities" / f"{_file_name(case.id)}.nii.gz"
            sink.write(target, lambda values: to_source(values, plan), affine)
        results.write_labels(path, labels, affine, card)
        values = {name: value for name, (value, _) in results.segments_of(card).items()}
        return results.as_rows(case.id, results.volumes_ml(labels, affine, card), values)


def _maker(models: Sequence[Path], options: dict[str, Any]) -> str:
    """What made a prediction: the content of all weights, and every option that changes it."""
    facts = [content_hash_of(path) for path in models]
    facts += [
        f"{name}={options.get(name)}" for name in ("format", "overlap", "mirror", "largest", "probabilities")
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def content_hash_of(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_name(case: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in case) or "case"


def failures(done: Done) -> DataError:
    """The error that names what failed."""
    named = "; ".join(f"{case}: {why}" for case, why in done.failed[:5])
    more = f"; and {len(done.failed) - 5} more" if len(done.failed) > 5 else ""
    return DataError(
        f"{len(done.failed)} cases could not be predicted: {named}{more}",
        "all others are done; mend these and run the same command again",
    )
