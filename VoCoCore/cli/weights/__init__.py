"""`voco weights`: look into files of weights, and turn them into other files."""

from VoCoCore.cli.weights.actions import run

__all__ = ["run"]
