"""What may be shown to anyone: texts without paths, file names or the names of cases.

A run keeps such things under its ``private/`` folder, with the error that ended it in full; this is the second lock on
that door, for messages that quote a path or name a case.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING

from VoCoCore.errors import EnvironmentFault
from VoCoCore.runs.files import read_json

if TYPE_CHECKING:
    from VoCoCore.runs.directory import RunDirectory

ERROR = "error.json"  # in private/: the error that ended a run, and what is shown of it

_KINDS = (
    "nii.gz nii nrrd nhdr mha mhd dcm ima zarr npz npy pt pth safetensors zip json yaml yml csv py txt log"
)
_ENDINGS = rf"\.(?:{'|'.join(re.escape(kind) for kind in _KINDS.split())})\b"
_START = r"(?<![\w.])(?:[A-Za-z]:[\\/]|\\\\|~/|\.{0,2}/)"
_IN_PATH = r"[^\s'\"<>|,;:)]"
_PATTERNS = (
    # A path may hold blanks: up to its file name's ending, where it has one.
    (re.compile(_START + r"[^\n:'\"]*?" + _ENDINGS, re.IGNORECASE), "[file]"),
    (re.compile(_START + _IN_PATH + "+"), "[folder]"),
    (re.compile(r"[^\s'\"(]*" + _ENDINGS, re.IGNORECASE), "[file]"),
    (re.compile(r"\bcase [^:\n]{1,200}?:"), "a case:"),
)
_MOST = 5000  # characters: the patterns take the square of a long word
_SEPARATOR = re.compile(r"[\\/]")
_COUNT = re.compile(r"\d{1,3}")  # a case called 7 is nobody, and each count would be taken for it


def without_names(text: object, names: Collection[str] = ()) -> str:
    """``text`` with paths, file names, "case NAME:" and the known ``names`` (of cases, patients, files) taken out."""
    shown = str(text)[:_MOST]
    # Few of perhaps 100 000 stand in it. The longest first: one name may be a part of another.
    for name in sorted((name for name in names if name in shown), key=len, reverse=True):
        if _SEPARATOR.search(name):
            shown = re.sub(re.escape(name) + _IN_PATH + "*", "[file]", shown)
        elif not _COUNT.fullmatch(name):
            shown = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", "[case]", shown)
    for pattern, instead in _PATTERNS:
        shown = pattern.sub(instead, shown)
    return shown


def keep_error(run: RunDirectory, shown: str, message: str, hint: str) -> None:
    """Keep an error for the run's own user; ``shown`` is what the public files say in place of ``message``."""
    with suppress(EnvironmentFault):
        run.write_json(f"private/{ERROR}", {"shown": shown, "message": message, "hint": hint})


def error_in_full(run: RunDirectory, shown: str, hint: str) -> tuple[str, str]:
    """Message and hint of the error that the public files tell of as ``shown``; as they are where nothing was kept."""
    kept = read_json(run.private / ERROR) if shown else None
    if not isinstance(kept, dict) or kept.get("shown") != shown:
        return shown, hint
    return str(kept.get("message") or shown), str(kept.get("hint") or hint)
