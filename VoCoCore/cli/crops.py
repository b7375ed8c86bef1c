"""`voco crops`: draw what the trainer would cut from a volume, with the position labels it would teach."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from VoCoCore.cli.main import Parser
from VoCoCore.cli.options import add_settings, given_settings, read_config
from VoCoCore.errors import DataError, SettingsError
from VoCoCore.presets import resolve_pretrain
from VoCoCore.settings import PretrainSettings


def run(words: Sequence[str]) -> int:
    """Carry out the command."""
    parser = Parser(
        prog="voco crops", description="Draw base crops, random crops and labels on a prepared volume."
    )
    parser.add_argument("volume", help="image file, or folder of one DICOM series")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.png|.html", help="picture to write")
    parser.add_argument(
        "--sample", type=int, default=0, help="number of the sample: other crops of the same volume"
    )
    parser.add_argument("--config", metavar="FILE", help="settings in YAML or JSON")
    add_settings(
        parser,
        PretrainSettings,
        only=("recipe", "preset", "data.body_part", "prepare.", "crops.", "run.seed"),
    )
    asked = parser.parse_args(list(words))
    if Path(asked.output).suffix.lower() not in (".png", ".html"):
        raise SettingsError(
            f"-o '{asked.output}' is no picture that can be written", "name a file that ends in .png or .html"
        )
    if not 0 <= asked.sample < 2**32:
        raise SettingsError(
            f"--sample must be from 0 to {2**32 - 1}, not {asked.sample}", "0 is the first sample"
        )
    settings = resolve_pretrain(read_config(asked.config), given_settings(asked, PretrainSettings))
    from VoCoCore.evaluation.preview import draw_preview

    try:
        preview = draw_preview(asked.volume, settings, asked.output, asked.sample)
    except DataError as error:
        if Path(asked.volume).name in error.message:
            raise
        raise DataError(f"{asked.volume}: {error.message}", error.hint) from None
    for line in preview.notes:
        print(line)
    print(f"picture: {preview.path}")
    return 0
