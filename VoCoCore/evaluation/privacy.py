"""What may be shown to anyone: texts without paths, file names or the names of cases.

A run keeps such things under its ``private/`` folder; this is the second lock on that door, for messages of
libraries that quote a path.
"""

from __future__ import annotations

import re

_KINDS = (
    "nii.gz nii nrrd nhdr mha mhd dcm ima zarr npz npy pt pth safetensors zip json yaml yml csv py txt log"
)
_ENDINGS = rf"\.(?:{'|'.join(re.escape(kind) for kind in _KINDS.split())})\b"
_START = r"(?<![\w.])(?:[A-Za-z]:[\\/]|\\\\|~/|\.{0,2}/)"
_PATTERNS = (
    # A path may hold blanks: up to its file name's ending, where it has one.
    (re.compile(_START + r"[^\n:'\"]*?" + _ENDINGS, re.IGNORECASE), "[file]"),
    (re.compile(_START + r"[^\s'\"<>|,;:)]+"), "[folder]"),
    (re.compile(r"[^\s'\"(]*" + _ENDINGS, re.IGNORECASE), "[file]"),
    (re.compile(r"\bcase [^:\n]{1,200}?:"), "a case:"),
)


def without_names(text: object) -> str:
    """``text`` with paths, file names and "case NAME:" taken out."""
    shown = str(text)
    for pattern, instead in _PATTERNS:
        shown = pattern.sub(instead, shown)
    return shown
