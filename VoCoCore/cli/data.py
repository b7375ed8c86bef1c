"""`voco data`: which cases there are, what is wrong with them, prepare them, look at what was prepared."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from VoCoCore.cli.main import Parser, choose_action
from VoCoCore.cli.options import add_settings, given_settings, read_config
from VoCoCore.errors import DataError, SettingsError, counted
from VoCoCore.presets import resolve_pretrain
from VoCoCore.settings import BODY_PARTS, PretrainSettings

ACTIONS = {
    "index": "write a list of the cases in a folder, dataset.json, CSV, JSON list or DICOM folder",
    "check": "open every case and say what is wrong",
    "prepare": "prepare the cases of a pre-training job without starting it",
    "show": "say what a store holds, and draw a contact sheet",
}


def run(words: Sequence[str]) -> int:
    """Carry out the command."""
    action = choose_action("voco data", ACTIONS, words)
    if not action:
        return 0
    return {"index": _index, "check": _check, "prepare": _prepare, "show": _show}[action](list(words[1:]))


def _source_parser(action: str) -> Parser:
    parser = Parser(prog=f"voco data {action}", description=ACTIONS[action])
    parser.add_argument("source", help="folder, dataset.json, CSV, JSON list, DICOM folder or index.json")
    parser.add_argument(
        "--channels",
        metavar="A,B",
        help="file name endings of the channels of one case, such as _t1,_t1ce,_t2,_flair",
    )
    parser.add_argument("--labels", metavar="PATTERN", help="file names of segmentations, such as *_seg")
    parser.add_argument(
        "--volumes", metavar="channels|N", help="what 4D files are: channels, or the volume to take"
    )
    parser.add_argument(
        "--patient", metavar="REGEX", help="its first group, found in a path, names the patient"
    )
    parser.add_argument(
        "--column", action="append", default=[], metavar="ROLE=NAME", help="column of a CSV, repeatable"
    )
    parser.add_argument(
        "--body-part", choices=BODY_PARTS[1:], help="body part of cases whose list does not say it"
    )
    return parser


def _read_index(asked: Any) -> Any:
    from VoCoCore.data.sources import index_source

    with Progress("looking") as progress:
        return index_source(
            asked.source,
            channels=tuple(asked.channels.split(",")) if asked.channels else None,
            labels=asked.labels,
            volumes=asked.volumes,
            patient=asked.patient,
            columns=dict(_pair(word) for word in asked.column) or None,
            body_part=asked.body_part,
            progress=progress,
        )


def _pair(word: str) -> tuple[str, str]:
    role, equals, name = word.partition("=")
    if not equals or not name:
        raise SettingsError(f"--column needs ROLE=NAME, not '{word}'", "for example --column image=path")
    return role, name


def _index(words: list[str]) -> int:
    parser = _source_parser("index")
    parser.add_argument("-o", "--output", required=True, metavar="index.json", help="the list to write")
    parser.add_argument("--val", type=float, default=0.0, help="share of patients for validation")
    parser.add_argument("--test", type=float, default=0.0, help="share of patients for the test")
    parser.add_argument("--folds", type=int, default=0, help="number of cross-validation folds")
    parser.add_argument("--seed", type=int, default=0, help="seed of the division by patient")
    asked = parser.parse_args(words)
    from VoCoCore.data.cases import save_index
    from VoCoCore.data.splits import assign_splits
    from VoCoCore.data.tables import summarise
    from VoCoCore.data.twins import with_twins_joined

    index = _read_index(asked)
    if asked.val or asked.test or asked.folds:
        index = with_twins_joined(index)
        index = assign_splits(index, val=asked.val, test=asked.test, folds=asked.folds, seed=asked.seed)
    save_index(index, asked.output)
    _show_rich(summarise(index))
    print(f"{counted(len(index.cases), 'case')} written to {asked.output}")
    return 0


def _check(words: list[str]) -> int:
    parser = _source_parser("check")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--counts", default="4,4,1", help="base crops that each volume must be large enough for"
    )
    parser.add_argument("--workers", help="processes that open cases")
    asked = parser.parse_args(words)
    from VoCoCore.data.check import check_index

    given = PretrainSettings().with_values({"crops.counts": asked.counts, "data.workers": asked.workers})
    with Progress("checking", quiet=asked.json) as progress:
        report = check_index(
            _read_index(asked), counts=given.crops.counts, workers=given.data.workers, progress=progress
        )
    if asked.json:
        print(report.to_json())
    else:
        _show_rich(report.table())
        print(f"{counted(report.checked, 'case')} checked")
    bad = len(report.bad_cases)
    if bad:
        first = next(row.message for row in report.rows if row.severity == "error")
        raise DataError(
            f"{bad} of {counted(report.checked, 'case')} cannot be used; the first: {first}",
            "mend them, or let a job go on without them by its --skip-bad",
        )
    return 0


def _prepare(words: list[str]) -> int:
    parser = Parser(prog="voco data prepare", description=ACTIONS["prepare"])
    parser.add_argument("source", help="folder, dataset.json, CSV, JSON list, DICOM folder or index.json")
    parser.add_argument("--config", metavar="FILE", help="settings in YAML or JSON")
    parser.add_argument("--sheet", metavar="FILE.png", help="also draw a contact sheet of the first cases")
    ours = ("data.store", "data.body_part", "data.skip_bad", "data.workers")
    add_settings(parser, PretrainSettings, only=("recipe", "preset", *ours, "prepare.", "crops."))
    asked = parser.parse_args(words)
    _is_picture(asked.sheet, "--sheet")
    from VoCoCore.cli.interrupts import interrupts
    from VoCoCore.data.prepare import prepare_index
    from VoCoCore.data.sources import index_source
    from VoCoCore.data.store import Store
    from VoCoCore.runs.space import default_store

    settings = resolve_pretrain(read_config(asked.config), given_settings(asked, PretrainSettings))
    store = Store(settings.data.store or default_store())
    index = index_source(asked.source, body_part=settings.data.body_part)
    with interrupts("the volume in work") as should_stop, Progress("preparing") as progress:
        prepared = prepare_index(
            index,
            settings,
            store,
            workers=settings.data.workers,
            progress=progress,
            should_stop=should_stop,
            skip_bad=settings.data.skip_bad,
        )
    for case, reason in prepared.skipped:
        print(f"left out {case}: {reason}")
    print(f"{counted(len(prepared.keys), 'case', 'is', 'are')} prepared in {store.root}")
    if asked.sheet:
        _draw_sheet(store, list(dict.fromkeys(prepared.keys)), asked.sheet)
    return 0


def _show(words: list[str]) -> int:
    parser = Parser(prog="voco data show", description=ACTIONS["show"])
    parser.add_argument("store", nargs="?", help="folder of prepared volumes; default: the user's cache")
    parser.add_argument("-o", "--output", metavar="FILE.png", help="also draw a contact sheet")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked = parser.parse_args(words)
    _is_picture(asked.output, "-o")
    from VoCoCore.data.contact import describe
    from VoCoCore.data.store import Store
    from VoCoCore.runs.space import default_store

    store = Store(asked.store or default_store())
    store.check()
    if asked.json:
        print(json.dumps(list(map(store.header, store.keys())), indent=1))
    else:
        _show_rich(describe(store))
    if asked.output:
        _draw_sheet(store, store.keys(), asked.output)
    return 0


def _is_picture(path: str | None, option: str) -> None:
    if path is not None and not path.lower().endswith(".png"):
        raise SettingsError(
            f"{option} '{path}' is no picture that can be written", "name a file that ends in .png"
        )


def _draw_sheet(store: Any, keys: list[str], path: str) -> None:
    from VoCoCore.data.contact import contact_sheet

    for page in contact_sheet(store, keys, path):
        print(f"contact sheet: {page}")


def _show_rich(renderable: Any) -> None:
    from rich.console import Console

    # Where nobody's terminal sets a width, a table must not be folded to 80 columns.
    Console(width=None if sys.stdout.isatty() else 160).print(renderable, highlight=False)


class Progress:
    """A bar on a terminal, a line every ten seconds elsewhere; to standard error, so that output stays clean."""

    def __init__(self, name: str, quiet: bool = False) -> None:
        from VoCoCore.runs.lines import PlainLines

        self.name, self.quiet, self.live = name, quiet, sys.stderr.isatty()
        self.lines = PlainLines(lambda line: print(line, file=sys.stderr, flush=True))

    def __enter__(self) -> Callable[[int, int, str], None]:
        return self._tell

    def __exit__(self, *_: object) -> None:
        if self.live and not self.quiet:
            print(file=sys.stderr)

    def _tell(self, done: int, total: int, text: str) -> None:
        if self.quiet:
            return
        if self.live:
            print(f"\r\x1b[K{self.name} {done}/{total}  {text}"[:120], end="", file=sys.stderr, flush=True)
        else:
            self.lines({"type": "stage", "name": self.name, "done": done, "total": total, "text": text})
