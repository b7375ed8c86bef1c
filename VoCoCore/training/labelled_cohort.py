"""The labelled cases of a run: found, divided by patient, prepared, once; a resumed run takes up the same ones.

Test cases are not prepared: they are predicted from their own files, at the very end. What names cases lies in the
run's ``private/`` folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from VoCoCore.data.cases import Case, Index, save_index
from VoCoCore.data.images import case_content, short_hash
from VoCoCore.data.label_maps import IGNORE, ignored_value, label_values
from VoCoCore.data.patients import first_cases
from VoCoCore.data.prepare import PreparedSet
from VoCoCore.data.segments import refuse_mixed
from VoCoCore.data.sources import index_source
from VoCoCore.data.splits import assign_splits, patient_of, use_fold
from VoCoCore.data.store import Store
from VoCoCore.data.twins import with_twins_joined
from VoCoCore.data.wanted import Wanted
from VoCoCore.errors import DataError, SettingsError, counted
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.models.card import OutputClass, palette
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.files import write_json
from VoCoCore.training.cohort import (
    PLACES,
    fingerprint_of,
    kept_as,
    places_of,
    prepare_cases,
    refuse_other_content,
    tell_new_division,
    tell_twins,
)
from VoCoCore.training.monitor import Emit


@dataclass(frozen=True)
class Member:
    """One prepared case: its key, its id (private), its class for a classification, `short_hash` of its images, and the
    key of its patient's first case ('' in a run that was begun without).
    """

    key: str
    id: str
    target: int
    content: str
    patient: str = ""


@dataclass(frozen=True)
class LabelledCohort:
    """Cases to train on, to validate on, and ids of those kept for the end (with their content).

    ``fingerprint`` covers images and labels of all prepared cases. ``unlabelled``: cases without a label, left aside.
    """

    store: str
    train: tuple[Member, ...]
    val: tuple[Member, ...]
    test: tuple[tuple[str, str], ...]
    fingerprint: str
    skipped: int = 0
    unlabelled: int = 0
    joined: bool = False  # cases with the same images were divided as one patient

    @property
    def twins(self) -> int:
        """How many cases held out are trained on too, or of the test validated on, under another name."""
        train, val = ({member.content for member in members} for members in (self.train, self.val))
        return sum(m.content in train for m in self.val) + sum(c in train | val for _, c in self.test)

    def facts(self) -> dict[str, Any]:
        """What may be told to anyone: no paths, no names."""
        return {
            "cases": len(self.train) + len(self.val) + len(self.test),
            "train": len(self.train),
            "held_out": len(self.val),
            "test": len(self.test),
            "twins": self.twins,
            "skipped": self.skipped,
            "unlabelled": self.unlabelled,
            "fingerprint": self.fingerprint,
        }


def labelled_index(settings: FinetuneSettings, join: bool = True) -> tuple[Index, int]:
    """The labelled cases of the source, divided; and how many are left aside because they have no label.

    ``join``: cases with the same images are of one patient; not in a run that was begun without.
    Raises DataError where none is usable, SettingsError for a division that cannot be.
    """
    data = settings.data
    if not data.source:
        raise SettingsError("there is no data to train on", "name a folder or a list of cases with --data")
    if data.fold == "all":
        raise SettingsError("one run trains one fold, not all", "give the number of one: data.fold 0, 1, ...")
    index = index_source(data.source, body_part=data.body_part)
    known = [case for case in index.cases if is_labelled(case, settings.task)]
    if not known:
        what = "label" if settings.task == "segmentation" else "class (target)"
        raise DataError(
            f"no case in {data.source} has a {what}",
            "'voco data index' says what was found; docs/guide.md shows how lists and folders name labels",
        )
    refuse_mixed(replace(index, cases=tuple(known)))
    if own := next((case for case in known if case.label in case.images), None):
        raise DataError(
            f"the label of case {own.id} is its own image, {own.images[0].path}",
            "name the label map, or correct the list of cases",
        )
    chosen = replace(index, cases=tuple(known[: data.limit]))
    divided = _divided(with_twins_joined(chosen) if join else chosen, settings)
    if not any(case.split == "train" for case in divided.cases):
        raise DataError(
            f"no labelled case in {data.source} is left to train on",
            "change the split of some cases to 'train', or lower data.val_fraction and data.test_fraction",
        )
    return _few(divided, settings), len(index.cases) - len(known)


def is_labelled(case: Case, task: str) -> bool:
    """Whether a case has what a network of the task learns."""
    return case.label is not None if task == "segmentation" else case.target is not None


def _divided(index: Index, settings: FinetuneSettings) -> Index:
    data = settings.data
    # The only patient to train on is trained on: a warning then says that nothing is validated on.
    several = len({case.patient for case in index.cases if case.split in (None, "train")}) > 1
    test = data.test_fraction if several else 0.0
    if data.fold is not None:
        folded = assign_splits(index, val=0.0, test=test, folds=data.folds, seed=data.split_seed)
        return use_fold(folded, int(data.fold))
    return assign_splits(index, val=data.val_fraction if several else 0.0, test=test, seed=data.split_seed)


def _few(index: Index, settings: FinetuneSettings) -> Index:
    """The division with only so many training cases as data.labels says; smaller choices are parts of larger ones."""
    wanted = settings.data.labels
    if wanted is None:
        return index
    train = sorted((case for case in index.cases if case.split == "train"), key=lambda case: case.id)
    count = max(1, round(wanted * len(train))) if wanted < 1 else int(wanted)
    if count > len(train):
        raise SettingsError(
            f"data.labels asks for {counted(count, 'training case')}, "
            f"of which there {'is' if len(train) == 1 else 'are'} {len(train)}",
            "ask for fewer, or leave it out for all",
        )
    order = np.random.Generator(np.random.Philox(settings.data.label_seed)).permutation(len(train))
    chosen = {train[place].id for place in order[:count]}
    return replace(
        index, cases=tuple(case for case in index.cases if case.split != "train" or case.id in chosen)
    )


def classes_of(index: Index, settings: FinetuneSettings) -> tuple[tuple[OutputClass, ...], str]:
    """What the network tells apart, from the source's list of labels or else from the labels; and the activation."""
    if settings.task == "classification":
        names = sorted({str(case.target) for case in index.cases}, key=_as_number)
        if len(names) < 2:
            raise DataError(
                f"all cases are of one class, '{names[0]}'",
                "add cases of another one: there is nothing to tell apart",
            )
        colours = palette(len(names) + 1)[1:]
        return tuple(
            OutputClass(n, (i,), c) for i, (n, c) in enumerate(zip(names, colours, strict=True))
        ), "softmax"
    if index.regions:
        colours = palette(len(index.regions) + 1)[1:]
        regions = zip(index.regions.items(), colours, strict=True)
        return tuple(OutputClass(name, values, colour) for (name, values), colour in regions), "sigmoid"
    named = dict(index.labels or _found_labels(index, settings.data.skip_bad))
    named.pop(IGNORE, None)
    if 0 not in named.values():
        named = {"background": 0, **named}
    ordered = sorted(named.items(), key=lambda item: item[1])
    if len(ordered) < 2:
        raise DataError(
            "the labels mark nothing: only the background is known", "give label maps with structures"
        )
    colours = palette(len(ordered))
    return tuple(OutputClass(n, (v,), c) for (n, v), c in zip(ordered, colours, strict=True)), "softmax"


def _as_number(word: str) -> tuple[int, str]:
    return (int(word), "") if word.isdecimal() else (1 << 62, word)


def _found_labels(index: Index, skip_bad: bool) -> dict[str, int]:
    values: set[int] = set()
    for case in index.cases:
        try:
            values.update(label_values(case.label) if case.label else ())
        except DataError:
            if not skip_bad:
                raise
    return {f"label {value}" if value else "background": value for value in sorted(values)}


def declared_values(index: Index, classes: Sequence[OutputClass]) -> tuple[int, ...]:
    """All values that a label file may hold."""
    return tuple(sorted({0, *(index.labels or {}).values(), *(v for kind in classes for v in kind.values)}))


def gather_labelled(
    settings: FinetuneSettings,
    run: RunDirectory,
    index: Index,
    unlabelled: int,
    classes: Sequence[OutputClass],
    emit: Emit,
    should_stop: Callable[[], bool],
) -> LabelledCohort:
    """Prepare the training and validation cases of ``index``.

    Raises DataError when nothing usable is found, SettingsError when a resumed run's data have changed.
    """
    kept, listed = kept_as(LabelledCohort, run), run.private / "index.json"
    if kept is None:
        tell_new_division(run, index, emit)
        save_index(index, listed)
    values, ignored = declared_values(index, classes), ignored_value(index.labels)
    wanted = wanted_of(settings, values, ignored)
    seen = replace(index, cases=tuple(case for case in index.cases if case.split != "test"))
    prepared, store = prepare_cases(seen, wanted, settings.data, run, emit, should_stop)
    # The labels too: a corrected one makes other cases.
    fingerprint = fingerprint_of("+".join(Store(store).header(key)["content"]) for key in prepared.keys)
    refuse_other_content(run, kept.fingerprint if kept else None, fingerprint, "cases")
    if kept is None:
        cohort = _cohort(index, prepared, store, classes, unlabelled, fingerprint)
    else:
        cohort, index = replace(kept, store=str(store)), _as_kept(index, kept, prepared)
    save_index(index, listed)  # not before: other data must not take the place of the run's own list
    write_json(run.private / "cohort.json", asdict(cohort))
    write_json(run.private / PLACES, places_of(settings))
    members = [(part, m.id, m.content) for part in ("train", "val") for m in getattr(cohort, part)]
    tell_twins(run, cohort.twins, [*members, *(("test", *each) for each in cohort.test)], emit)
    return cohort


def _as_kept(index: Index, cohort: LabelledCohort, prepared: PreparedSet) -> Index:
    """The index divided as the run began: cases with other names may fall into other parts, and were trained on."""
    members = [(m, part) for part in ("train", "val") for m in getattr(cohort, part)]
    parts = {m.content: part for m, part in members}
    parts |= {(m.content, m.id): part for m, part in members}  # the same image may be there under two names
    held = {
        case.id: parts.get((content, case.id), parts.get(content))
        for case, content in zip(prepared.cases, map(short_hash, prepared.content), strict=True)
    }
    return replace(index, cases=tuple(replace(c, split=held.get(c.id) or c.split) for c in index.cases))


def wanted_of(settings: FinetuneSettings, values: tuple[int, ...], ignored: int | None) -> Wanted:
    """How the cases of a fine-tuning are prepared: at one voxel size with labels, or whole at one size."""
    size = settings.patches.size if settings.task == "classification" else (1, 1, 1)
    assert size
    labels = values if settings.task == "segmentation" else None
    return Wanted(
        settings.prepare, size, settings.data.body_part, labels, "int16", ignored if labels else None
    )


def _cohort(
    index: Index,
    prepared: PreparedSet,
    store: Path,
    classes: Sequence[OutputClass],
    unlabelled: int,
    fingerprint: str,
) -> LabelledCohort:
    numbers = {kind.name: number for number, kind in enumerate(classes)}
    members: dict[str, list[Member]] = {"train": [], "val": []}
    first = first_cases(
        (key, patient_of(case)) for case, key in zip(prepared.cases, prepared.keys, strict=True)
    )
    for case, key, content in zip(prepared.cases, prepared.keys, prepared.content, strict=True):
        target = numbers.get(str(case.target), -1)
        members[case.split or "train"].append(Member(key, case.id, target, short_hash(content), first[key]))
    test = tuple((case.id, short_hash(case_content(case))) for case in index.cases if case.split == "test")
    skipped = len(prepared.skipped) + len(index.skipped)
    return LabelledCohort(
        str(store),
        tuple(members["train"]),
        tuple(members["val"]),
        test,
        fingerprint,
        skipped,
        unlabelled,
        True,
    )
