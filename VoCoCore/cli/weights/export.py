"""`voco weights export`: weights or a fine-tuned network for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from VoCoCore.cli.weights.words import parser_of
from VoCoCore.models.export_formats import FORMATS, INTENSITIES


def run(words: Sequence[str]) -> int:
    """Carry out the command."""
    parser = parser_of("export")
    parser.add_argument(
        "source", metavar="RUN|FILE", help="run folder, checkpoint of one, or file of weights"
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="file (bundle: folder) to write")
    formats = "; ".join(f"{name}: {form.words}" for name, form in FORMATS.items())
    parser.add_argument("--format", required=True, choices=tuple(FORMATS), help=formats)
    parser.add_argument(
        "--encoder-only", action="store_true", help="of a whole network, leave the decoder out"
    )
    parser.add_argument(
        "--intensity",
        choices=INTENSITIES,
        default="",
        help="rule of a bundle, where the network has none of its own",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")
    asked = parser.parse_args(list(words))
    from VoCoCore.models.export import Wish, export_weights

    done = export_weights(
        Wish(
            source=Path(asked.source),
            output=Path(asked.output),
            form=asked.format,
            encoder_only=asked.encoder_only,
            intensity=asked.intensity,
            overwrite=asked.overwrite,
        )
    )
    print(done.said)
    print(f"{asked.format}: {done.path}")
    print(f"page: {done.page}  (fill in its licence before you pass it on)")
    return 0
