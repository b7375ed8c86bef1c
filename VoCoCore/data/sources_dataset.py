"""Data sets with a dataset.json: Medical Segmentation Decathlon (MSD), nnU-Net v2 and v1, MONAI's lists."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from VoCoCore.data.cases import Case, Index, Skipped, Source, shape_fault
from VoCoCore.data.images import EXTENSIONS, strip_extension
from VoCoCore.data.label_maps import IGNORE
from VoCoCore.data.sources_list import cases_of_rows
from VoCoCore.errors import DataError

_LISTS = {
    "training": None,
    "train": "train",
    "validation": "val",
    "val": "val",
    "test": "test",
    "testing": "test",
}


def describes_dataset(content: Any) -> bool:
    """Whether the content of a JSON file is one of these descriptions."""
    return isinstance(content, dict) and (_has_lists(content) or "channel_names" in content)


def _has_lists(content: Mapping[str, Any]) -> bool:
    return any(isinstance(content.get(name), list) for name in _LISTS)


def read_dataset(path: Path, content: Mapping[str, Any]) -> Index:
    """Cases that the dataset.json at ``path`` describes. Raises DataError where it has another shape."""
    try:
        labels, regions = parse_labels(content.get("labels") or {})
        index = _from_lists(path, content) if _has_lists(content) else _from_folders(path.parent, content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = shape_fault(error)
        raise DataError(f"{path} cannot be understood: {what}", "compare it with its format") from error
    return replace(index, labels=labels or None, regions=regions)


def parse_labels(labels: Any) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Names -> values, and the regions of nnU-Net, from value -> name, name -> value or name -> list of
    values.

    A value that occurs in regions only gets the name of the smallest region that holds it. Beside regions, a label of
    one value is a region too, but for the background and what is ignored: nnU-Net takes 3 and [3] for the same.
    """
    if isinstance(labels, list):
        labels = dict(enumerate(labels))
    if all(str(key).isdecimal() for key in labels) and not all(str(v).isdecimal() for v in labels.values()):
        return _names_to_values({int(value): str(name) for value, name in labels.items()}), {}
    named = {name: value for name, value in labels.items() if not isinstance(value, list)}
    regions = _regions(labels) if len(named) < len(labels) else {}
    names = {int(value): str(name) for name, value in named.items()}
    for name, values in sorted(regions.items(), key=lambda item: len(item[1])):
        for value in values:
            names.setdefault(value, name)
    return _names_to_values(names), regions


def _regions(labels: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """What of ``labels``, some of which are lists of values, is a region; in the order of the file."""
    found: dict[str, tuple[int, ...]] = {}
    for name, value in labels.items():
        if isinstance(value, list):
            found[name] = tuple(map(int, value))
        elif int(value) and name != IGNORE:
            found[name] = (int(value),)
    return found


def _names_to_values(names: Mapping[int, str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in sorted(names):
        name = names[value]
        found[name if name not in found else f"{name}_{value}"] = value
    return found


def _channel_names(content: Mapping[str, Any]) -> list[str]:
    """Names of the channels in order; MSD calls them modality, nnU-Net channel_names."""
    names = content.get("channel_names") or content.get("modality") or {}
    if isinstance(names, str):
        return [names]
    if isinstance(names, list):
        return [str(name) for name in names]
    return [str(names[key]) for key in sorted(names, key=int)]


def _from_lists(path: Path, content: Mapping[str, Any]) -> Index:
    """MSD and MONAI: lists of images, or of images with their labels."""
    names = _channel_names(content)
    rows = []
    for key, split in _LISTS.items():
        for item in content.get(key) or ():
            row = {"image": item} if isinstance(item, str | list) else dict(item)
            rows.append({"split": split, **row})
    index = cases_of_rows(rows, path, unit="entry")
    cases = tuple(_as_channels(case, len(names)) for case in index.cases)
    channels = tuple(names) if names else index.channels
    return replace(index, cases=cases, channels=channels)


def _as_channels(case: Case, count: int) -> Case:
    """Resolve one listed file: nnU-Net v1's per-channel files, or the volumes of one 4D file."""
    if len(case.images) != 1:
        return case
    image = case.images[0]
    stem = strip_extension(image.path)
    ending = image.path[len(stem) :]
    if not os.path.exists(image.path) and os.path.exists(f"{stem}_0000{ending}"):
        return replace(case, images=tuple(Source(f"{stem}_{n:04}{ending}") for n in range(max(count, 1))))
    if count > 1 and image.volume is None:
        return replace(case, images=tuple(Source(image.path, (), n) for n in range(count)))
    return case


def _from_folders(root: Path, content: Mapping[str, Any]) -> Index:
    """nnU-Net v2: files named CASE_0000.ext in imagesTr, labels in labelsTr; or listed under ``dataset``."""
    names = _channel_names(content)
    ending = content.get("file_ending")
    skipped: list[Skipped] = []
    if isinstance(content.get("dataset"), dict):
        cases = [_listed(root, name, item) for name, item in content["dataset"].items()]
    else:
        cases = _in_folder(root, "Tr", ending, names, skipped)
    cases += _in_folder(root, "Ts", ending, names, skipped)
    return Index(tuple(cases), tuple(names), None, tuple(skipped))


def _listed(root: Path, name: str, item: Mapping[str, Any]) -> Case:
    paths = [os.path.normpath(root / path) for path in item["images"]]
    if not paths:
        raise ValueError(f"'{name}' has no images")
    label = Source(os.path.normpath(root / item["label"])) if item.get("label") else None
    return Case(name, tuple(map(Source, paths)), label, name)


def _in_folder(
    root: Path, which: str, ending: str | None, names: Sequence[str], skipped: list[Skipped]
) -> list[Case]:
    """Cases of imagesTr or imagesTs, with their labels where there are any; test cases are marked so."""
    files = _names_in(root / f"images{which}")
    labels = {strip_extension(name): name for name in _names_in(root / f"labels{which}")}
    endings = "|".join(map(re.escape, [ending] if ending else EXTENSIONS))
    pattern = re.compile(rf"(?P<case>.+)_(?P<channel>\d{{4}})(?:{endings})", re.IGNORECASE)
    groups: dict[str, dict[int, str]] = {}
    for name in files:
        if found := pattern.fullmatch(name):
            groups.setdefault(found["case"], {})[int(found["channel"])] = str(root / f"images{which}" / name)
        elif not name.startswith("."):
            skipped.append(Skipped(str(root / f"images{which}" / name), "not named as dataset.json says"))
    return [
        Case(
            case,
            tuple(Source(channels[number]) for number in sorted(channels)),
            Source(str(root / f"labels{which}" / labels[case])) if case in labels else None,
            case,
            "test" if which == "Ts" else None,
            missing=tuple(name for number, name in enumerate(names) if number not in channels),
        )
        for case, channels in groups.items()
    ]


def _names_in(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name[0] != ".") if folder.is_dir() else []
