"""What may spoil the result of a fine-tuning, said before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from VoCoCore.data.store import Store
from VoCoCore.errors import DataError, counted
from VoCoCore.models.card import OutputClass
from VoCoCore.training.labelled_cohort import LabelledCohort


def warnings_of(
    cohort: LabelledCohort, classes: Sequence[OutputClass], task: str, source: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Messages, each with what to do; ``source``: metadata of the weights to start from."""
    seen = set(filter(None, source.get("seen", "").split(",")))
    held_out = {member.content for member in cohort.val} | {content for _, content in cohort.test}
    if leaked := seen & held_out:
        seen_here = counted(
            len(leaked), "", "of the cases held out here was", "of the cases held out here were"
        )
        yield (
            f"{seen_here} seen in pre-training, without their labels",
            "pre-train without them, or do not report their scores as those of unseen cases",
        )
    if not cohort.val:
        yield (
            "no case is left to validate on, so the last state is kept, not the best one",
            "add labelled cases of other patients, or set data.val_fraction",
        )
    for name in _absent_classes(cohort, classes, task):
        yield (
            f"no training case shows '{name}': it cannot be learned",
            "add a case that has it, or change the division (data.split_seed)",
        )


def _absent_classes(cohort: LabelledCohort, classes: Sequence[OutputClass], task: str) -> list[str]:
    """Names of the classes that no training case shows. Raises DataError where none shows any but the background."""
    if task != "segmentation":
        shown = {member.target for member in cohort.train}
        return [kind.name for number, kind in enumerate(classes) if number not in shown]
    store = Store(cohort.store)
    values = {v for member in cohort.train for v in store.header(member.key)["labels"]["values"]}
    if not values - {0}:
        raise DataError(
            "the labels of all training cases are empty: there is nothing to learn",
            "look at the label files, or change the division (data.split_seed)",
        )
    return [kind.name for kind in classes if not values & set(kind.values)]
