"""`voco jobs space`: what stores and exports take up, and deleting what nobody needs."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from VoCoCore.cli.jobs.words import check_folder, parser_of, table
from VoCoCore.errors import SettingsError, StopRequested, counted
from VoCoCore.runs import free, space
from VoCoCore.runs.narrate import duration, one_line, size


def space_(words: list[str]) -> int:
    """List, or delete after asking."""
    parser = parser_of("space")
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="look here as well, two levels deep")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--delete", action="append", default=[], metavar="PATH", help="a store or an export; repeatable"
    )
    parser.add_argument(
        "--unused",
        action="append",
        default=[],
        metavar="PATH",
        help="a store: delete its cases that no known run needs; repeatable",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    asked = parser.parse_args(words)
    if asked.delete or asked.unused:
        return _free(asked)
    for folder in asked.folders:
        check_folder(folder)
    places = space.find_places(asked.folders)
    if asked.json:
        print(json.dumps([place.to_dict() for place in places], indent=1))
    elif places:
        _show(places)
    else:
        print("no stores of prepared volumes and no exports")
    return 0


def _show(places: list[space.Place]) -> None:
    rows = [("KIND", "SIZE", "CASES", "NOT NEEDED", "LAST USED", "RUNS", "FOLDER")]
    for place in places:
        is_store = place.kind == space.STORE
        rows.append(
            (
                place.kind,
                size(place.size),
                str(place.cases) if is_store else "",
                size(place.unused_size) if is_store else "",
                f"{duration(time.time() - place.last_used)} ago",
                str(len(place.runs)) if is_store else "",
                one_line(place.path),
            )
        )
    print(table(rows, right=(1, 2, 3, 5)))
    for place in places:
        for run in place.runs:
            print(f"{place.path} is used by {run}{' (under way)' if run in place.busy else ''}")
        if place.unused:
            print(
                f"no known run needs {counted(place.unused, 'case')}: voco jobs space --unused {place.path}"
            )
        if place.kind == space.LEFTOVER:
            print(
                f"{place.path} is left of a deletion that was cut short: voco jobs space --delete {place.path}"
            )
    print("deleting a store loses no scans: a run that needs it prepares its cases again")


def _free(asked: Any) -> int:
    whole = list(dict.fromkeys(free.check(path) for path in asked.delete))
    parts = [free.check(path, kinds=(space.STORE,)) for path in asked.unused]
    if not asked.yes:
        used = space.uses()
        for path in whole:
            print(f"{path}: {size(space.tree_size(path))}, all of it")
        for path in parts:
            place = space.look(path, used)
            print(f"{path}: {size(place.unused_size)}, {place.unused} of {counted(place.cases, 'case')}")
        _ask()
    freed = 0
    for path in whole:
        freed += free.delete(path)
    for path in parts:
        cases, count = free.delete_unused(path)
        print(f"{counted(cases, 'case')} deleted in {path}")
        freed += count
    print(f"{size(freed)} freed")
    return 0


def _ask() -> None:
    if not sys.stdin.isatty():
        raise SettingsError("nothing was deleted: there is nobody to ask", "add --yes")
    if input("delete this? [y/N] ").strip().lower() not in ("y", "yes"):
        raise StopRequested("nothing was deleted", "answer y to delete")
