"""Predict many cases: one bad case does not stop the others, and what is done is not done again."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from VoCoCore.data.cases import Case
from VoCoCore.data.images import case_content, content_hash, read_case, read_header
from VoCoCore.data.names import file_names
from VoCoCore.data.predicted import predicted_files
from VoCoCore.devices import is_out_of_memory
from VoCoCore.errors import DataError, EnvironmentFault, SettingsError, VocoError, counted, of_the_machine
from VoCoCore.geometry import unusual_voxels
from VoCoCore.inference import results
from VoCoCore.inference.predict import Predictor
from VoCoCore.inference.probabilities import Probabilities
from VoCoCore.inference.provenance import Provenance
from VoCoCore.inference.results_table import Table
from VoCoCore.runs.directory import is_run
from VoCoCore.runs.files import FULL, fault, writing
from VoCoCore.runs.lock import alone
from VoCoCore.runs.narrate import duration

LOCK = ".voco-predictions.lock"
_CHANGING = ("overlap", "mirror", "largest", "probabilities")  # options that change what is predicted
Progress = Callable[[int, int, str], None]


@dataclass
class Done:
    """What came of the cases: how many were predicted, how many had been before, and what failed.

    ``of_others``: files in the folder that another model, or other options, have made.
    """

    predicted: int = 0
    skipped: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    stopped: bool = False
    of_others: list[str] = field(default_factory=list)

    def add(self, case: Case, outcome: bool | str) -> None:
        """Count a case: predicted, done before, or failed for a reason."""
        if isinstance(outcome, str):
            self.failed.append((case.id, outcome))
        else:
            self.predicted += outcome
            self.skipped += not outcome


class Predictions:
    """A folder of predictions by one model.

    ``options``: ``format``, ``overwrite``, and those of the predictor that change what is predicted. Raises
    SettingsError where the folder holds another model's predictions or is a run, DataError for a table in it that
    another program has changed, EnvironmentFault where it cannot be written. Several processes may predict into one
    folder at a time: what all of them write to, they write one after the other.
    """

    def __init__(
        self, folder: Path, predictor: Predictor, models: Sequence[Path], options: dict[str, Any]
    ) -> None:
        self.folder, self.predictor, self.options = folder, predictor, options
        self.maker = _maker(models, options)
        if is_run(folder):
            raise SettingsError(f"{folder} is the folder of a run", "name a new folder for predictions")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._look()

    def _look(self) -> None:
        """See what lies there."""
        self.made = Provenance(self.folder, self.maker)
        same = self.made.last == self.maker
        if self.made.last and not same and not self.options.get("overwrite"):
            raise SettingsError(
                f"{self.folder} holds predictions of another model or with other options",
                "name a new folder, or use --overwrite",
            )
        self.strange = not self.made.last and not self.options.get("overwrite")
        table = self.folder / (results.DIAGNOSES if self.classifies else results.VOLUMES)
        keys = 1 if self.classifies else 2
        self.table = Table(table, self._header(), keys, same, self.made.cases_of_others())

    @property
    def classifies(self) -> bool:
        """Whether the model gives a diagnosis, not label maps."""
        return self.predictor.card.task == "classification"

    def predict(self, cases: Sequence[Case], progress: Progress, should_stop: Callable[[], bool]) -> Done:
        """Predict what is not done; bad cases are counted.

        Raises SettingsError, before anything is written, where a prediction would replace an image or a label map of
        the cases, or a file that no earlier call has left; EnvironmentFault for a disk or a folder.
        """
        named = list(zip(cases, file_names([case.id for case in cases]), strict=True))
        self._check(named)  # leaves nothing in a folder that is refused
        with self._alone():
            self._check(named)  # another process may have begun meanwhile
            self.table.begin()  # before we are named as the maker of what lies here
            self.made.begin()
        done, clock = Done(), _Clock(progress, len(cases))
        if not self.classifies:
            results.write_names(self.folder, self.predictor.card)
        for case, name in named:
            if should_stop():
                done.stopped = True
                break
            done.add(case, self._attempt(case, name, clock))
            clock.next()
        with self._alone():
            self.table.tidy()
        done.of_others = self.made.files_of_others()
        return done

    def _check(self, named: Sequence[tuple[Case, str]]) -> None:
        self._look()
        self._refuse_to_replace(named)

    def _refuse_to_replace(self, named: Sequence[tuple[Case, str]]) -> None:
        targets = [self.table.path, self.folder / results.LABELS]
        targets += [path for _, name in named for path in self._files(name)]
        there = [path for path in targets if path.exists()]
        sources = [source for case, _ in named for source in (*case.images, case.label) if source and there]
        given = {os.path.realpath(path) for source in sources for path in source.paths}
        # A label map that lies beside its image is found as its label by the next call.
        given -= {os.path.realpath(self.folder / name) for name in predicted_files(self.folder)}
        if path := next((path for path in there if os.path.realpath(path) in given), None):
            raise SettingsError(
                f"{path} is an image or a label map of the cases, and a prediction would replace it",
                "name another folder with -o",
            )
        if there and self.strange:
            raise SettingsError(
                f"{there[0]} is there already, and no earlier prediction has left it",
                "name a new folder with -o, or use --overwrite",
            )

    def _files(self, name: str) -> list[Path]:
        """Where the files of one case go; none for a diagnosis."""
        if self.classifies:
            return []
        labels = self.folder / (name + results.FORMATS[self.options["format"]])
        if not self.options.get("probabilities"):
            return [labels]
        return [labels, self.folder / results.PROBABILITIES / f"{name}.nii.gz"]

    def _attempt(self, case: Case, name: str, clock: _Clock) -> bool | str:
        """Whether the case had to be predicted, or why it cannot be."""
        try:
            return self._one(case, name, clock)
        except EnvironmentFault:
            raise
        except VocoError as error:
            return str(error)
        except Exception as error:  # one file that nobody foresaw must not end the work on all others
            if isinstance(error, OSError) and error.errno in FULL:
                raise fault(self.folder, error) from error
            if is_out_of_memory(error):
                return _too_large(case)
            return f"{type(error).__name__}: {error}"

    def _one(self, case: Case, name: str, clock: _Clock) -> bool:
        content = hashlib.sha256(case_content(case).encode()).hexdigest()
        paths = self._files(name)
        files = [path.relative_to(self.folder).as_posix() for path in paths]
        before = self.made.content(case.id, files)
        # Nobody has deleted what an earlier call wrote: its files, and its rows in the table.
        whole = all(path.is_file() for path in paths) and case.id in self.table
        if before == content and whole:
            clock.lightly()
            return False
        self._refuse_anothers_file(case, files)
        origin = _origin(case)
        if before not in (None, content):
            self._refuse_another(case, files, origin)
            self.predictor.say(f"{case.id}: its images are not those of the last call: it is predicted again")
        rows = self._diagnose(case) if self.classifies else self._segment(case, name, clock)
        with self._alone():
            owners = {self.made.case_of(file) for file in files} - {"", case.id}
            self.table.add(case.id, rows)
            self.made.add(case.id, content, files, origin)
            for other in {owner for owner in owners if not self.made.has(owner)}:
                self.table.drop(other)  # --overwrite has replaced its label map
        return True

    def _refuse_another(self, case: Case, files: list[str], origin: str) -> None:
        """Raise DataError where another patient's image of the same name was predicted here, as in P1/ct and P2/ct."""
        if self.made.origin(case.id, files) not in ("", origin) and not self.options.get("overwrite"):
            raise DataError(
                f"another image of this name, from another folder, was predicted into {self.folder} before",
                "name another folder with -o, or use --overwrite",
            )

    def _refuse_anothers_file(self, case: Case, files: list[str]) -> None:
        """Raise DataError where a file is that of a case called almost alike: of "a 1" and "a_1" it is a_1.nii.gz."""
        for file in files if not self.options.get("overwrite") else ():
            if (self.folder / file).is_file() and self.made.case_of(file) not in ("", case.id):
                raise DataError(
                    f"{self.folder / file} is the prediction of case '{self.made.case_of(file)}'",
                    "name another folder with -o, or use --overwrite",
                )

    def _alone(self) -> AbstractContextManager[None]:
        return alone(self.folder / LOCK)

    def _header(self) -> list[str]:
        if self.classifies:
            return ["case", "predicted", *(kind.name for kind in self.predictor.card.classes)]
        return list(results.VOLUME_COLUMNS)

    def _diagnose(self, case: Case) -> list[list[Any]]:
        found = self.predictor.classify(*read_case(case))
        name = self.predictor.card.classes[int(found.argmax())].name
        return [[case.id, name, *(f"{value:.6f}" for value in found)]]

    def _segment(self, case: Case, name: str, clock: _Clock) -> list[list[Any]]:
        predictor, card = self.predictor, self.predictor.card
        path, *probabilities = self._files(name)
        array, affine = read_case(case)
        prepared = predictor.prepare(array, affine)
        del array  # of a large case it is hundreds of megabytes, which the windows need
        sink: Any = nullcontext()
        for target in probabilities:
            sink = Probabilities(target, card, prepared.plan, predictor.axis(prepared.plan))
        with sink as taken:
            labels = predictor.segment_prepared(prepared, taken, clock.within)
        del prepared
        results.write_labels(path, labels, affine, card, case)
        values = {name: value for name, (value, _) in results.segments_of(card).items()}
        return results.as_rows(case.id, results.volumes_ml(labels, affine, card), values)


class _Clock:
    """Says how far the work is, and how long the rest may take by what this call has done itself."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total = progress, total
        self.done, self.light, self.began = 0, 0, time.monotonic()
        progress(0, total, "")

    def lightly(self) -> None:
        """The case in work was done before: it says nothing about the others."""
        self.light += 1

    def next(self) -> None:
        """One case is through."""
        self.done += 1
        self._tell(self.done - self.light, "")

    def within(self, planes: int, total: int) -> None:
        """``planes`` of ``total`` of the case in work are through."""
        if planes < total:
            self._tell(self.done - self.light + planes / total, f"{100 * planes // total} % of the next, ")

    def _tell(self, worked: float, words: str) -> None:
        left = self.total - self.light - worked
        if worked and left:
            words += f"about {duration((time.monotonic() - self.began) / worked * left)} left"
        self.progress(self.done, self.total, words)


def _origin(case: Case) -> str:
    """A word for the folder of a case's images, which does not tell its name."""
    image = case.images[0]
    folder = image.path if image.files else os.path.dirname(image.path)
    return hashlib.sha256(os.path.realpath(folder).encode(errors="surrogateescape")).hexdigest()[:16]


def _maker(models: Sequence[Path], options: dict[str, Any]) -> str:
    """What made a prediction: the content of all weights, and every option that changes it."""
    facts = [content_hash(path) for path in models]
    facts += [f"{name}={options.get(name)}" for name in _CHANGING]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def failures(done: Done) -> DataError:
    """The error that names what failed."""
    named = "; ".join(f"{case}: {why}" for case, why in done.failed[:5])
    more = f"; and {len(done.failed) - 5} more" if len(done.failed) > 5 else ""
    count = len(done.failed)
    return DataError(
        f"{counted(count, 'case')} could not be predicted: {named}{more}",
        "all others are done; mend these and run the same command again",
    )


def _too_large(case: Case) -> str:
    """Why a case needs more memory than there is."""
    with suppress(VocoError):
        if words := unusual_voxels(read_header(case.images[0]).affine):
            return f"it has {words}, more than fit into memory in the model's size  (check the header's unit)"
    return str(of_the_machine(MemoryError(), "it"))
