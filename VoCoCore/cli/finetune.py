"""`voco finetune`: from weights and labelled cases to a segmentation or classification network, one fold or all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from VoCoCore.cli.estimate import add_estimate, estimate_finetuning, wants_estimate
from VoCoCore.cli.job import check_run, detach, ears, kept_settings, run_parser, train
from VoCoCore.cli.main import Parser
from VoCoCore.cli.options import add_settings, given_settings, read_config
from VoCoCore.errors import EnvironmentFault, SettingsError, StopRequested, counted
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.protocols import resolve_finetune
from VoCoCore.runs.directory import RunDirectory, is_run
from VoCoCore.runs.files import read_json
from VoCoCore.runs.narrate import shell_word


def parser() -> Parser:
    """The command's options: its own, then every setting."""
    made = run_parser("finetune", "Fine-tune a network on labelled cases.")
    add_estimate(made)
    add_settings(made, FinetuneSettings)
    return made


def run(words: Sequence[str]) -> int:
    """Carry out the command; the exit code is 0, or 5 when the job was stopped before its end."""
    asked = parser().parse_args(list(words))
    check_run(asked)
    if wants_estimate(asked):
        resumed = asked.run if asked.resume and is_run(Path(asked.run)) else None
        folds = None if resumed else _folds(asked)
        return estimate_finetuning(_settings(asked, resumed, {"data.folds": folds} if folds else None), asked)
    folds = _folds(asked)
    if folds is None:
        settings = _settings(asked, asked.run if asked.resume else None)
        if asked.detach:
            return detach("finetune", asked.run, words)
        _train(settings, asked.run, asked.resume)
        return 0
    if asked.detach:
        raise SettingsError(
            "--detach starts one job, and --data.fold all is several",
            "start each fold with --data.fold 0, 1, ... and a run folder of its own, named fold-0, fold-1, ...",
        )
    for number in range(folds):
        _one_fold(asked, number, folds)
    print(f"ensemble of {counted(folds, 'fold')}: voco predict --model {shell_word(asked.run)} ...")
    return 0


def _folds(asked: Any) -> int | None:
    """How many runs there will be with ``--data.fold all``; None for one run.

    Raises SettingsError where the list of cases has another number of folds than was asked for.
    """
    given = {**read_config(asked.config), **given_settings(asked, FinetuneSettings)}
    if asked.resume and not is_run(Path(asked.run)) and (Path(asked.run) / "fold-0").is_dir():
        first = read_json(Path(asked.run) / "fold-0" / "settings.json") or {}
        return int(first.get("data", {}).get("folds", 5))
    if str(given.get("data.fold", "")) != "all":
        return None
    settings = resolve_finetune(given)
    from VoCoCore.training.folds import number_of_folds

    return number_of_folds(settings, asked="data.folds" in given)


def _one_fold(asked: Any, number: int, folds: int) -> None:
    """Train one fold, unless it is finished; one that was begun goes on with --resume."""
    folder, first = Path(asked.run) / f"fold-{number}", Path(asked.run) / "fold-0"
    status = RunDirectory(folder).read_status()
    if asked.resume and status is not None and status.state == "finished":
        _close(folder)  # it may have been killed in its last look
        print(f"{folder} is finished")
        return
    resume = asked.resume and is_run(folder)
    print(f"fold {number}: {folder}")
    # What the first fold has chosen holds for all: networks of different plans could not predict together.
    source = folder if resume else first if number and is_run(first) else None
    # A run that is there keeps its number of folds.
    own = {} if source else {"data.folds": folds}
    settings = _settings(asked, source, {"data.fold": str(number), **own})
    _train(settings, str(folder), resume)


def _settings(asked: Any, source: str | Path | None, more: dict[str, Any] | None = None) -> FinetuneSettings:
    """What was asked for, over the settings of the run ``source``."""
    kept = kept_settings("finetune", source) if source else {}
    given = {**given_settings(asked, FinetuneSettings), **(more or {})}
    return resolve_finetune({**kept, **read_config(asked.config)}, given)


def _train(settings: FinetuneSettings, folder: str, resume: bool) -> None:
    from VoCoCore.training.finetune import finetune

    train("finetune", finetune, settings, folder, resume, _examined)


def _examined(folder: Path, asked: Callable[[], bool] = lambda: False) -> None:
    """The last look at held-out cases, which can be stopped as the job can, and the report."""
    from VoCoCore.cli.interrupts import interrupts
    from VoCoCore.evaluation.final import examine
    from VoCoCore.evaluation.finetune_report import write_finetune_report

    run, hearing = RunDirectory(folder), ears(folder)

    def tell(kind: str, **facts: Any) -> None:
        run.events.emit(kind, **facts)
        for ear in hearing if kind in ("warning", "metrics") else ():
            # A terminal that was closed costs no scores.
            with suppress(OSError, EnvironmentFault, ValueError):
                ear({"type": kind, **facts})

    with interrupts("the case it is in") as told:
        try:
            examine(folder, tell, lambda: asked() or told() or run.stop_requested())
        except StopRequested as stopped:
            run.log(f"stopped: {stopped.message}")
            raise
        finally:
            write_finetune_report(folder)


def _close(folder: Path) -> None:
    """Do what a finished run that was killed in its last look has left undone."""
    from VoCoCore.devices import this_rank
    from VoCoCore.evaluation.final import is_examined

    if this_rank() == 0 and not is_examined(folder):
        run = RunDirectory(folder)
        with run.lock():
            run.clear_stop()
            run.write_status("finished")  # of this process, for those who want to end it
            _examined(folder)
