"""`voco pretrain`: settings from the command line and files, then one job in a run folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from VoCoCore.cli.main import Parser
from VoCoCore.cli.options import add_settings, given_settings, read_config
from VoCoCore.errors import SettingsError, StopRequested
from VoCoCore.fields import flatten
from VoCoCore.presets import resolve_pretrain
from VoCoCore.runs import known
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.files import read_json
from VoCoCore.settings import PretrainSettings


def parser() -> Parser:
    """The command's options: its own, then every setting."""
    made = Parser(prog="voco pretrain", description="Pre-train an encoder on volumes without labels.")
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
        "--config", metavar="FILE", help="settings in YAML or JSON; the command line goes before it"
    )
    made.add_argument("--estimate", action="store_true", help="say what the job will need, and end")
    add_settings(made, PretrainSettings)
    return made


def run(words: Sequence[str]) -> int:
    """Carry out the command; the exit code is 0, or 5 when the job was stopped before its end."""
    asked = parser().parse_args(list(words))
    if not asked.run.strip():
        raise SettingsError("--run names no folder", "for example --run runs/first")
    settings = _settings(asked)
    if asked.estimate:
        return _print_estimate(settings)
    if asked.detach:
        return _detach(asked.run, [word for word in words if word != "--detach"])
    return _train(settings, asked)


def _settings(asked: Any) -> PretrainSettings:
    given = given_settings(asked, PretrainSettings)
    if not asked.resume:
        return resolve_pretrain(read_config(asked.config), given)
    run = RunDirectory.open(asked.run)
    places = read_json(run.private / "places.json") or {}
    kept = {**dict(flatten(run.read_settings())), **{name: value for name, value in places.items() if value}}
    return resolve_pretrain({**kept, **read_config(asked.config)}, given)


def _train(settings: PretrainSettings, asked: Any) -> int:
    from VoCoCore.cli.console import Listener, PlainLines, listener
    from VoCoCore.cli.interrupts import interrupts
    from VoCoCore.devices import this_rank
    from VoCoCore.evaluation.report import write_report
    from VoCoCore.runs.environment import environment
    from VoCoCore.training.pretrain import pretrain

    if this_rank() > 0:
        with interrupts() as should_stop:
            result = pretrain(settings, asked.run, resume=asked.resume, should_stop=should_stop)
        return 0 if result.finished else StopRequested.exit_code
    known.remember(asked.run)
    log = RunDirectory(asked.run).log
    # What a detached job prints goes to log.txt, so it would be there twice.
    ears: list[Listener] = [PlainLines(log, every=60.0)]
    if not os.environ.get("VOCO_DETACHED"):
        ears.append(listener())
    with interrupts() as should_stop:
        result = pretrain(
            settings,
            asked.run,
            environment=environment(),
            resume=asked.resume,
            listeners=ears,
            should_stop=should_stop,
            after=lambda done: write_report(done.path),
        )
    print(f"report: {result.run / 'report.html'}")
    if not result.finished:
        raise StopRequested(
            f"at step {result.steps}, with a checkpoint", f"voco pretrain --run {asked.run} --resume goes on"
        )
    print(f"weights: {result.weights}")
    return 0


def _print_estimate(settings: PretrainSettings) -> int:
    from VoCoCore.devices import choose
    from VoCoCore.training.estimate import estimate

    print(estimate(settings, choose(settings.run)).words())
    return 0


def _detach(folder: str, words: list[str]) -> int:
    from VoCoCore.runs.launch import launch

    launch(Path(folder), ["pretrain", *words])
    print(f"running in the background: voco jobs follow {folder}   (stop it with: voco jobs stop {folder})")
    return 0
