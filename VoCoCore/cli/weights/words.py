"""What the actions of `voco weights` share: options that say which encoder is meant, and the coverage table."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING

from VoCoCore.cli.main import Parser
from VoCoCore.cli.weights.actions import ACTIONS
from VoCoCore.errors import SettingsError
from VoCoCore.settings import ENCODER_LIMITS

if TYPE_CHECKING:
    from VoCoCore.models.coverage import Coverage


def parser_of(action: str) -> Parser:
    """A parser for ``voco weights ACTION``."""
    return Parser(prog=f"voco weights {action}", description=f"{ACTIONS[action]}.")


def add_encoder(parser: Parser) -> None:
    """Add the options that say which encoder is meant, where the file does not say it."""
    group = parser.add_argument_group("the encoder; default: what the file holds")
    group.add_argument("--encoder", choices=tuple(ENCODER_LIMITS), help="network")
    group.add_argument("--feature-size", type=int, metavar="N", help="channels of the first feature map")
    group.add_argument("--channels", type=int, metavar="N", help="input channels: images per case")
    group.add_argument("--size", metavar="X,Y,Z", help="crop in voxels that a unetr's position table is for")


def wanted_encoder(asked: argparse.Namespace) -> dict[str, str]:
    """The options as `Encoder.description` names them."""
    for option, value in (("--feature-size", asked.feature_size), ("--channels", asked.channels)):
        if value is not None and not 1 <= value <= 4096:
            raise SettingsError(
                f"{option} must be from 1 to 4096, not {value}", "leave it out to take the file's"
            )
    if asked.size and not re.fullmatch(r"[1-9]\d{0,4}(,[1-9]\d{0,4}){2}", asked.size):
        raise SettingsError(f"--size cannot be '{asked.size}'", "write three whole numbers, as in 96,96,96")
    given = {
        "encoder": asked.encoder,
        "feature_size": asked.feature_size,
        "in_channels": asked.channels,
        "input_size": asked.size,
    }
    return {name: str(value) for name, value in given.items() if value is not None}


def show(coverage: Coverage) -> None:
    """Print how much of a network was filled: a table by part, and a line."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120).print(coverage.table())
    print(coverage.summary())
