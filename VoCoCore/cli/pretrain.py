"""`voco pretrain`: settings from the command line and files, then one job in a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from VoCoCore.cli.estimate import add_estimate, estimate_pretraining, wants_estimate
from VoCoCore.cli.job import check_run, detach, kept_settings, run_parser, train
from VoCoCore.cli.main import Parser
from VoCoCore.cli.options import add_settings, given_settings, read_config
from VoCoCore.presets import resolve_pretrain
from VoCoCore.settings import PretrainSettings


def parser() -> Parser:
    """The command's options: its own, then every setting."""
    made = run_parser("pretrain", "Pre-train an encoder on volumes without labels.")
    add_estimate(made)
    add_settings(made, PretrainSettings)
    return made


def run(words: Sequence[str]) -> int:
    """Carry out the command; the exit code is 0, or 5 when the job was stopped before its end."""
    asked = parser().parse_args(list(words))
    check_run(asked)
    estimating = wants_estimate(asked)
    settings = _settings(asked)
    if estimating:
        return estimate_pretraining(settings, asked)
    if asked.detach:
        return detach("pretrain", asked.run, words)
    from VoCoCore.evaluation.report import write_report
    from VoCoCore.training.pretrain import pretrain

    train("pretrain", pretrain, settings, asked.run, asked.resume, lambda run, _: write_report(run))
    return 0


def _settings(asked: Any) -> PretrainSettings:
    kept = kept_settings("pretrain", asked.run) if asked.resume else {}
    return resolve_pretrain({**kept, **read_config(asked.config)}, given_settings(asked, PretrainSettings))
