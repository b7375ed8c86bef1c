"""`voco doctor`: what this machine can do, for a person or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from VoCoCore.cli.data import Progress
from VoCoCore.cli.main import Parser
from VoCoCore.errors import EnvironmentFault, counted
from VoCoCore.runs.narrate import duration
from VoCoCore.settings import ENCODER_LIMITS, PRESETS, RECIPES


def run(words: Sequence[str]) -> int:
    """Carry out the command."""
    parser = Parser(
        prog="voco doctor", description="Say what this machine can do and what each preset will need."
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--recipe", default="v1", choices=RECIPES, help="recipe that the presets are judged for"
    )
    parser.add_argument(
        "--encoder",
        choices=tuple(ENCODER_LIMITS),
        help="encoder likewise; default: unet for tiny, swin_unetr for the others",
    )
    asked = parser.parse_args(list(words))
    with Progress("estimating presets", quiet=asked.json) as progress:
        progress(0, len(PRESETS), "loading torch first")
        try:
            from VoCoCore.doctor import examine
        except ImportError as error:
            raise EnvironmentFault(
                f"the package {error.name} is missing or broken: {error}", "install VoCoCore again with pip"
            ) from None
        facts = examine(asked.recipe, asked.encoder, progress)
    print(json.dumps(facts, indent=1) if asked.json else _report(facts))
    return 0


def _report(facts: dict[str, Any]) -> str:
    lines = [
        f"VoCoCore {facts['versions']['vococore']} on {facts['system']}, Python {facts['versions']['python']}"
    ]
    packages = facts["versions"]["packages"]
    lines.append(
        "packages   " + ", ".join(f"{name} {version or 'missing'}" for name, version in packages.items())
    )
    for device in facts["devices"]:
        kind, rest = device["kind"], {k: v for k, v in device.items() if k != "kind"}
        lines.append(f"device     {kind}: " + ", ".join(f"{k} {v}" for k, v in rest.items()))
    lines.append(f"auto picks {facts['chosen']}")
    lines.append(
        f"memory     {facts['memory_gb']} GB, {facts['memory_free_gb']} GB free, {facts['cpu_cores']} cores"
    )
    lines.append(
        f"disk       {facts['store']['free_gb']} GB free for prepared volumes in {facts['store']['folder']}"
    )
    lines.append(f"presets    (recipe {facts['recipe']}; estimates)")
    for name, need in facts["presets"].items():
        whole = duration(need["seconds_per_step"] * need["steps"])
        fits = "fits" if need["fits"] else "does NOT fit"
        size = f"{need['parameters_m']:>7} M parameters, {need['memory_mb'] / 1024:>7.1f} GB"
        steps = f"{need['seconds_per_step']:>8} s a step, {counted(need['steps'], 'step')} in {whole}"
        lines.append(f"  {name:<6}{need['encoder']:<11}{size}: {fits:<12} {steps}")
    return "\n".join(lines)
