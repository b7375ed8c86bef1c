"""What `voco predict` keeps in a folder of the files that it made: they are no images of cases, wherever they lie."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MEMORY = ".voco-predictions.jsonl"  # one line a file, see `inference.provenance`


def remembered(folder: Path) -> Iterator[dict[str, Any]]:
    """What each line of the folder's memory says; one that is damaged, or was cut off, is as if it were not there."""
    try:
        lines = (folder / MEMORY).read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            facts = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(facts, dict):
            yield facts


def predicted_files(folder: Path) -> set[str]:
    """Files, relative to ``folder`` with forward slashes, that predictions have left there."""
    names = (facts.get("file") for facts in remembered(folder))
    return {name for name in names if name and isinstance(name, str)}
