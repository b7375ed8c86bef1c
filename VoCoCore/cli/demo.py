"""`voco demo`: the main job on synthetic volumes, in minutes on a laptop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from VoCoCore.cli.main import Parser
from VoCoCore.cli.options import add_settings, given_settings
from VoCoCore.errors import StopRequested, counted
from VoCoCore.fields import as_typed
from VoCoCore.presets import DEMO, resolve_pretrain
from VoCoCore.runs.narrate import duration
from VoCoCore.settings import PretrainSettings

# 'voco pretrain' on the cohort that is made takes all settings.
SHOWN = (
    *("recipe", "crops.counts", "model.encoder", "optim.steps", "optim.batch"),
    *("run.seed", "run.device", "run.threads"),
)


def run(words: Sequence[str]) -> int:
    """Carry out the command."""
    parser = Parser(
        prog="voco demo",
        description="Make synthetic volumes, pre-train a tiny network on them, and show what came out.",
    )
    parser.add_argument(
        "--folder", default="voco-demo", help="new folder for everything that is made (voco-demo)"
    )
    values = resolve_pretrain(DEMO).flat()
    add_settings(parser, PretrainSettings, SHOWN, {name: as_typed(values[name]) for name in SHOWN})
    asked = parser.parse_args(list(words))
    began = time.monotonic()
    from VoCoCore.cli.console import listener
    from VoCoCore.cli.interrupts import interrupts
    from VoCoCore.demo import demonstrate

    with interrupts() as should_stop:
        changes = given_settings(asked, PretrainSettings)
        made = demonstrate(Path(asked.folder).absolute(), changes, [listener()], should_stop)
    print(
        f"\n{duration(time.monotonic() - began)} in all. What was measured on volumes held out from training:"
    )
    print(_verdict(made.figures))
    print(f"crops and labels  {made.picture}\nreport            {made.report}")
    if not made.finished:
        raise StopRequested("before the end", "the report shows what there is")
    return 0


def _verdict(figures: dict[str, float]) -> str:
    if not figures:
        return "  nothing yet: it was stopped before the first look"
    from VoCoCore.evaluation.verdict import judge

    lines = [
        f"  position accuracy {figures['position_accuracy']:.1%}, 95 % interval {figures['accuracy_low']:.1%} to "
        f"{figures['accuracy_high']:.1%} over {counted(int(figures['volumes']), 'volume')}",
        f"  the best constant answer scores {figures['chance']:.1%}, these answers with labels shuffled "
        f"{figures['shuffled_accuracy']:.1%}",
        f"  {judge(figures, None, active=False).title}",
    ]
    return "\n".join(lines)
