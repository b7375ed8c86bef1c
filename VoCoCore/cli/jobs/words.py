"""What the actions of `voco jobs` share: the option RUN, and plain tables."""

from __future__ import annotations

import os
from collections.abc import Sequence

from VoCoCore.cli.jobs.actions import ACTIONS
from VoCoCore.cli.main import Parser
from VoCoCore.errors import SettingsError
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.narrate import shell_word
from VoCoCore.runs.status import RESUMABLE


def parser_of(action: str) -> Parser:
    """A parser for ``voco jobs ACTION``."""
    return Parser(prog=f"voco jobs {action}", description=ACTIONS[action])


def parser_of_run(action: str) -> Parser:
    """The same with the folder of a run as its first word."""
    made = parser_of(action)
    made.add_argument("run", metavar="RUN", help="folder of the run")
    return made


def check_folder(path: str) -> None:
    """Raise SettingsError where there is no folder to look through, OSError where it cannot be opened.

    "Nothing found" would hide a slip of the finger.
    """
    if not os.path.isdir(path):
        what = "is a file, not a folder" if os.path.exists(path) else "is not there"
        raise SettingsError(f"{path or 'the empty name'} {what}", "name a folder to look through")
    os.listdir(path)


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows as aligned columns, those with numbers in ``right`` at their right edge; the first row is the head.

    Drawn by hand: importing a library for it takes longer than all else that `voco jobs list` does.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def under_way(path: str) -> RunDirectory:
    """The run at ``path``; SettingsError unless a job is working on it."""
    from VoCoCore.runs.describe import at_work

    run = RunDirectory.open(path)
    if not at_work(run):
        state = run.state()
        resume = f"voco jobs resume {shell_word(run.path)} goes on"
        hint = resume if state in RESUMABLE else "voco jobs list shows all"
        raise SettingsError(f"{run.path} is not under way: it is {state}", hint)
    return run
