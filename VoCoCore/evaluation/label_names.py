"""Which labels are scored: from the command line, the references' list of cases, or the file beside predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from VoCoCore.data.cases import Index, read_json_source
from VoCoCore.data.label_maps import IGNORE
from VoCoCore.data.sources_dataset import parse_labels
from VoCoCore.errors import DataError, SettingsError, nearest
from VoCoCore.evaluation.metrics import Labels
from VoCoCore.models.card import Colour

LABELS_FILE = "labels.json"  # beside predictions: {"labels": {name: value}, "colours": {name: [r, g, b]}}


@dataclass(frozen=True)
class LabelNames:
    """``labels``: name -> values; empty where they are to be found in the files. ``source`` says where they come from.

    ``declared``: all values that may occur; empty where nobody said, or where the user chose some of them: others count
    as background then. ``colours`` by name, for some or none.
    """

    labels: dict[str, tuple[int, ...]] = field(default_factory=dict)
    source: str = "the values found in the files"
    declared: frozenset[int] = frozenset()
    colours: dict[str, Colour] = field(default_factory=dict)


def choose_labels(asked: str, index: Index | None, predictions: Path) -> LabelNames:
    """The labels to score.

    ``asked``: "" or what `parse_asked` understands. ``index``: the references' list, where there is one. Raises
    DataError where both the list and labels.json beside the predictions name a label, with different values.
    """
    theirs = labels_beside(predictions)
    ours = of_index(index) if index is not None else {}
    # Of a region, a network's label maps hold the one value that no smaller region has.
    clash = next((name for name in ours if set(theirs.labels.get(name, ())) - set(ours[name])), None)
    if clash is not None:
        raise DataError(
            f"label '{clash}' is {_plus(ours[clash])} in the references and {_plus(theirs.labels[clash])} in "
            f"{predictions / LABELS_FILE}",
            f"give one side the other's values, or correct {LABELS_FILE}",
        )
    known = ours or theirs.labels
    if asked:
        return LabelNames(parse_asked(asked, known), "--labels", colours=theirs.colours)
    if not known:
        return LabelNames()
    source = "the references' list of cases" if ours else f"{LABELS_FILE} beside the predictions"
    declared = set(_values(known)) | set(_values(theirs.labels))
    declared |= set((index.labels or {}).values()) if index is not None else set()
    return LabelNames(known, source, frozenset(declared | {0}), theirs.colours)


def labels_beside(predictions: Path) -> LabelNames:
    """What labels.json beside predictions says; nothing where it is not there. Raises DataError for a damaged one."""
    return _read_file(predictions / LABELS_FILE)


def of_index(index: Index) -> dict[str, tuple[int, ...]]:
    """Regions and labels that an index declares: a label whose values lie in regions is scored as part of them."""
    aside = {0, *(value for values in index.regions.values() for value in values)}
    named = (index.labels or {}).items()
    plain = {name: (value,) for name, value in named if value not in aside and name != IGNORE}
    return {**index.regions, **plain}


def parse_asked(asked: str, known: Labels) -> dict[str, tuple[int, ...]]:
    """Labels of ``asked``: ``liver,spleen`` of those known, ``liver=1,tumour=2+3``, or the name of a JSON file.

    Raises SettingsError for what cannot be understood, DataError for a file that holds no labels.
    """
    if asked.lower().endswith(".json"):
        found = _read_file(Path(asked), needed=True).labels
        if not found:
            raise DataError(f"{asked} names no label", 'write it like {"labels": {"liver": 1}}')
        return found
    labels: dict[str, tuple[int, ...]] = {}
    for word in asked.split(","):
        name, equals, values = (part.strip() for part in word.partition("="))
        if not name or name in labels:
            raise SettingsError(f"--labels '{asked}' has a label without a name or twice", _EXAMPLE)
        if not equals and name not in known:
            hint = f"known are {', '.join(known)}" if known else f"no file says what they are: {_EXAMPLE}"
            raise SettingsError(f"there is no label '{name}'.{nearest(name, known)}", hint)
        labels[name] = _parsed(values, asked) if equals else known[name]
    return labels


_EXAMPLE = "write it like --labels liver=1,tumour=2+3"


def _parsed(values: str, asked: str) -> tuple[int, ...]:
    if not all(part.strip().isdecimal() and int(part) > 0 for part in values.split("+")):
        raise SettingsError(f"--labels '{asked}': '{values}' is no value of a label", _EXAMPLE)
    return tuple(int(part) for part in values.split("+"))


def _read_file(path: Path, needed: bool = False) -> LabelNames:
    """Labels and colours of a JSON file: ours, a dataset.json, or names and values alone."""
    if not needed and not path.is_file():
        return LabelNames()
    content = read_json_source(path)
    try:
        named = content.get("labels", content if needed else {})
        plain, regions = parse_labels(named)
        colours = {str(name): _colour(rgb) for name, rgb in (content.get("colours") or {}).items()}
        labels = of_index(Index((), labels=plain, regions=regions))
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} does not say which labels there are", 'write it like {"labels": {"liver": 1}}'
        ) from error
    return LabelNames(labels, path.name, colours=colours)


def _colour(values: Iterable[Any]) -> Colour:
    red, green, blue = (min(255, max(0, int(value))) for value in values)
    return red, green, blue


def _values(labels: Mapping[str, tuple[int, ...]]) -> list[int]:
    return [value for values in labels.values() for value in values]


def _plus(values: tuple[int, ...]) -> str:
    return "+".join(map(str, values))
