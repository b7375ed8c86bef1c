"""Run every benchmark of this folder; one table, bench.json and bench.png in the project's root.

Run: python Testing/benchmarks/together.py [--full] [NAME ...]
A NAME is a part of a benchmark's file name. Rows are shown as they come; a benchmark that fails is named at the end,
with the rows it had until then kept.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COLUMNS = ("name", "unit", "ours", "baseline", "ratio", "goal", "spread", "device")
Row = dict[str, Any]


def main(words: Sequence[str]) -> int:
    """Run, show, write; 1 where a benchmark failed or had no figures."""
    options = [word for word in words if word.startswith("-")]
    named = [word for word in words if word not in options]
    scripts = [
        path
        for path in sorted(HERE.glob("bench_*.py"))
        if not named or any(word in path.name for word in named)
    ]
    rows, failed = run_all(scripts, options)
    print_table(rows)
    write_json(ROOT / "bench.json", rows)
    print("== wrote bench.json" + (" and bench.png" if _drawn(ROOT / "bench.json") else ""))
    for name, why in failed.items():
        print(f"== {name} failed: {why}", file=sys.stderr)
    return int(bool(failed) or not rows)


def run_all(scripts: Sequence[Path], options: Sequence[str] = ()) -> tuple[list[Row], dict[str, str]]:
    """The rows of all scripts, and why some failed, by name."""
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for number, script in enumerate(scripts, start=1):
        print(f"== {number} of {len(scripts)}: {script.name}", flush=True)
        began, before = time.monotonic(), len(rows)
        # One thread: what else runs on the machine then disturbs both sides of a ratio least.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        words = [sys.executable, str(script), *options]
        with subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, encoding="utf-8"
        ) as child:
            assert child.stdout
            for line in child.stdout:
                for row in rows_in(line):
                    rows.append(row)
                    print(f"   {short(row)}", flush=True)
        if child.returncode:
            failed[script.name] = f"exit code {child.returncode}"
        elif len(rows) == before:
            failed[script.name] = "no figures"
        print(f"   {time.monotonic() - began:.0f} s", flush=True)
    return rows, failed


def rows_in(line: str) -> Iterator[Row]:
    """The rows of a printed line, each with all of ``COLUMNS``; none where it is no row and no list of rows."""
    try:
        found = json.loads(line)
    except ValueError:
        return
    for row in found if isinstance(found, list) else [found]:
        if isinstance(row, dict) and "name" in row:
            yield {column: row.get(column) for column in COLUMNS}


def short(row: Row) -> str:
    """A row as one line of progress."""
    ratio = f"  ({word(row['ratio'])} x)" if row["ratio"] else ""
    return f"{row['name']}: {word(row['ours'])} {row['unit']}{ratio}"


def print_table(rows: Sequence[Row]) -> None:
    """All rows as one table, names broken where the terminal is narrow."""
    shown = ("unit", "ours", "baseline", "ratio", "goal", "spread")
    cells = [list(shown), *([word(row[column]) for column in shown] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(shown))]
    room = shutil.get_terminal_size((150, 24)).columns - sum(widths) - 2 * len(widths)
    room = max(32, min(room, 80))
    for name, line in zip(["what", *(row["name"] for row in rows)], cells, strict=True):
        *above, last = textwrap.wrap(name, room, subsequent_indent="  ")
        figures = (
            cell.ljust(width) if title in ("unit", "goal") else cell.rjust(width)
            for title, cell, width in zip(shown, line, widths, strict=True)
        )
        print("\n".join([*above, "  ".join([last.ljust(room), *figures]).rstrip()]), flush=True)


def word(value: object) -> str:
    """A value as the table shows it: numbers with three digits that count."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def write_json(path: Path, content: object) -> None:
    """Replace the file in one step."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(beside, path)


def _drawn(path: Path) -> bool:
    words = [sys.executable, str(HERE / "draw_ratios.py"), str(path)]
    return subprocess.run(words, check=False).returncode == 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # the benchmark has heard it too
        sys.exit(130)
