"""What the commands that train share: options of a run, resuming, the background, and what is printed at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from VoCoCore.cli.main import Parser
from VoCoCore.errors import SettingsError, StopRequested
from VoCoCore.fields import flatten
from VoCoCore.runs import known
from VoCoCore.runs.describe import command_of
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.files import read_json
from VoCoCore.runs.narrate import shell_word

if TYPE_CHECKING:
    from VoCoCore.cli.console import Listener


def run_parser(name: str, description: str) -> Parser:
    """A parser with the options that every job has beside its settings."""
    made = Parser(prog=f"voco {name}", description=description)
    made.add_argument(
        "--run",
        "--run-folder",
        required=True,
        metavar="FOLDER",
        help="folder of this run: made, or gone on with",
    )
    made.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the run")
    made.add_argument(
        "--detach", action="store_true", help="run in the background; 'voco jobs follow' shows it"
    )
    made.add_argument(
        "--config", metavar="FILE", help="settings in YAML or JSON; the command line overrides it"
    )
    return made


def check_run(asked: Any) -> None:
    """Raise SettingsError where --run is empty."""
    if not asked.run.strip():
        raise SettingsError("--run names no folder", "for example --run runs/first")


def kept_settings(name: str, folder: str | Path) -> dict[str, Any]:
    """The settings of a run by dotted name, with the places of this machine where they are known.

    Raises SettingsError where there is no run, or one that another command than ``name`` made.
    """
    run = RunDirectory.open(folder)
    if command_of(run) != name:
        raise SettingsError(
            f"{run.path} is a run of 'voco {command_of(run)}', not of 'voco {name}'",
            f"voco jobs resume {shell_word(run.path)} goes on with it",
        )
    found = read_json(run.private / "places.json")
    places = found if isinstance(found, dict) else {}
    return {**dict(flatten(run.read_settings())), **{name: value for name, value in places.items() if value}}


def train(
    name: str,
    job: Callable[..., Any],
    settings: Any,
    folder: str,
    resume: bool,
    close: Callable[[Path, Callable[[], bool]], object],
) -> Any:
    """Carry out ``job`` in the terminal and print where its report and weights lie; returns its result.

    ``close`` writes the report of a folder; its second argument says whether somebody has asked to stop.

    Raises StopRequested when it was stopped before its end.
    """
    from VoCoCore.cli.interrupts import interrupts
    from VoCoCore.devices import this_rank
    from VoCoCore.runs.environment import environment

    if this_rank() > 0:
        with interrupts() as should_stop:
            return _or_stopped(name, job(settings, folder, resume=resume, should_stop=should_stop), folder)
    known.remember(folder)
    with interrupts() as should_stop:
        result = job(
            settings,
            folder,
            environment=environment(),
            resume=resume,
            listeners=ears(folder),
            should_stop=should_stop,
            after=lambda done: close(done.path, should_stop),
        )
    print(f"report: {result.run / 'report.html'}")
    _or_stopped(name, result, folder)
    print(f"weights: {result.weights}")
    return result


def ears(folder: str | Path) -> list[Listener]:
    """Who hears the events of the run ``folder`` at once: its log.txt, and the terminal."""
    from VoCoCore.cli.console import listener
    from VoCoCore.runs.lines import PlainLines

    # What a detached job prints goes to log.txt, so it would be there twice.
    log = PlainLines(RunDirectory(folder).log, every=60.0)
    return [log] if os.environ.get("VOCO_DETACHED") else [log, listener()]


def _or_stopped(name: str, result: Any, folder: str) -> Any:
    if not result.finished:
        raise StopRequested(
            f"at step {result.steps}, with a checkpoint", f"voco {name} --run {folder} --resume goes on"
        )
    return result


def detach(name: str, folder: str, words: Sequence[str]) -> int:
    """Start the same command in the background."""
    from VoCoCore.runs.launch import launch

    launch(Path(folder), [name, *(word for word in words if word != "--detach")])
    run = shell_word(folder)
    print(f"running in the background: voco jobs follow {run}   (stop it with: voco jobs stop {run})")
    return 0
