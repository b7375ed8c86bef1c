"""What the list of a run's cases must keep to itself: how cases, patients and files are called."""

from __future__ import annotations

import os
from pathlib import Path

from VoCoCore.data.cases import Index, load_index
from VoCoCore.errors import DataError, SettingsError


def names_of(index: Index) -> frozenset[str]:
    """Ids of cases and patients, and the paths of their files (of a series its folder) and of the folders of these."""
    names = {name for case in index.cases for name in (case.id, case.patient)}
    for source in (s for case in index.cases for s in (*case.images, case.label) if s is not None):
        names |= {source.path, os.path.dirname(source.path)}
    names |= {item.path for item in index.skipped}
    return frozenset(names) - {"", os.sep}


def names_in(path: Path) -> frozenset[str]:
    """The same of the list at ``path``; none where it is missing or damaged."""
    try:
        return names_of(load_index(path))
    except (DataError, SettingsError):
        return frozenset()
