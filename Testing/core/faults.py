"""What a user who made a mistake sees: one line, the right exit code, no traceback; kept for a list of all of them.

With VOCO_FAULT_LIST=FILE in the environment, every fault that the tests met is written there as a Markdown table.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from VoCoCore.cli import main

ROOT = Path(__file__).resolve().parents[2]
met: dict[str, tuple[int, str]] = {}  # kind of fault -> exit code, what was printed


def check_line(kind: str, code: int, expected: int, text: str, says: Iterable[str]) -> str:
    """Hold what a command printed to stderr against the rules; returns the line that tells the fault."""
    assert "Traceback" not in text, text
    lines = [line for line in text.strip().splitlines() if line.startswith("voco: ")]
    assert code == expected, f"exit code {code}, not {expected}: {text}"
    assert len(lines) == 1, f"one line tells what is wrong, not {len(lines)}: {text}"
    line = lines[0]
    assert line.startswith(("voco: error: ", "voco: stopped: ")), line
    assert re.search(r"  \(.+\)$", line), f"no word on what to do: {line}"
    for word in says:
        assert str(word) in line, f"{word!r} is not in: {line}"
    met[kind] = (code, line)
    return line


def meet(capsys, kind: str, expected: int, words: Iterable[object], says: Iterable[object]) -> str:
    """Run ``voco`` with ``words`` in this process; it must end with ``expected`` and one line that has all of ``says``.

    The last ``says`` should be the file or the setting at fault. Returns the line.
    """
    capsys.readouterr()
    code = main([str(word) for word in words])
    return check_line(kind, code, expected, capsys.readouterr().err, [str(word) for word in says])


def write_list(path: Path) -> None:
    """Write all faults met so far as a Markdown page, without the folders of this machine."""
    rows = [f"| {_short(kind)} | {code} | {_short(line)} |" for kind, (code, line) in sorted(met.items())]
    head = [
        "# Faults",
        "",
        f"The {len(rows)} kinds of mistakes and mishaps that the tests try, and the line that each of them ends with.",
        "",
        "| What is wrong | Code | What is said |",
        "|---|---|---|",
    ]
    path.write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


def _short(text: str) -> str:
    text = re.sub(r"/\S*?/pytest-of-[^/]*/pytest-\d+/(popen-gw\d+/)?[^/\s:']*/?", "", text).replace(
        str(ROOT), "VOCO"
    )
    text = text.removeprefix("voco: ").replace(os.path.expanduser("~"), "~")
    return re.sub(r"([|<>*_`\[\]\\])", r"\\\1", text)
