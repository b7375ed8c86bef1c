"""`voco weights`: say what a file of weights holds."""

from __future__ import annotations

import json
from collections.abc import Sequence

from VoCoCore.cli.main import Parser, choose_action

ACTIONS = {"inspect": "format, encoder, tensors by part, metadata"}


def run(words: Sequence[str]) -> int:
    """Carry out the command."""
    if not choose_action("voco weights", ACTIONS, words):
        return 0
    parser = Parser(prog="voco weights inspect", description="Say what a file of weights holds.")
    parser.add_argument("file", help="safetensors or torch file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(list(words[1:]))
    from VoCoCore.models.weights import inspect_weights

    facts = inspect_weights(asked.file)
    if asked.json:
        print(json.dumps(facts, indent=1))
        return 0
    tensors = facts.pop("tensors", {})
    for name, value in facts.items():
        print(f"{name:<12} {json.dumps(value) if isinstance(value, dict | list) else value}")
    print(f"{'tensors':<12} {len(tensors)}")
    return 0
