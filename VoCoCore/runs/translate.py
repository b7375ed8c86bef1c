"""Paths of an index as another machine sees them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from VoCoCore.errors import SettingsError


def translated_index(
    index: dict[str, Any], home: str, roots: Sequence[tuple[str, str]]
) -> tuple[dict[str, Any], int, int]:
    """Return ``index``, which lay in the folder ``home``, with absolute paths: those below the first folder of a
    pair in ``roots`` moved below its second one. Also how many were moved, and how many paths there are.

    What was left out when the index was made is not passed on. Raises SettingsError for a pair that no path needs
    or an index of another shape.
    """
    translate = _Translator(home, roots)
    try:
        cases = [_case(case, translate) for case in index["cases"]]
    except (TypeError, KeyError, AttributeError):
        raise SettingsError(
            "the run's private/index.json is damaged", "resume the run once to make it anew"
        ) from None
    for old in translate.unused():
        example = f"; one of them is {translate.example}" if translate.example else ""
        raise SettingsError(f"no file of the run lies below {old}{example}", "mend --data-root OLD=NEW")
    return {**index, "cases": cases, "skipped": []}, translate.moved, translate.seen


class _Translator:
    """Path as written in the index -> path on the other machine; counts."""

    def __init__(self, home: str, roots: Sequence[tuple[str, str]]) -> None:
        pairs = [(os.path.abspath(os.path.expanduser(old)), new) for old, new in roots]
        self._home = home
        self._roots = sorted(pairs, key=lambda pair: -len(pair[0]))  # the longest one that fits counts
        self._uses = dict.fromkeys((old for old, _ in pairs), 0)
        self.moved, self.seen, self.example = 0, 0, ""

    def __call__(self, path: str) -> str:
        full = os.path.normpath(os.path.join(self._home, path))
        self.seen, self.example = self.seen + 1, full
        for old, new in self._roots:
            if full == old or full.startswith(os.path.join(old, "")):
                self._uses[old] += 1
                self.moved += 1
                # A cluster's paths have slashes, whatever this machine writes.
                return new.rstrip("/") + full[len(old.rstrip(os.sep)) :].replace(os.sep, "/")
        return full

    def unused(self) -> list[str]:
        return [old for old, uses in self._uses.items() if not uses]


def _case(case: dict[str, Any], translate: Callable[[str], str]) -> dict[str, Any]:
    images = [_source(image, translate) for image in case["images"]]
    label = case.get("label")
    changed = {"images": images} if label is None else {"images": images, "label": _source(label, translate)}
    return {**case, **changed}


def _source(source: Any, translate: Callable[[str], str]) -> Any:
    if isinstance(source, str):
        return translate(source)
    return {**source, "path": translate(source["path"])}
