"""Tables as text: Markdown that reads well as it is, and what a field of a CSV holds."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from VoCoCore.runs.cells import as_cell


def plain(value: object) -> object:
    """``value`` as a field of a CSV: empty where there is none."""
    if isinstance(value, float):
        return f"{value:.7g}" if isfinite(value) else ""
    return "" if value is None else as_cell(value)


def cell(text: str) -> str:
    """``text`` as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def text_grid(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """A Markdown table, padded so that it reads well as plain text; the first ``left`` columns are texts."""
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [
            text.ljust(width) if place < left else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    rule = [
        "-" * (width + 2) if place < left else "-" * (width + 1) + ":" for place, width in enumerate(widths)
    ]
    return [lines[0], f"|{'|'.join(rule)}|", *lines[1:]]
