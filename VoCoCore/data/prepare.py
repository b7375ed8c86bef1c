"""Prepares all cases of an index: each image once, in parallel, going on where the last call ended."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from VoCoCore.data.cases import Case, Index
from VoCoCore.data.check_pool import Died, run_each, usable_cores
from VoCoCore.data.hashes import Hashes
from VoCoCore.data.images import read_header
from VoCoCore.data.plan import largest_shape
from VoCoCore.data.prepare_case import Prepared, key_of, prepare_case
from VoCoCore.data.store import Store
from VoCoCore.data.wanted import Wanted
from VoCoCore.errors import DataError, EnvironmentFault, StopRequested, counted
from VoCoCore.runs.narrate import duration
from VoCoCore.settings import PretrainSettings

Progress = Callable[[int, int, str], None]
Outcome = Prepared | DataError

NAMED_ERRORS = 5  # when so many cases cannot be used, preparing gives up and names them
_STORED_SHARE = 0.6  # bytes per voxel of noisy images; CTs come to a half
_RESERVE = 200e6  # bytes that stay free
_TASKS_PER_WORKER = 4  # fewer are not worth the seconds that a new process takes to start


@dataclass(frozen=True)
class PreparedSet:
    """What `prepare_index` leaves: ``keys`` and ``content`` belong to ``cases``, in order.

    ``content``: sha256 of a case's images, joined by "+" for several channels; ``skipped`` (case id, reason):
    what could not be used; ``warnings`` (case id, text): what to know about cases that were prepared just
    now.
    """

    cases: tuple[Case, ...]
    keys: tuple[str, ...]
    content: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    warnings: tuple[tuple[str, str], ...] = ()


def prepare_index(
    index: Index,
    settings: PretrainSettings | Wanted,
    store: Store,
    *,
    workers: int | None = None,
    progress: Progress = lambda done, total, text: None,
    should_stop: Callable[[], bool] = lambda: False,
    skip_bad: bool = False,
) -> PreparedSet:
    """Prepare all cases that the store does not have yet; cases with the same images are prepared once.

    ``settings``: those of pre-training, or what another job wants. ``workers`` processes (0: this one; None:
    chosen for the machine). Raises DataError naming the cases that cannot be used, unless ``skip_bad``;
    EnvironmentFault for a disk that is too small, full or read-only; StopRequested between two cases when
    ``should_stop`` says so. What was prepared until then is found by the next call.
    """
    wanted = Wanted.of(settings)
    store.create().clean()
    memory = Hashes(store.root / "hashes.txt")
    unit_of, units = _units(index.cases, wanted)
    outcomes: dict[int, Outcome] = {}
    tasks: list[_Task] = []
    for unit, case in enumerate(units):
        content, outcome = _look_up(case, wanted, store, memory)
        if outcome is None:
            tasks.append(_Task(unit, case, content))
        else:
            outcomes[unit] = outcome
    check_space(store, [task.case for task in tasks], wanted)
    shares = Counter(unit_of)
    clock = _Clock(progress, done=sum(shares[unit] for unit in outcomes), total=len(unit_of))
    for task, outcome in _work(tasks, wanted, store, workers, should_stop):
        outcomes[task.unit] = outcome
        clock.tick(shares[task.unit], outcome)
        if isinstance(outcome, Prepared):
            memory.remember(wanted.sources(task.case), outcome.content)
        elif not skip_bad and len(_errors(outcomes)) >= NAMED_ERRORS:
            break
    _raise_unless_complete(outcomes, len(units), skip_bad)
    return _gather(index.cases, [outcomes[unit] for unit in unit_of])


def check_space(store: Store, cases: Sequence[Case], settings: PretrainSettings | Wanted) -> None:
    """Raise EnvironmentFault, with the figures, unless the disk has room for preparing ``cases``."""
    wanted = Wanted.of(settings)
    needed = sum(_largest_bytes(case, wanted) for case in cases) * _STORED_SHARE + _RESERVE
    free = shutil.disk_usage(store.root).free
    if cases and needed > free:
        figures = f"{counted(len(cases), 'case', 'needs', 'need')} about {needed / 1e9:.2g} GB"
        figures += f", but {free / 1e9:.2g} GB are free"
        hint = "free some space, or choose a folder on a larger disk (data.store)"
        raise EnvironmentFault(f"{figures} for the store {store.root}", hint)


@dataclass(frozen=True)
class _Task:
    """One volume to prepare: its unit, a case that shows it, and the hashes of its images if known."""

    unit: int
    case: Case
    content: tuple[str, ...] | None


class _Clock:
    """Says how far preparing is, and how long the rest may take by the rate of this call."""

    def __init__(self, progress: Progress, done: int, total: int) -> None:
        self.progress, self.done, self.total, self.before = progress, done, total, done
        self.bad, self.started = 0, time.monotonic()
        progress(done, total, f"{done} of {counted(total, 'case')} prepared already" if done else "preparing")

    def tick(self, cases: int, outcome: Outcome) -> None:
        self.done += cases
        rate = (time.monotonic() - self.started) / (self.done - self.before)
        # Names of files may name patients, and what is said here ends up in a run's log.
        self.bad += 0 if isinstance(outcome, Prepared) else cases
        words = [f"{self.bad} cannot be used"] if self.bad else []
        if self.done < self.total:
            words.append(f"about {duration(rate * (self.total - self.done))} left")
        self.progress(self.done, self.total, ", ".join(words))


def _units(cases: Sequence[Case], wanted: Wanted) -> tuple[list[int], list[Case]]:
    """Cases with the same files and body part are one unit: each case's unit, and the first case of each."""
    numbers: dict[Any, int] = {}
    firsts: list[Case] = []
    unit_of = []
    for case in cases:
        unit = numbers.setdefault((wanted.sources(case), case.body_part), len(numbers))
        if unit == len(firsts):
            firsts.append(case)
        unit_of.append(unit)
    return unit_of, firsts


def _look_up(
    case: Case, wanted: Wanted, store: Store, memory: Hashes
) -> tuple[tuple[str, ...] | None, Outcome | None]:
    """The remembered hashes of a case's images, and its outcome where that is known without work."""
    try:
        content = memory.find(wanted.sources(case))
    except DataError as error:
        return None, _named(case, error)
    if content is None:
        return None, None
    key = key_of(case, wanted, content)
    return content, Prepared(key, content) if store.has(key) else None


def _work(
    tasks: Sequence[_Task],
    wanted: Wanted,
    store: Store,
    workers: int | None,
    should_stop: Callable[[], bool],
) -> Iterator[tuple[_Task, Outcome]]:
    """Prepare in the order of completion, until all is done or should_stop(). Raises EnvironmentFault."""
    workers = min(_default_workers() if workers is None else workers, len(tasks) // _TASKS_PER_WORKER)
    work = partial(_carry_out, wanted=wanted, store=store)
    if should_stop():
        return
    results: Any = run_each(work, tasks, workers if workers > 1 else 0)
    try:
        for position, outcome in results:
            if isinstance(outcome, EnvironmentFault):
                raise outcome
            if isinstance(outcome, Died) and should_stop():
                return  # the signal that asked to stop has reached the workers too
            task = tasks[position]
            yield task, _lost(task.case, outcome) if isinstance(outcome, Died) else outcome
            if should_stop():
                return
    finally:
        results.close()
        store.clean()  # of what the workers that were stopped had begun


def _default_workers() -> int:
    """One per usable core, at most 8, since each holds a volume or two."""
    return min(8, usable_cores())


def _carry_out(task: _Task, wanted: Wanted, store: Store) -> Outcome | EnvironmentFault:
    """Prepare, with errors as results, so that they come back from other processes."""
    try:
        return prepare_case(task.case, wanted, store, task.content)
    except EnvironmentFault as fault:
        return fault
    except DataError as error:
        return _named(task.case, error)
    except Exception as error:  # one file that nobody foresaw must not end the work on all others
        what = f"{task.case.images[0].path} cannot be prepared: {type(error).__name__}: {error}"
        return _named(task.case, DataError(what, "look at it in a viewer and save it again"))


def _lost(case: Case, died: Died) -> DataError:
    what = f"the process that prepared {case.images[0].path} died (exit code {died.exit_code})"
    return _named(
        case, DataError(what, "out of memory, or a damaged file: use fewer data.workers, or save it again")
    )


def _named(case: Case, error: DataError) -> DataError:
    return DataError(f"{case.id}: {error.message}", error.hint)


def _largest_bytes(case: Case, wanted: Wanted) -> int:
    size = wanted.volume_size
    # Only where resizing does not fix the size is it worth a look into the file.
    if wanted.prepare.fit != "resize":
        try:
            header = read_header(case.images[0])
            part = wanted.body_part_of(case)
            size = largest_shape(header.shape, header.affine, wanted.prepare, size, part)
        except DataError:
            return 0  # preparing will say what is wrong with it
    bytes_each = 1 if wanted.levels == "uint8" else 2
    return prod(size) * len(wanted.sources(case)) * bytes_each


def _errors(outcomes: dict[int, Outcome]) -> list[DataError]:
    return [error for _, error in sorted(outcomes.items()) if isinstance(error, DataError)]


def _raise_unless_complete(outcomes: dict[int, Outcome], units: int, skip_bad: bool) -> None:
    bad = _errors(outcomes)
    if bad and (not skip_bad or len(bad) == units):
        raise _all_of(bad)
    if len(outcomes) < units:
        what = f"preparing was stopped: {len(outcomes) - len(bad)} of {counted(units, 'volume')} ready"
        raise StopRequested(what, "run the same command again to go on")


def _all_of(errors: Sequence[DataError]) -> DataError:
    """One error that names all of them, up to NAMED_ERRORS."""
    if len(errors) == 1:
        return DataError(errors[0].message, errors[0].hint or "go on without it: data.skip_bad")
    named = "; ".join(error.message for error in errors[:NAMED_ERRORS])
    more = f"; and {len(errors) - NAMED_ERRORS} more" if len(errors) > NAMED_ERRORS else ""
    hint = "voco data check lists all that is wrong; data.skip_bad goes on without such cases"
    return DataError(f"{counted(len(errors), 'case')} cannot be used: {named}{more}", hint)


def _gather(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> PreparedSet:
    pairs = list(zip(cases, outcomes, strict=True))
    good = [(case, outcome) for case, outcome in pairs if isinstance(outcome, Prepared)]
    return PreparedSet(
        cases=tuple(case for case, _ in good),
        keys=tuple(outcome.key for _, outcome in good),
        content=tuple("+".join(outcome.content[: len(case.images)]) for case, outcome in good),
        skipped=tuple((case.id, str(outcome)) for case, outcome in pairs if isinstance(outcome, DataError)),
        warnings=tuple((case.id, text) for case, outcome in good for text in outcome.warnings),
    )
