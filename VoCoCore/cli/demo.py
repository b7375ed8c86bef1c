"""`voco demo`: the main job on synthetic volumes, in minutes on a laptop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from VoCoCore.cli.main import Parser
from VoCoCore.cli.options import add_settings, given_settings
from VoCoCore.errors import StopRequested, counted
from VoCoCore.runs.narrate import duration
from VoCoCore.settings import PretrainSettings


def run(words: Sequence[str]) -> int:
    """Carry out the command."""
    parser = Parser(
        prog="voco demo",
        description="Make synthetic volumes, pre-train a tiny network on them, and show what came out.",
    )
    parser.add_argument(
        "--folder", default="voco-demo", help="new folder for everything that is made (voco-demo)"
    )
    shown = ("recipe", "model.", "crops.", "pretext.", "optim.", "run.")
    add_settings(parser, PretrainSettings, only=shown, own=True)
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
    lines = [
        f"  position accuracy {figures['position_accuracy']:.1%}, 95 % interval {figures['accuracy_low']:.1%} to "
        f"{figures['accuracy_high']:.1%} over {counted(int(figures['volumes']), 'volume')}",
        f"  the best constant answer scores {figures['chance']:.1%}, these answers with labels shuffled "
        f"{figures['shuffled_accuracy']:.1%}",
    ]
    learned = figures["accuracy_low"] > figures["chance"]
    word = "knows" if learned else "does NOT know"
    lines.append(f"  so the network {word} better than chance where a crop lies")
    return "\n".join(lines)
