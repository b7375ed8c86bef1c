"""The cases of a run: indexed, divided by patient and prepared, once; a resumed run takes up the same ones.

What names paths lies in the run's ``private/`` folder; ``environment.json`` gets counts and a fingerprint only.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from VoCoCore.data.cases import Index, load_index, save_index
from VoCoCore.data.images import short_hash
from VoCoCore.data.patients import Patients, first_cases
from VoCoCore.data.prepare import PreparedSet, prepare_index
from VoCoCore.data.private_names import names_of
from VoCoCore.data.sources import index_source
from VoCoCore.data.splits import assign_splits, patient_of
from VoCoCore.data.store import Store
from VoCoCore.data.twins import parted, with_twins_joined
from VoCoCore.data.wanted import Wanted
from VoCoCore.errors import DataError, SettingsError, counted
from VoCoCore.fields import Group
from VoCoCore.geometry import spacing_of
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.files import read_json, write_json
from VoCoCore.runs.space import default_store
from VoCoCore.runs.typed import from_plain
from VoCoCore.settings import SCRATCH, DataSettings, PretrainSettings
from VoCoCore.training.checkpoint import checkpoints
from VoCoCore.training.monitor import Emit

SomeCohort = TypeVar("SomeCohort")
TWINS = "twins.json"  # in private/: cases with the same images in several splits


@dataclass(frozen=True)
class Cohort:
    """Prepared volumes by key: those to train on and those held out. ``fingerprint`` covers the sources' content.

    ``patients``: of each held-out volume the first one of its patient; none in a run that was begun without.
    """

    store: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    channels: int
    fingerprint: str
    skipped: int = 0
    spacing: tuple[float, ...] = ()  # mean over the prepared volumes, in mm
    seen: tuple[str, ...] = ()  # `short_hash` of each volume
    patients: tuple[str, ...] = ()

    @property
    def held_out_patients(self) -> Patients:
        """Which of the held-out volumes are one patient's."""
        return dict(zip(self.val, self.patients, strict=bool(self.patients)))

    @property
    def twins(self) -> int:
        """How many held-out volumes are trained on too, under another name."""
        return len({*self.train} & {*self.val})

    def facts(self) -> dict[str, Any]:
        """What may be told to anyone: no paths, no names."""
        return {
            "cases": len(self.train) + len(self.val),
            "train": len(self.train),
            "held_out": len(self.val),
            "twins": self.twins,
            "skipped": self.skipped,
            "channels": self.channels,
            "fingerprint": self.fingerprint,
        }


def gather_cohort(
    settings: PretrainSettings, run: RunDirectory, emit: Emit, should_stop: Callable[[], bool]
) -> Cohort:
    """The run's cohort: the one that an earlier attempt kept, if its volumes are still there, else a new one.

    Data at another place than before are compared by their content. Raises DataError when nothing usable is found,
    SettingsError when a resumed run's data have changed.
    """
    kept, places = kept_as(Cohort, run), places_of(settings)
    if kept is not None and _all_there(kept) and read_json(run.private / PLACES) == places:
        return kept
    index, listed = _divided(settings), run.private / "index.json"
    if kept is None:
        tell_new_division(run, index, emit)
        save_index(index, listed)
    prepared, store = prepare_cases(index, settings, settings.data, run, emit, should_stop)
    cohort = _cohort(index, prepared, store)
    refuse_other_content(run, kept.fingerprint if kept else None, cohort.fingerprint, "volumes")
    save_index(index, listed)  # not before: other data must not take the place of the run's own list
    if kept is not None and {*kept.train, *kept.val} == {*cohort.train, *cohort.val}:
        # Elsewhere they may have other names, and so another order and another division: the first one stands.
        cohort = replace(kept, store=cohort.store)
    write_json(run.private / "cohort.json", asdict(cohort))
    write_json(run.private / PLACES, places)
    held = zip(prepared.cases, prepared.keys, strict=True)
    tell_twins(run, cohort.twins, ((case.split or "train", case.id, key) for case, key in held), emit)
    return cohort


def tell_twins(run: RunDirectory, count: int, held: Iterable[tuple[str, str, str]], emit: Emit) -> None:
    """Warn of ``count`` held-out cases whose images are in another split too; ``held`` as `parted` takes it."""
    write_json(run.private / TWINS, parted(held))
    if count:
        emit(
            "warning",
            message=f"{counted(count, 'held-out case', 'has', 'have')} the same images as a case of another split",
            hint=f"scores flatter; private/{TWINS} names them: give them one patient, or one split",
        )


def prepare_cases(
    index: Index,
    wanted: PretrainSettings | Wanted,
    data: DataSettings,
    run: RunDirectory,
    emit: Emit,
    should_stop: Callable[[], bool],
) -> tuple[PreparedSet, Path]:
    """Prepare the cases of ``index`` for a run, as ``data`` says where and how; returns them and their store.

    Raises DataError where none is usable or they differ in their channels.
    """
    store = Store(os.path.abspath(data.store or default_store()))
    run.names = names_of(index)
    prepared = prepare_index(
        index,
        wanted,
        store,
        workers=data.workers,
        progress=_now_and_then(emit),
        should_stop=should_stop,
        skip_bad=data.skip_bad,
    )
    write_json(run.private / "skipped.json", [list(pair) for pair in prepared.skipped])
    if prepared.skipped:
        # Names of files may name patients: they stay in the private folder.
        emit(
            "warning",
            message=f"{counted(len(prepared.skipped), 'case')} cannot be used: left out",
            hint="private/skipped.json names them and says why",
        )
    if len({len(case.images) for case in prepared.cases}) > 1:
        raise DataError(
            "the cases have different numbers of channels",
            "'voco data check' names those that differ; leave them out",
        )
    if all(case.split == "val" for case in prepared.cases):
        raise DataError(
            "no usable case is left to train on", "'voco data check' says what is wrong with each"
        )
    return prepared, store.root


def kept_as(kind: type[SomeCohort], run: RunDirectory) -> SomeCohort | None:
    """The cohort that an earlier attempt, or the first rank, has left; None where there is none, or a damaged one."""
    try:
        return from_plain(kind, read_json(run.private / "cohort.json"))
    except TypeError:
        return None


def refuse_other_content(run: RunDirectory, kept: str | None, found: str, what: str) -> None:
    """Raise SettingsError where data of a resumed run have changed, told by their fingerprints.

    Where the ``kept`` cohort is lost or damaged, the one that the run told of counts, once something was computed.
    """
    if kept is None and checkpoints(run.checkpoints):
        told = read_json(run.path / "environment.json")
        data = told.get("data") if isinstance(told, dict) else None
        kept = data.get("fingerprint") if isinstance(data, dict) else None
    if kept not in (None, found):
        raise SettingsError(
            f"these are not the {what} that the run {run.path} began with: their content differs",
            "resume with the same data (they may lie elsewhere), or start a new run folder",
        )


def tell_new_division(run: RunDirectory, index: Index, emit: Emit) -> None:
    """Warn where the list of a run that has computed something is lost, and its cases come to be divided otherwise."""
    if not checkpoints(run.checkpoints):
        return
    try:
        before = {(case.id, case.split) for case in load_index(run.private / "index.json").cases}
    except DataError:
        before = set()
    if before != {(case.id, case.split) for case in index.cases}:
        emit(
            "warning",
            message="the list of this run's cases is damaged and they are divided anew: some that were held out may be "
            "trained on now, and their scores flatter",
            hint="put a copy of private/cohort.json back, or start a new run folder",
        )


def fingerprint_of(contents: Iterable[str]) -> str:
    """One hash over the contents of all cases, whatever their order."""
    return hashlib.sha256("\n".join(sorted(set(contents))).encode()).hexdigest()


PLACES = "places.json"


def forget_cohort(run: RunDirectory) -> None:
    """Have the cases found and prepared anew by the next attempt."""
    (run.private / "cohort.json").unlink(missing_ok=True)


def places_of(settings: Group) -> dict[str, str | None]:
    """Where the data, the store and other private things lie on this machine, by the names of the settings."""
    flat = settings.flat()
    places = {option.name: flat[option.name] for option in settings.options() if option.facts["private"]}
    return {
        name: os.path.abspath(value) if value and value != SCRATCH else value
        for name, value in places.items()
    }


def _now_and_then(emit: Emit, every: float = 1.0) -> Callable[[int, int, str], None]:
    """Progress as events, at most one in ``every`` seconds: there may be 100 000 cases."""
    last = -every

    def tell(done: int, total: int, text: str) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= every:
            last = time.monotonic()
            emit("stage", name="preparing", done=done, total=total, text=text)

    return tell


def _divided(settings: PretrainSettings) -> Index:
    data = settings.data
    if not data.source:
        raise SettingsError("there is no data to train on", "name a folder or a list of cases with --data")
    index = index_source(data.source, body_part=data.body_part)
    # Test cases of a list must never be seen, labels or not.
    cases = [case for case in index.cases if case.split != "test"]
    if not cases:
        raise DataError(
            f"no case to train on in {data.source}", "'voco data index' says what was found and why not"
        )
    if all(case.split == "val" for case in cases):
        raise DataError(
            f"all cases to use in {data.source} are in the split 'val', none is left to train on",
            "change the split of some to 'train', or leave it out",
        )
    index = replace(index, cases=tuple(cases[: data.limit]))
    index = with_twins_joined(index)
    several = len({case.patient for case in index.cases}) > 1
    return assign_splits(index, val=data.val_fraction if several else 0.0, seed=data.split_seed)


def _cohort(index: Index, prepared: PreparedSet, store: Path) -> Cohort:
    pairs = list(zip(prepared.cases, prepared.keys, strict=True))
    train = tuple(key for case, key in pairs if case.split != "val")
    held = first_cases((key, patient_of(case)) for case, key in pairs if case.split == "val")
    val = tuple(held)
    content = fingerprint_of(prepared.content)
    channels, skipped = len(prepared.cases[0].images), len(prepared.skipped) + len(index.skipped)
    seen = tuple(sorted({short_hash(each) for each in prepared.content}))[:MOST_SEEN]
    return Cohort(
        str(store),
        train,
        val,
        channels,
        content,
        skipped,
        _mean_spacing(Store(store), {*train, *val}),
        seen,
        tuple(held.values()),
    )


MOST_SEEN = 50_000  # hashes that a weights file carries: 0.6 MB


def _mean_spacing(store: Store, keys: Iterable[str]) -> tuple[float, ...]:
    """Mean voxel size (3,) of prepared volumes, in mm: the scale at which the network saw the body."""
    sizes = [spacing_of(np.asarray(store.header(key)["affine"])) for key in sorted(keys)[:MOST_MEASURED]]
    return tuple(round(float(edge), 4) for edge in np.mean(sizes, axis=0))


MOST_MEASURED = 1000


def _all_there(cohort: Cohort) -> bool:
    store = Store(cohort.store)
    return all(store.has(key) for key in {*cohort.train, *cohort.val})
