"""`voco jobs`: what runs there are and how they stand; follow one, stop one."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from VoCoCore.cli.main import Parser, choose_action
from VoCoCore.errors import SettingsError
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.narrate import duration, number
from VoCoCore.runs.status import ACTIVE

ACTIONS = {
    "list": "runs known on this machine, or those in a folder",
    "show": "state, progress and latest figures of a run",
    "follow": "print a run's events as they come, until it ends",
    "stop": "ask a run to stop after its step, with a checkpoint",
}


def run(words: Sequence[str]) -> int:
    """Carry out the command."""
    action = choose_action("voco jobs", ACTIONS, words)
    if not action:
        return 0
    return {"list": _list, "show": _show, "follow": _follow, "stop": _stop}[action](list(words[1:]))


def _list(words: list[str]) -> int:
    parser = Parser(prog="voco jobs list", description=ACTIONS["list"])
    parser.add_argument(
        "folder", nargs="?", help="a folder to look through; default: the runs started on this machine"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(words)
    from VoCoCore.runs import known

    rows = known.list_runs(asked.folder)
    if asked.json:
        print(json.dumps([{**asdict(row), "path": str(row.path)} for row in rows], indent=1))
        return 0
    if not rows:
        print("no runs" + (f" in {asked.folder}" if asked.folder else " known on this machine"))
    for row in rows:
        print(f"{row.state:<10} {row.step:>8}/{row.total:<8} {row.path}")
    return 0


def _one(words: list[str], action: str) -> Path:
    parser = Parser(prog=f"voco jobs {action}", description=ACTIONS[action])
    parser.add_argument("run", help="folder of the run")
    return RunDirectory.open(parser.parse_args(words).run).path


def _show(words: list[str]) -> int:
    from VoCoCore.runs.follow import Follower

    path = _one(words, "show")
    follower = Follower(path)
    follower.poll()
    now = follower.summary()
    print(f"{path}\n  {now.state}, step {now.step} of {now.total}, {duration(now.eta_s)} left")
    for split, values in (("training", now.train), ("held-out", now.val)):
        if values:
            print(
                f"  {split}: "
                + ", ".join(f"{name} {number(value)}" for name, value in sorted(values.items()))
            )
    return 0


def _follow(words: list[str]) -> int:
    from VoCoCore.cli.console import PlainLines
    from VoCoCore.runs.follow import Follower

    follower = Follower(_one(words, "follow"))
    speak = PlainLines(lambda line: print(line, flush=True), every=2.0)
    while True:
        for event in follower.poll():
            speak(event)
        if follower.summary().state not in ACTIVE:
            print(f"the run is {follower.summary().state}")
            return 0
        time.sleep(0.5)


def _stop(words: list[str]) -> int:
    run = RunDirectory(_one(words, "stop"))
    if run.state() not in ACTIVE:
        raise SettingsError(f"{run.path} is not under way: it is {run.state()}", "voco jobs list shows all")
    run.request_stop()
    print("asked to stop after the step it is in; 'voco jobs show' says when it has")
    return 0
