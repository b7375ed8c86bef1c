"""Whether runs that are compared were trained alike: a difference in scores may come from any setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from VoCoCore.fields import as_typed, flatten
from VoCoCore.runs.files import read_json
from VoCoCore.runs.narrate import one_line
from VoCoCore.training.opening import MAY_CHANGE

# What is compared on purpose (the start, the number of cases, the draw), and places of a machine.
MEANT = MAY_CHANGE | {
    "init",
    "data.source",
    "data.store",
    "data.labels",
    "data.label_seed",
    "data.fold",
    "run.seed",
}
SHOWN = 8  # settings that one note names


def settings_notes(runs: Sequence[tuple[str, Path]]) -> list[str]:
    """In which settings runs, each with the name of its method, differ; nothing where none is known to."""
    known = [(name, found) for name, path in runs if (found := _settings_of(path))]
    told = []
    for word in known[0][1] if known else ():
        if word in MEANT or not all(word in found for _, found in known):
            continue
        values: dict[str, list[str]] = {}
        for name, found in known:
            values.setdefault(one_line(as_typed(found[word])), []).append(name)
        if len(values) > 1:
            each = (f"{value} ({', '.join(dict.fromkeys(names))})" for value, names in values.items())
            told.append(f"{word} {' and '.join(each)}")
    if not told:
        return []
    more = f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return [
        f"the runs were not trained alike, and a difference may come from that: {'; '.join(told[:SHOWN])}{more}"
    ]


def _settings_of(run: Path) -> Mapping[str, Any]:
    """By dotted name; of folds, which share a plan, those of the first. Empty for an evaluation."""
    places = (run / "settings.json", run / "fold-0" / "settings.json")
    found = next((read_json(path) for path in places if path.is_file()), None)
    return dict(flatten(found)) if isinstance(found, dict) else {}
