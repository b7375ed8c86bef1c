"""What a person reads: the summary of an index and the table of a check, as rich renderables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from VoCoCore.data.cases import Index, Skipped
from VoCoCore.data.check_case import Finding
from VoCoCore.errors import counted

_COLOURS = {"error": "red", "warning": "yellow"}
_EXAMPLES = 3


def summarise(index: Index) -> RenderableType:
    """What an index holds, and what was skipped why: a table that `rich` prints."""
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in _facts(index):
        facts.add_row(Text(name, style="bold"), Text(value))
    return Group(facts, Text(), _skipped_table(index.skipped)) if index.skipped else facts


def _skipped_table(skipped: Sequence[Skipped]) -> Table:
    table = Table(title="skipped", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("files", "why", "for example"):
        table.add_column(heading, justify="right" if heading == "files" else "left", overflow="fold")
    for reason, paths, count in _by_reason(skipped):
        examples = "\n".join(paths[:_EXAMPLES])
        table.add_row(str(count), Text(reason), Text(examples, style="dim"))
    return table


def findings_table(rows: Sequence[Finding], skipped: Sequence[Skipped] = ()) -> RenderableType:
    """One row per finding, errors in red; below, what was found to be no case, and why."""
    findings = _findings(rows)
    return Group(findings, Text(), _skipped_table(skipped)) if skipped else findings


def _findings(rows: Sequence[Finding]) -> Table:
    errors = sum(row.severity == "error" for row in rows)
    others = len(rows) - errors
    title = f"{counted(errors, 'error')}, {counted(others, 'warning')}" if rows else "nothing wrong was found"
    table = Table(title=title, title_justify="left", show_header=bool(rows), show_edge=bool(rows))
    for heading in ("case", "", "what is wrong", "what to do"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        # Text, because file names may hold what rich would take for markup.
        severity = Text(row.severity, style=_COLOURS[row.severity])
        table.add_row(Text(row.case), severity, Text(row.message), Text(row.hint))
    return table


def _facts(index: Index) -> Iterable[tuple[str, str]]:
    cases = index.cases
    yield "cases", f"{len(cases)} of {counted(len({case.patient for case in cases}), 'patient')}"
    yield "channels", f"{len(index.channels)} ({', '.join(index.channels)})"
    if incomplete := sum(bool(case.missing) for case in cases):
        yield "incomplete", f"{counted(incomplete, 'case', 'lacks', 'lack')} a channel"
    labelled = sum(case.label is not None for case in cases)
    yield "with label", f"{labelled}{_declared(index)}"
    if series := sum(bool(case.images[0].files) for case in cases):
        files = sum(len(case.images[0].files) for case in cases)
        yield "from DICOM", f"{series} series, {counted(files, 'file')}"
    for name in ("split", "fold", "body_part", "target"):
        values = Counter(getattr(case, name) for case in cases)
        if set(values) != {None}:
            parts = [
                f"{value if value is not None else 'open'}: {count}" for value, count in values.most_common(8)
            ]
            yield "class" if name == "target" else name.replace("_", " "), ", ".join(parts)


def _declared(index: Index) -> str:
    if not index.labels:
        return ""
    names = [f"{value} {name}" for name, value in index.labels.items()]
    return f" ({', '.join(names[:8])}{', ...' if len(names) > 8 else ''})"


def _by_reason(skipped: Sequence[Skipped]) -> list[tuple[str, list[str], int]]:
    reasons: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for item in skipped:
        reasons.setdefault(item.reason, []).append(item.path)
        counts[item.reason] += item.count
    return [(reason, reasons[reason], count) for reason, count in counts.most_common()]
