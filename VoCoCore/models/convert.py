"""Weights of any kind into a file of ours: unwrapped, renamed, spread over other input channels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from VoCoCore import __version__
from VoCoCore.errors import DataError
from VoCoCore.models.card import CARD_KEY
from VoCoCore.models.coverage import Coverage
from VoCoCore.models.encoders import ENCODERS
from VoCoCore.models.identify import Identity, identify
from VoCoCore.models.inspection import described
from VoCoCore.models.matching import check_match, description_of, match
from VoCoCore.models.outline import outline
from VoCoCore.models.outputs import check_output
from VoCoCore.models.weight_files import WeightFile, read_weight_file
from VoCoCore.models.weights import write_tensors
from VoCoCore.runs.weights import weights_file


def convert_weights(
    source: str | Path,
    output: str | Path,
    wanted: Mapping[str, str] | None = None,
    allow_partial: bool = False,
    overwrite: bool = False,
) -> Coverage:
    """Write what ``source`` holds of an encoder, or of a whole network, as our safetensors.

    ``wanted`` (any of encoder, feature_size, in_channels, input_size) wins over what the file looks like. Tensors that
    the file does not have are left out. Raises DataError where the file holds no encoder of ours or less than 90 % of
    it (``allow_partial``: any share), SettingsError for an output that may not be written.
    """
    output, path = Path(output), weights_file(source)
    check_output(output, (".safetensors",), path, overwrite)
    file = read_weight_file(path)
    tensors, coverage, facts = matched(file, wanted or {}, allow_partial)
    made = {"what": "VoCo converted weights", "converted_by": __version__, "source_sha256": _sha256(path)}
    write_tensors(tensors, output, {**_kept(file, facts), **facts, **made})
    return coverage


def matched(
    file: WeightFile, wanted: Mapping[str, str], allow_partial: bool = False
) -> tuple[dict[str, Tensor], Coverage, dict[str, str]]:
    """A file's tensors under our names, their coverage, and the description of the encoder that they are of.

    Raises DataError, saying what the file is, where that is no encoder of ours or too little of one.
    """
    found = identify(file)
    description = described(found, wanted)
    if not description:
        raise DataError(
            f"{file.path} holds {found.words}, which is none of the encoders here ({', '.join(ENCODERS)})",
            _advice(found),
        )
    network = outline(description, found.kind, found.outputs)
    tensors, coverage = match(network, file)
    part = "encoder." if hasattr(network, "encoder") else ""
    check_match(network, file, tensors, coverage, minimum=0.9, allow_partial=allow_partial, part=part)
    return tensors, coverage, description_of(network)


def _advice(found: Identity) -> str:
    if "nnU-Net" in found.words:
        return "go on with it in nnU-Net itself (nnUNetv2_train -pretrained_weights FILE)"
    return "'voco weights inspect' shows its tensors; --encoder says which network to try"


def _kept(file: WeightFile, facts: Mapping[str, str]) -> dict[str, str]:
    """What the file says of itself, its card only where the network stays the one that it describes."""
    same = all(file.metadata.get(key, value) == value for key, value in facts.items())
    return {key: value for key, value in file.metadata.items() if key != CARD_KEY or same}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
