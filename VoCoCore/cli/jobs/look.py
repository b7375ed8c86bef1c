"""`voco jobs list` and `voco jobs show`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from VoCoCore.cli.jobs.words import check_folder, parser_of, parser_of_run, table
from VoCoCore.runs import known
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.narrate import duration, number, one_line
from VoCoCore.runs.status import ACTIVE


def list_(words: list[str]) -> int:
    """One line for each run."""
    parser = parser_of("list")
    parser.add_argument(
        "folder", nargs="?", help="a folder to look through; default: the runs started on this machine"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(words)
    if asked.folder:
        check_folder(asked.folder)
    rows = known.list_runs(asked.folder)
    if asked.json:
        from VoCoCore.runs.events import strict

        print(json.dumps(strict([{**asdict(row), "path": str(row.path)} for row in rows]), indent=1))
    elif rows:
        head = ("RUN", "STATE", "STEP", "DONE", "LAST HEARD OF", "FOLDER")
        print(table([head, *map(_cells, rows)], right=(2, 3)))
    else:
        print("no runs" + (f" in {asked.folder}" if asked.folder else " known on this machine"))
    return 0


def _cells(line: known.Line) -> tuple[str, ...]:
    from VoCoCore.runs.describe import SILENT

    silent = max(0.0, time.time() - line.heartbeat)
    worth_saying = line.heartbeat and (line.state == "lost" or (line.state in ACTIVE and silent >= SILENT))
    return (
        one_line(line.path.name),
        line.state,
        f"{line.step}/{line.total}",
        f"{100 * line.step // line.total} %" if line.total > 0 else "",
        f"{duration(silent)} ago" if worth_saying else "",
        one_line(line.path),
    )


def show_(words: list[str]) -> int:
    """Everything about one run that fits a few lines."""
    parser = parser_of_run("show")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(words)
    from VoCoCore.runs.describe import describe

    found = describe(RunDirectory.open(asked.run).path)
    if asked.json:
        from VoCoCore.runs.events import strict

        print(json.dumps(strict(asdict(found)), indent=1))
    else:
        print("\n".join(map(one_line_indented, _lines(found))))
    return 0


def one_line_indented(line: str) -> str:
    """``line`` made harmless, its two leading blanks kept."""
    return "  " * line.startswith("  ") + one_line(line)


def _lines(found) -> list[str]:
    from VoCoCore.runs.describe import under_way_words

    left = f", {duration(found.eta_s)} left" if found.eta_s is not None else ""
    rate = f", {number(found.rate, 3)} steps/s" if found.rate is not None else ""
    stage = f" ({found.stage})" if found.stage and found.state == "preparing" else ""
    kept = "none yet" if found.checkpoint is None else f"step {found.checkpoint}"
    facts = [f"attempt {found.attempt}" if found.attempt else "", found.device, under_way_words(found)]
    lines = [
        found.path,
        f"  {found.state}{stage}, step {found.step} of {found.total}{rate}{left}",
        "  " + ", ".join(filter(None, facts)),
        f"  last checkpoint: {kept}",
    ]
    for split, values in (("training", found.train), ("held-out", found.val)):
        if values:
            figures = (f"{name} {number(value)}" for name, value in sorted(values.items()))
            lines.append(f"  {split}: " + ", ".join(figures))
    if found.message:
        lines.append(f"  {found.message}")
    if found.hint:
        lines.append(f"  what to do: {found.hint}")
    return [line for line in lines if line.strip()]
