"""Where a network starts from: another run, a weights file of any kind, or nowhere."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from VoCoCore.models.coverage import Coverage
from VoCoCore.models.weights import load_weights
from VoCoCore.runs.weights import weights_file
from VoCoCore.settings import SCRATCH


def initialise(
    network: nn.Module, source: str | Path, allow_partial: bool = False, minimum: float = 0.9
) -> Coverage | None:
    """Fill a network's encoder, and whatever else fits, from ``source``; None for ``scratch``.

    ``source`` is all that `runs.weights.weights_file` takes. An output layer for other classes stays random and counts
    as mismatched. Raises DataError, and leaves the network as it was, where less than ``minimum`` of the encoder's
    weights are found; with ``allow_partial`` any share above none will do.
    """
    if str(source) == SCRATCH:
        return None
    part = "encoder." if hasattr(network, "encoder") else ""
    return load_weights(
        network, weights_file(source), minimum=minimum, allow_partial=allow_partial, part=part
    )
