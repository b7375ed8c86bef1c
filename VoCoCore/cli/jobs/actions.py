"""The actions of `voco jobs` by name; each lies in a module that is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from VoCoCore.cli.main import choose_action

ACTIONS = {
    "list": "runs known on this machine, or those in a folder",
    "show": "state, progress and latest figures of a run, and what to do",
    "follow": "print a run's events as they come, until it ends",
    "stop": "ask a run to stop after its step, with a checkpoint",
    "kill": "end a run at once; its last checkpoint stays",
    "resume": "go on from a run's last checkpoint, in the background",
    "export": "write a folder with which a SLURM cluster does the run",
    "forget": "take a run off the list; its folder stays",
    "space": "what prepared volumes and exports take up, and free it",
}
_MODULES = {
    "look": ("list", "show"),
    "control": ("follow", "stop", "kill", "resume", "forget"),
    "export": ("export",),
    "space": ("space",),
}


def run(words: Sequence[str]) -> int:
    """Carry out the command."""
    action = choose_action("voco jobs", ACTIONS, words)
    if not action:
        return 0
    module = next(name for name, actions in _MODULES.items() if action in actions)
    carry_out = getattr(importlib.import_module(f"VoCoCore.cli.jobs.{module}"), f"{action}_")
    return carry_out(list(words[1:])) or 0
