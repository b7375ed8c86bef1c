"""`voco weights convert`: published weights, or those of a run, as a safetensors file of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from VoCoCore.cli.weights.words import add_encoder, parser_of, show, wanted_encoder


def run(words: Sequence[str]) -> int:
    """Carry out the command."""
    parser = parser_of("convert")
    parser.add_argument("file", help="file of weights, run folder, or checkpoint of one")
    parser.add_argument("-o", "--output", required=True, metavar="OUT.safetensors", help="file to write")
    parser.add_argument("--allow-partial", action="store_true", help="accept less than 90 %% of the encoder")
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")
    add_encoder(parser)
    asked = parser.parse_args(list(words))
    wanted = wanted_encoder(asked)
    from VoCoCore.models.convert import convert_weights

    coverage = convert_weights(asked.file, asked.output, wanted, asked.allow_partial, asked.overwrite)
    show(coverage)
    print(f"weights: {Path(asked.output)}")
    return 0
