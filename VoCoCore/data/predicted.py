"""Which files of a folder `voco predict` has made: they are no images of cases, wherever they lie."""

from __future__ import annotations

import json
from pathlib import Path

MEMORY = ".voco-predictions.jsonl"  # one line a file, see `inference.provenance`


def predicted_files(folder: Path) -> set[str]:
    """Files, relative to ``folder`` with forward slashes, that predictions have left there; a damaged line is none."""
    found: set[str] = set()
    try:
        lines = (folder / MEMORY).read_bytes().splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            facts = json.loads(line)
        except (ValueError, RecursionError):
            continue
        name = facts.get("file") if isinstance(facts, dict) else None
        if name and isinstance(name, str):
            found.add(name)
    return found
