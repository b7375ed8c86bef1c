"""`voco weights inspect`: what a file of weights holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from VoCoCore.cli.weights.words import add_encoder, parser_of, show, wanted_encoder
from VoCoCore.errors import counted
from VoCoCore.runs.narrate import one_line

if TYPE_CHECKING:
    from VoCoCore.models.inspection import Inspection

_LONGEST = 100  # characters of a fact


def run(words: Sequence[str]) -> int:
    """Carry out the command."""
    parser = parser_of("inspect")
    parser.add_argument("file", help="file of weights, run folder, or checkpoint of one")
    parser.add_argument("--json", action="store_true", help="print JSON, every tensor in it")
    add_encoder(parser)
    asked = parser.parse_args(list(words))
    wanted = wanted_encoder(asked)
    from VoCoCore.models.inspection import inspect_weights
    from VoCoCore.runs.weights import weights_file

    found = inspect_weights(weights_file(asked.file), wanted)
    if asked.json:
        print(json.dumps(found.to_dict(), indent=1))
        return 0
    _print(found)
    return 0


def _print(found: Inspection) -> None:
    parts = found.parts()
    tensors, weights = (sum(part[what] for part in parts.values()) for what in ("tensors", "weights"))
    kind = {"safetensors": "safetensors", "torch": "PyTorch"}[found.file.format]
    _line("file", f"{found.file.path.name}, {kind}")
    for note in found.file.notes:
        _line("", note)
    _line("network", found.found.words)
    _line("weights", f"{weights:,} in {tensors} tensors ({', '.join(found.types)})")
    for name, value in sorted(found.file.metadata.items()):
        _line(name, value if len(value) <= _LONGEST else f"{value[:_LONGEST]}...")
    if found.coverage is None:
        _line("remark", found.remark or "this is no encoder of VoCoCore: --encoder compares it with one")
        for name, part in parts.items():
            _line("", f"{name}: {counted(part['tensors'], 'tensor')}, {part['weights']:,} weights")
        return
    show(found.coverage)
    for group, count in list(found.stray().items())[:8]:
        _line("not used", f"{group}: {counted(count, 'tensor')}")
    if found.remark:
        _line("remark", found.remark)


def _line(name: str, text: str) -> None:
    print(f"{one_line(name):<16} {one_line(text)}")
