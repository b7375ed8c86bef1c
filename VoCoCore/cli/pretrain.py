"""`voco pretrain`: settings from the command line and files, then one job in a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from VoCoCore.cli.job import check_run, detach, kept_settings, run_parser, train
from VoCoCore.cli.main import Parser
from VoCoCore.cli.options import add_settings, given_settings, read_config
from VoCoCore.presets import resolve_pretrain
from VoCoCore.settings import PretrainSettings


def parser() -> Parser:
    """The command's options: its own, then every setting."""
    made = run_parser("pretrain", "Pre-train an encoder on volumes without labels.")
    made.add_argument("--estimate", action="store_true", help="say what the job will need, and end")
    add_settings(made, PretrainSettings)
    return made


def run(words: Sequence[str]) -> int:
    """Carry out the command; the exit code is 0, or 5 when the job was stopped before its end."""
    asked = parser().parse_args(list(words))
    check_run(asked)
    settings = _settings(asked)
    if asked.estimate:
        return _print_estimate(settings)
    if asked.detach:
        return detach("pretrain", asked.run, words)
    from VoCoCore.evaluation.report import write_report
    from VoCoCore.training.pretrain import pretrain

    train("pretrain", pretrain, settings, asked.run, asked.resume, write_report)
    return 0


def _settings(asked: Any) -> PretrainSettings:
    kept = kept_settings("pretrain", asked.run) if asked.resume else {}
    return resolve_pretrain({**kept, **read_config(asked.config)}, given_settings(asked, PretrainSettings))


def _print_estimate(settings: PretrainSettings) -> int:
    from VoCoCore.devices import choose
    from VoCoCore.training.estimate import estimate

    print(estimate(settings, choose(settings.run)).words())
    return 0
