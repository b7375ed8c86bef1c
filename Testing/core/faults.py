"""What a user who made a mistake sees: one line, the right exit code, no traceback; kept for a list of all of them.

With VOCO_FAULT_LIST=FILE in the environment, every fault that the tests met becomes a row of the table in that page, in
the place of its row of before: ``VOCO_FAULT_LIST=docs/faults.md python -m pytest Testing/core/test_x.py``. What no
test meets any more goes when the file is deleted before a run of all tests.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from VoCoCore.cli import main

ROOT = Path(__file__).resolve().parents[2]
# What is another one in each run of the tests.
_CHANGING = {
    r"host .+?, pid \d+, since [^)]+": "host NAME, pid 1234, since 2026-01-31 12:00:00 +0000",
    r"cases/[0-9a-f]{2}/[0-9a-f]{64}": "cases/KEY",
    r"torso_\d{4}": "torso_0000",
}
_HEAD = "What is wrong"
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
    """Bring a Markdown page of faults up to date by those met so far, without the folders of this machine."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = {kind_in(line): line for line in lines if line.startswith("| ")}
    rows |= {
        escaped(kind): f"| {escaped(kind)} | {code} | {escaped(line)} |" for kind, (code, line) in met.items()
    }
    rows.pop(_HEAD, None)
    head = [
        "# Faults",
        "",
        f"The {len(rows)} kinds of mistakes and mishaps that the tests try, and the line that each of them ends with.",
        "",
        f"| {_HEAD} | Code | What is said |",
        "|---|---|---|",
    ]
    path.write_text("\n".join([*head, *(rows[kind] for kind in sorted(rows))]) + "\n", encoding="utf-8")


def kind_in(row: str) -> str:
    """The kind of fault that a row of the page is about, as it is written there."""
    return row.removeprefix("| ").partition(" | ")[0]


def escaped(text: str) -> str:
    """A text as it stands in the page: no folders of this machine, nothing that Markdown would take for its own."""
    text = re.sub(r"/\S*?/pytest-of-[^/]*/pytest-\d+/(popen-gw\d+/)?[^/\s:']*/?", "", text).replace(
        str(ROOT), "VOCO"
    )
    text = text.removeprefix("voco: ").replace(os.path.expanduser("~"), "~")
    for changing, word in _CHANGING.items():
        text = re.sub(changing, word, text)
    return re.sub(r"([|<>*_`\[\]\\])", r"\\\1", text)
