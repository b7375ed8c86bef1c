"""Check every case of an index: each is opened in worker processes, and what is wrong comes back as findings.

One bad case never stops the others, not even one that crashes the process that reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from VoCoCore.data.cases import Case, Index, Skipped
from VoCoCore.data.check_case import Examined, Finding, Rules, examine
from VoCoCore.data.check_pool import Died, run_each, usable_cores
from VoCoCore.data.label_maps import ignored_value
from VoCoCore.data.splits import parted, parted_words

if TYPE_CHECKING:
    from rich.console import RenderableType

Progress = Callable[[int, int, str], None]
_MOST_WORKERS = 8


@dataclass(frozen=True)
class CheckReport:
    """What was found: ``rows`` in the order of the cases, how many were opened, what the index skipped."""

    rows: tuple[Finding, ...]
    checked: int
    skipped: tuple[Skipped, ...] = ()

    @property
    def bad_cases(self) -> tuple[str, ...]:
        """Ids of the cases that have an error, in order."""
        return tuple(dict.fromkeys(row.case for row in self.rows if row.severity == "error"))

    def to_json(self) -> str:
        """The report as JSON text."""
        content = {
            "format": "vococore-check",
            "version": 1,
            "checked": self.checked,
            "bad_cases": list(self.bad_cases),
            "findings": [asdict(row) for row in self.rows],
            "skipped": [asdict(item) for item in self.skipped],
        }
        return json.dumps(content, indent=1)

    def table(self) -> RenderableType:
        """The findings, and what the index skipped, as tables that `rich` prints."""
        from VoCoCore.data.tables import findings_table

        return findings_table(self.rows, self.skipped)


def check_index(
    index: Index,
    *,
    counts: Sequence[int] = (4, 4, 1),
    workers: int | None = None,
    progress: Progress = lambda done, total, text: None,
) -> CheckReport:
    """Open every case of ``index``.

    ``counts`` are the base crops along R, A, S that each image must have room for (see `check_case`).
    ``workers`` processes read, each one case at a time; 0 reads in this process, None chooses. Never raises
    for a bad case.
    """
    values = {*(index.labels or {}).values(), *(v for region in index.regions.values() for v in region)}
    grid, ignored = (counts[0], counts[1], counts[2]), ignored_value(index.labels)
    rules = Rules(grid, index.channels, frozenset(values) or None, ignored)
    if workers is None:
        workers = max(1, min(usable_cores(), _MOST_WORKERS, len(index.cases)))
    results: dict[int, Examined] = {}
    for position, result in run_each(partial(_examine_safely, rules=rules), index.cases, workers):
        case = index.cases[position]
        results[position] = _lost(case, result) if isinstance(result, Died) else result
        progress(len(results), len(index.cases), case.id)
    ordered = [results[position] for position in range(len(index.cases))]
    named = {examined.case: examined for examined in ordered}
    for first, case in parted(index.cases, "split"):
        named[case.id].add("error", "patient_split", *parted_words(first, case, "split"))
    duplicates = _duplicates(index.cases, ordered)
    rows = [row for examined in ordered for row in (*examined.findings, *duplicates[examined.case])]
    return CheckReport(tuple(rows), len(ordered), index.skipped)


def _examine_safely(case: Case, rules: Rules) -> Examined:
    """`examine`, with anything unforeseen turned into a finding."""
    try:
        return examine(case, rules)
    except MemoryError:
        result = Examined(case.id)
        message = f"{case.images[0].path} does not fit into memory"
        result.add("error", "memory", message, "use fewer workers, or a machine with more memory")
    except Exception as error:
        result = Examined(case.id)
        message = f"{case.images[0].path} cannot be used: {type(error).__name__}: {error}"
        result.add("error", "unreadable", message, "look at it in a viewer and save it again")
    return result


def _lost(case: Case, died: Died) -> Examined:
    result = Examined(case.id)
    message = f"the process that read {case.images[0].path} died (exit code {died.exit_code})"
    result.add(
        "error", "crashed", message, "out of memory, or a damaged file: save it again, or use fewer workers"
    )
    return result


def _duplicates(cases: Sequence[Case], examined: Sequence[Examined]) -> dict[str, list[Finding]]:
    """Warnings for cases whose voxels an earlier case has too, or whose channels are all one image."""
    first: dict[str, Case] = {}
    found: dict[str, list[Finding]] = {}
    for case, result in zip(cases, examined, strict=True):
        path = case.images[0].path
        messages = []
        if twin := next((first[key] for key in result.digests if key in first), None):
            message = f"{path} has the same voxels as case {twin.id} ({twin.images[0].path})"
            messages.append((message, _keep_one(case, twin)))
        if len(set(result.digests)) < len(result.digests):
            messages.append((f"two channels have the same voxels ({path})", "check the channels' files"))
        for key in result.digests:
            first.setdefault(key, case)
        found[case.id] = [Finding(case.id, "warning", "duplicate", *message) for message in messages]
    return found


def _keep_one(case: Case, twin: Case) -> str:
    if case.split == twin.split:
        return "keep one of them"
    return f"keep one: {twin.split} and {case.split} must not share images, scores would be too good"
