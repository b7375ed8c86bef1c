"""Lists of cases: a CSV table or JSON records with one case per row.

Columns: ``image``, or one ``image_<channel>`` per channel; and, where known, ``id``, ``label``,
``patient``, ``split`` (train, val, test), ``fold``, ``body_part``, ``class``, ``volume`` (which one of a 4D
file). Paths are relative to the list. An image may be a folder with one DICOM series.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from VoCoCore.data.cases import SPLITS, Case, Index, Skipped, Source, shape_fault
from VoCoCore.data.images import is_image_name, strip_extension
from VoCoCore.data.sources_names import SINGLE
from VoCoCore.data.sources_walk import patient_of, series_below
from VoCoCore.errors import DataError, SettingsError, nearest
from VoCoCore.settings import BODY_PARTS

ROLES = ("id", "image", "label", "patient", "split", "fold", "body_part", "class", "volume")
_DELIMITERS = ",;\t"
_SPLIT_WORDS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_SPLIT_WORDS |= {name: name for name in SPLITS}

Row = Mapping[str, Any]


def read_csv(path: Path, columns: Mapping[str, str] | None = None) -> Index:
    """Cases of a table separated by commas, semicolons or tabs, in UTF-8 with or without a byte-order mark.

    ``columns`` says what columns are called here, for example ``{"image": "CT file"}``. Raises DataError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8", "save it as 'CSV UTF-8'") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", "check the path") from error
    text = text.lstrip("\r\n")
    head = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=head.count)
    try:
        # Strict: a quotation mark that is never closed would make one cell of all rows below it.
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        hint = "close each quotation mark, or save it as 'CSV UTF-8'"
        raise DataError(f"{path} is no table: {error}", hint) from error
    if not table:
        raise DataError(f"{path} is empty", "its first line names the columns, each other line is a case")
    header = _header(table[0], columns or {}, path)
    if wide := next((row for row in table[1:] if any(row[len(header) :])), None):
        raise DataError(
            f"{path}: the row {delimiter.join(wide):.80} has more cells than there are columns",
            "put a name that holds a comma into quotation marks",
        )
    return cases_of_rows(
        [dict(zip(header, row, strict=False)) if any(row) else {} for row in table[1:]], path
    )


def cases_of_rows(rows: Sequence[Row], path: Path, unit: str = "row") -> Index:
    """Cases of records that use the names of ROLES (``image`` may be a path, a list, or channel -> path).

    A record without image is skipped with its number, an empty row of a table without a word. Raises DataError, naming
    file and record, for a value that cannot be understood.
    """
    channels: dict[str, None] = {}
    pending: list[tuple[Row, dict[str, Any]]] = []
    skipped: list[Skipped] = []
    for number, row in enumerate(rows, start=2 if unit == "row" else 1):
        images = _images(row)
        if not images:
            if row or unit != "row":
                skipped.append(Skipped(str(path), f"{unit} {number} names no image"))
            continue
        channels.update(dict.fromkeys(images))
        pending.append((row, {**images, "": number}))
    cases = []
    for row, images in pending:
        where = f"{path}, {unit} {images.pop('')}"
        try:
            cases.append(_case(row, images, tuple(channels), path.parent))
        except _SeveralSeries as reason:
            skipped.append(Skipped(str(path), f"{where}: {reason}"))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{where}: {shape_fault(error)}", "correct the list") from error
    named = tuple(_with_patients(cases, path.parent))
    return Index(named, tuple(channels) or (SINGLE,), None, tuple(skipped))


def _with_patients(cases: Sequence[Case], root: Path) -> Iterator[Case]:
    """The cases; those whose patient neither the list nor a DICOM header tells have the one that a path names."""
    # The folder that holds list and images is of all cases: sub-projects/ in its path is nobody.
    shared = _shared_folder([str(root), *{os.path.dirname(case.images[0].path) for case in cases}])
    for case in cases:
        below = case.images[0].path.removeprefix(shared).replace(os.sep, "/")
        yield case if case.patient else replace(case, patient=patient_of(below, case.id))


def _shared_folder(folders: Iterable[str]) -> str:
    try:
        return os.path.commonpath(list(folders))
    except ValueError:  # several drives
        return ""


class _SeveralSeries(Exception):
    """A folder given as an image holds no or more than one DICOM series."""


def _header(names: Sequence[str], columns: Mapping[str, str], path: Path) -> list[str]:
    """Rename the columns of a table to their roles."""
    roles = {}
    present = {name.strip().lower() for name in names}
    for role, name in columns.items():
        if role not in ROLES and not role.startswith("image_"):
            raise SettingsError(
                f"there is no column role '{role}'.{nearest(role, ROLES)}", f"roles: {', '.join(ROLES)}"
            )
        if name.strip().lower() not in present:
            raise DataError(
                f"{path} has no column '{name}'.{nearest(name, names)}", f"it has: {', '.join(names)}"
            )
        roles[name.strip().lower()] = role
    header = [roles.get(name.strip().lower(), name.strip().lower()) for name in names]
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise DataError(f"{path} has two columns '{twice}'", "keep one, or name channels image_A, image_B")
    if not any(name == SINGLE or name.startswith("image_") for name in header):
        raise DataError(
            f"{path} has no column 'image' (or image_<channel>).{nearest('image', header)}",
            f"it has: {', '.join(names)}; name yours with --column image=NAME",
        )
    return header


def _images(row: Row) -> dict[str, Any]:
    """Channel -> image of one record; channels without a value are left out."""
    image = row.get(SINGLE)
    if isinstance(image, Mapping) and "path" not in image:
        return {str(name): value for name, value in image.items() if value}
    if isinstance(image, list):
        many = len(image) > 1
        return {f"channel_{n}" if many else SINGLE: value for n, value in enumerate(image) if value}
    if image:
        return {SINGLE: image}
    found = {
        name.removeprefix("image_"): value for name, value in row.items() if str(name).startswith("image_")
    }
    return {name: value for name, value in found.items() if value}


def _case(row: Row, images: Mapping[str, Any], channels: Sequence[str], root: Path) -> Case:
    volume = _whole(row, "volume")
    found = [_image(images[name], root, volume) for name in channels if name in images]
    first = found[0]
    name = _text(row, "id") or strip_extension(os.path.basename(first.images[0].path))
    return Case(
        name,
        tuple(source for one in found for source in one.images),
        _image(row["label"], root, None).images[0] if row.get("label") else None,
        _text(row, "patient") or first.patient,
        _split(_text(row, "split")),
        _whole(row, "fold"),
        _body_part(_text(row, "body_part")) or first.body_part,
        _target(row.get("class", row.get("target"))),
        tuple(name for name in channels if name not in images),
    )


def _image(value: Any, root: Path, volume: int | None) -> Case:
    """One image as a case of its own, with what the headers of a DICOM series say of it."""
    if isinstance(value, Mapping):
        files = tuple(str(name) for name in value.get("files") or ())
        chosen = _whole(value, "volume")
        path = _absolute(str(value["path"]), root)
        return Case("", (Source(path, files, volume if chosen is None else chosen),))
    if not isinstance(value, str):
        raise ValueError(f"an image is given as {value!r:.60}, not as a path")
    path = _absolute(value.strip(), root)
    if is_image_name(path) or not os.path.isdir(path):
        return Case("", (Source(path, (), volume),))
    series, _ = series_below(path)
    if len(series) != 1:
        raise _SeveralSeries(f"the folder {value} holds {len(series)} DICOM series, not one")
    return series[0]


def _absolute(path: str, root: Path) -> str:
    if os.sep == "/" and "\\" in path and not os.path.exists(root / path):
        path = path.replace("\\", "/")  # a list made on Windows
    return os.path.normpath(os.path.join(root, os.path.expanduser(path)))


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    return "" if value is None else str(value).strip()


def _whole(row: Row, key: str) -> int | None:
    text = _text(row, key)
    if not text:
        return None
    if not text.isdecimal():
        raise ValueError(f"{key} '{text}' is not a whole number of 0 or more")
    return int(text)


def _split(text: str) -> str | None:
    if text and text.lower() not in _SPLIT_WORDS:
        raise ValueError(f"split '{text}' is none of {', '.join(SPLITS)}.{nearest(text.lower(), SPLITS)}")
    return _SPLIT_WORDS.get(text.lower())


def _body_part(text: str) -> str | None:
    name = text.lower().replace(" ", "_").replace("-", "_").replace("head_neck", "headneck")
    if name in ("", "auto"):
        return None
    if name not in BODY_PARTS:
        raise ValueError(f"body_part '{text}' is none of {', '.join(BODY_PARTS)}.{nearest(name, BODY_PARTS)}")
    return name


def _target(value: Any) -> int | str | None:
    if value is None or value == "":
        return None
    text = str(value).strip()
    return int(text) if text.removeprefix("-").isdecimal() else text
