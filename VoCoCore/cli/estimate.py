"""`--estimate`: what a training will need, for a person or with --json for a program, and nothing is started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from VoCoCore.errors import SettingsError

if TYPE_CHECKING:
    from VoCoCore.devices import Machine
    from VoCoCore.finetune_settings import FinetuneSettings
    from VoCoCore.settings import PretrainSettings
    from VoCoCore.training.needs import Needs


def add_estimate(parser: Any) -> None:
    """Add the options."""
    parser.add_argument("--estimate", action="store_true", help="say what the job will need, and end")
    parser.add_argument("--json", action="store_true", help="the estimate as JSON")


def wants_estimate(asked: Any) -> bool:
    """Whether an estimate is asked for. Raises SettingsError for --json without one, or with a job to start."""
    if asked.json and not asked.estimate:
        raise SettingsError("--json is a form of the estimate", "add --estimate, or leave --json out")
    if asked.estimate and asked.detach:
        raise SettingsError("--estimate starts no job that could be detached", "leave one of both out")
    return bool(asked.estimate)


def estimate_pretraining(settings: PretrainSettings, asked: Any) -> int:
    """Say what a pre-training needs; of the data, where they are named, only channels and the number count.

    Raises DataError for weights to start from that the job would refuse.
    """
    from VoCoCore.data.sources import index_source
    from VoCoCore.devices import choose
    from VoCoCore.models.initialise import initialise
    from VoCoCore.pretext.build import encoder_factory
    from VoCoCore.settings import SCRATCH
    from VoCoCore.training.estimate import estimate
    from VoCoCore.training.memory import advice, room_mb
    from VoCoCore.training.pretrain_warnings import warnings_of

    machine, channels, cases = choose(settings.run), 1, None
    if settings.data.source:
        index = index_source(settings.data.source, body_part=settings.data.body_part)
        channels, cases = len(index.channels), len(index.cases[: settings.data.limit])
    room = room_mb(machine)  # before the trial itself takes some
    if settings.init != SCRATCH and not asked.resume:  # a job that is resumed no longer looks at them
        initialise(encoder_factory(settings, channels)(), settings.init)
    needs = estimate(settings, machine, channels, cases)
    hint = advice(settings, machine, channels, room) if needs.memory_mb > room else ""
    warnings = [{"message": message, "hint": hint} for message, hint in warnings_of(settings)]
    return _say(needs, machine, room, asked, hint, warnings=warnings)


def estimate_finetuning(settings: FinetuneSettings, asked: Any) -> int:
    """Say what a fine-tuning needs, and what it would choose by its cases, with the reasons."""
    from VoCoCore.devices import choose
    from VoCoCore.training.finetune_needs import LESS_MEMORY
    from VoCoCore.training.finetune_plan import estimate_finetune
    from VoCoCore.training.memory import room_mb

    machine, reasons = choose(settings.run), list[str]()
    room = room_mb(machine)
    needs = estimate_finetune(settings, machine, reasons.append)
    return _say(needs, machine, room, asked, f"in a new run folder, {LESS_MEMORY}", reasons)


def _say(
    needs: Needs,
    machine: Machine,
    room: float,
    asked: Any,
    hint: str,
    reasons: Sequence[str] = (),
    warnings: Sequence[dict[str, str]] = (),
) -> int:
    """Print the estimate, what there is too little of, ``reasons`` for what was chosen, and other ``warnings``."""
    from VoCoCore.training.needs import lack_of_disk, lack_of_memory

    lacking = []
    if text := lack_of_memory(needs, room):
        lacking.append({"message": text, "hint": hint})
    if text := lack_of_disk(needs, Path(asked.run).absolute()):
        lacking.append({"message": text, "hint": "free some space, or choose folders on a larger disk"})
    if asked.json:
        facts = {"device": machine.device.type, "room_mb": round(room, 1), "lacking": lacking}
        said = {"warnings": list(warnings), "plan": list(reasons)}
        print(json.dumps({**needs.figures(), **facts, **said}, indent=1))
        return 0
    print("\n".join([*reasons, needs.words()]))
    for each in [*lacking, *warnings]:
        print(f"warning: {each['message']}  ({each['hint']})")
    return 0
