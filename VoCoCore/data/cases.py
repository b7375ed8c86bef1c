"""Which cases there are: sources, cases and the index, and the index's JSON file.

An index file holds paths relative to itself, so that a folder can be moved with its index; in memory paths
are absolute. Loading touches no file but the index: 100 000 cases take about a second.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from VoCoCore.data.names import Names
from VoCoCore.errors import DataError, SettingsError
from VoCoCore.runs.cells import readable
from VoCoCore.runs.files import read_json, write_json

FORMAT, VERSION = "vococore-index", 1
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Source:
    """Where one 3D image lies.

    ``path`` is a file, or for a DICOM series the folder below which ``files`` lie, in order along the slice
    normal. ``volume`` picks one volume of a 4D file. ``segments`` of a label are (name, voxel value) of what 3D Slicer
    saved by name; without them a label's values are those in the file.
    """

    path: str
    files: tuple[str, ...] = ()
    volume: int | None = None
    segments: tuple[tuple[str, int], ...] = ()

    @property
    def paths(self) -> list[str]:
        """All files of this image, in order."""
        return [os.path.join(self.path, name) for name in self.files] or [self.path]


@dataclass(frozen=True, slots=True)
class Case:
    """One examination: a source per channel, and what is known about it.

    ``label`` is a segmentation, ``target`` a class; cases of one ``patient`` never part at a split.
    ``missing`` names channels of the index for which no file was found: such a case cannot be read.
    """

    id: str
    images: tuple[Source, ...]
    label: Source | None = None
    patient: str = ""
    split: str | None = None
    fold: int | None = None
    body_part: str | None = None
    target: int | str | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that looked like an image but is no case, and why; ``count`` files share the reason."""

    path: str
    reason: str
    count: int = 1


@dataclass(frozen=True)
class Index:
    """All cases of a source. ``labels`` maps names to voxel values, ``regions`` to several (nnU-Net)."""

    cases: tuple[Case, ...]
    channels: tuple[str, ...] = ("image",)
    labels: dict[str, int] | None = None
    skipped: tuple[Skipped, ...] = ()
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)


def with_unique_ids(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Return the cases with a number added to every id that an earlier case already has."""
    given = Names()
    named = ((case, given.new(readable(case.id))) for case in cases)
    return tuple(case if name == case.id else replace(case, id=name) for case, name in named)


def save_index(index: Index, path: str | Path) -> None:
    """Write ``index`` as JSON, paths relative to the file; replaces an older index in one step.

    Raises SettingsError where another kind of file is there, EnvironmentFault where it cannot be written.
    """
    path = Path(os.path.abspath(path))
    _refuse_other_file(path)
    relative = _shortener(str(path.parent))
    content = {
        "format": FORMAT,
        "version": VERSION,
        "channels": list(index.channels),
        "labels": index.labels,
        "regions": {name: list(values) for name, values in index.regions.items()},
        "cases": [_case_to_json(case, relative) for case in index.cases],
        "skipped": [_without_defaults(item, path=relative(item.path)) for item in index.skipped],
    }
    write_json(path, content)


def _refuse_other_file(path: Path) -> None:
    """An image or a data set's own list must not be lost to a slip of the keyboard."""
    if not path.is_file() or path.stat().st_size == 0:
        return
    old = read_json(path)
    if not isinstance(old, dict) or old.get("format") != FORMAT:
        raise SettingsError(f"{path} is there already and is no index of cases", "choose another name")


def load_index(path: str | Path) -> Index:
    """Read an index file. Raises DataError, naming the file, when it is not a usable index."""
    path = Path(os.path.abspath(path))
    return index_from_json(read_json_source(path), path)


def read_json_source(path: Path) -> Any:
    """Content of a JSON file that a user named. Raises DataError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", "check the path") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not valid JSON: {error.msg} in line {error.lineno}", "correct or rebuild it"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8", "save it again as UTF-8") from error
    except (RecursionError, ValueError) as error:  # nested too deeply; a number of thousands of digits
        raise DataError(f"{path} cannot be understood: {error}", "correct or rebuild it") from error


def index_from_json(content: Any, path: Path) -> Index:
    """Build the index from the content of the file ``path``. Raises DataError where it has another shape."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is not an index of cases", "make one with 'voco data index'")
    if content.get("version") != VERSION:
        raise DataError(
            f"{path} has index version {content.get('version')!r}, this program reads version {VERSION}",
            "make it again with 'voco data index', or update VoCoCore",
        )
    where = "its head"
    try:
        absolute = _resolver(str(path.parent))
        channels = tuple(str(name) for name in content["channels"])
        labels = content.get("labels")
        labels = None if labels is None else {str(name): int(value) for name, value in labels.items()}
        regions = {name: tuple(map(int, values)) for name, values in (content.get("regions") or {}).items()}
        cases = []
        for number, item in enumerate(content["cases"]):
            where = f"case number {number}"
            cases.append(_case_from_json(item, absolute))
        where = "its list of skipped files"
        skipped = [
            Skipped(absolute(s["path"]), str(s["reason"]), int(s.get("count", 1))) for s in content["skipped"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = shape_fault(error)
        raise DataError(
            f"{path} is not a usable index: {where}: {what}", "make it again with 'voco data index'"
        ) from error
    _refuse_repeated_ids(cases, path)
    return Index(tuple(cases), channels, labels, tuple(skipped), regions)


def _refuse_repeated_ids(cases: list[Case], path: Path) -> None:
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise DataError(
                f"{path} has two cases with the id '{case.id}'", "give each case an id of its own"
            )
        seen.add(case.id)


def _case_from_json(item: Any, absolute: Callable[[str], str]) -> Case:
    images = tuple(_source_from_json(image, absolute) for image in _checked(item["images"], list, "images"))
    if not images:
        raise ValueError("'images' is empty")
    label, split = item.get("label"), item.get("split")
    if split is not None and split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    name = _checked(item["id"], str, "id")
    return Case(
        name,
        images,
        None if label is None else _source_from_json(label, absolute),
        name if item.get("patient") is None else str(item["patient"]),
        split,
        _optional(item, "fold", int),
        _optional(item, "body_part", str),
        _optional(item, "target", int | str),
        tuple(item.get("missing", ())),
    )


def _optional(item: dict[str, Any], key: str, kind: Any) -> Any:
    value = item.get(key)
    return value if value is None else _checked(value, kind, key)


def _checked(value: Any, kind: Any, what: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"'{what}' cannot be {json.dumps(value)[:60]}")
    return value


def shape_fault(error: Exception) -> str:
    """What a person reads where taking a JSON file apart failed: Python's own words would not help."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, ValueError):
        return str(error)
    return "a list, a text or a number stands where something else should"


def _source_from_json(item: Any, absolute: Callable[[str], str]) -> Source:
    if isinstance(item, str):
        return Source(absolute(item))
    files = tuple(os.path.normpath(_checked(name, str, "files")) for name in item.get("files", ()))
    segments = _checked(item.get("segments", {}), dict, "segments")
    return Source(
        absolute(_checked(item["path"], str, "path")),
        files,
        _optional(item, "volume", int),
        tuple((name, _checked(value, int, "segments")) for name, value in segments.items()),
    )


def _case_to_json(case: Case, relative: Callable[[str], str]) -> dict[str, Any]:
    label = None if case.label is None else _source_to_json(case.label, relative)
    images = [_source_to_json(image, relative) for image in case.images]
    return _without_defaults(case, images=images, label=label, missing=list(case.missing))


def _source_to_json(source: Source, relative: Callable[[str], str]) -> str | dict[str, Any]:
    path = relative(source.path)
    if not source.files and source.volume is None and not source.segments:
        return path
    files = [Path(name).as_posix() for name in source.files]
    return _without_defaults(source, path=path, files=files, segments=dict(source.segments) or None)


def _without_defaults(record: Any, **changed: Any) -> dict[str, Any]:
    """The fields of a dataclass, less those that are empty."""
    values = {name: changed.get(name, getattr(record, name)) for name in record.__dataclass_fields__}
    return {
        name: value for name, value in values.items() if value is not None and value != [] and value != ""
    }


def _resolver(root: str) -> Callable[[str], str]:
    """Path as written in a file -> absolute path, without asking the file system."""
    return lambda path: os.path.normpath(os.path.join(root, path))


def _shortener(root: str) -> Callable[[str], str]:
    """Absolute path -> path relative to ``root`` with forward slashes; unchanged on another drive."""
    prefix = os.path.join(root, "")

    def shorten(path: str) -> str:
        # os.path.relpath is correct everywhere and slow; most files lie below the index.
        if path.startswith(prefix):
            return path[len(prefix) :].replace(os.sep, "/")
        try:
            return os.path.relpath(path, root).replace(os.sep, "/")
        except ValueError:  # another drive
            return path

    return shorten
