"""The actions of `voco weights` by name; each lies in a module that is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from VoCoCore.cli.main import choose_action

ACTIONS = {
    "inspect": "format, network, and how much of it a file fills",
    "convert": "published weights, or weights of a run, as a file of ours",
    "export": "weights or a fine-tuned network for other programs",
}


def run(words: Sequence[str]) -> int:
    """Carry out the command."""
    action = choose_action("voco weights", ACTIONS, words)
    if not action:
        return 0
    carry_out = importlib.import_module(f"VoCoCore.cli.weights.{action}").run
    return carry_out(list(words[1:])) or 0
