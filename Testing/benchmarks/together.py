"""Run every benchmark of this folder; one table, bench.json and bench.png in the project's root.

Run: python Testing/benchmarks/together.py [--full] [NAME ...]
A NAME is a part of a benchmark's file name. In the short form two run at a time, each on one thread. Rows are shown as
they come; a benchmark that fails is named at the end, with the rows it had until then kept. Those of a GPU are skipped
where there is none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from threading import Lock
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COLUMNS = ("name", "unit", "ours", "baseline", "ratio", "goal", "spread", "device")
ALONE = (
    "bench_busy.py",
    "bench_scale.py",
    "bench_gpu_step.py",
    "bench_gpu_segment.py",
)  # measured by the wall
SKIPPED = 77  # the exit code of a benchmark that this machine cannot run
Row = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A benchmark's rows, and what went wrong with it."""

    name: str
    rows: list[Row]
    fault: str
    skipped: bool = False


def main(words: Sequence[str]) -> int:
    """Run, show, write; 1 where a benchmark failed or had no figures."""
    options = [word for word in words if word.startswith("-")]
    named = [word for word in words if word not in options]
    scripts = [
        path
        for path in sorted(HERE.glob("bench_*.py"))
        if not named or any(word in path.name for word in named)
    ]
    outcomes = run_all(scripts, options)
    rows = [row for outcome in outcomes for row in outcome.rows]
    print_table(rows)
    write_json(ROOT / "bench.json", rows)
    print("== wrote bench.json" + (" and bench.png" if _drawn(ROOT / "bench.json") else ""))
    failed = [outcome for outcome in outcomes if outcome.fault]
    for outcome in failed:
        print(f"== {outcome.name} failed: {outcome.fault}", file=sys.stderr)
    return int(bool(failed) or not rows)


def run_all(scripts: Sequence[Path], options: Sequence[str] = ()) -> list[Outcome]:
    """What became of each script, in their order; two run at a time where that disturbs neither."""
    began, lock, done = time.monotonic(), Lock(), count(1)

    def tell(text: str) -> None:
        with lock:
            print(text, flush=True)

    def one(script: Path) -> Outcome:
        found = run(script, options, tell)
        how = f"failed: {found.fault}" if found.fault else f"{len(found.rows)} rows"
        how = "skipped" if found.skipped else how
        passed = time.monotonic() - began
        tell(f"== {next(done)} of {len(scripts)} done after {passed:.0f} s: {script.name}, {how}")
        return found

    at_once = 1 if "--full" in options else min(2, os.cpu_count() or 1)
    together = [script for script in scripts if script.name not in ALONE]
    with ThreadPoolExecutor(at_once) as pool:
        try:
            outcomes = dict(zip(together, pool.map(one, together), strict=True))
        except KeyboardInterrupt:  # those at work have heard it too
            pool.shutdown(cancel_futures=True)
            raise
    outcomes |= {script: one(script) for script in scripts if script.name in ALONE}
    return [outcomes[script] for script in scripts]


def run(script: Path, options: Sequence[str], tell: Callable[[str], None]) -> Outcome:
    """Run one script in a process of its own; each row is told as it comes, and what went wrong at the end."""
    # One thread: what else runs on the machine then disturbs both sides of a ratio least.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words, rows = [sys.executable, "-W", "ignore", str(script), *options], []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        with subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=complaints, encoding="utf-8"
        ) as child:
            assert child.stdout
            for row in chain.from_iterable(map(rows_in, child.stdout)):
                rows.append(row)
                tell(f"   {short(row)}")
        complaints.seek(0)
        said = complaints.read()
    if child.returncode == SKIPPED:
        tell(said.rstrip())
        return Outcome(script.name, rows, "", skipped=True)
    if not child.returncode:
        return Outcome(script.name, rows, "" if rows else "no figures")
    tell(said.rstrip())
    return Outcome(script.name, rows, f"exit code {child.returncode}")


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
