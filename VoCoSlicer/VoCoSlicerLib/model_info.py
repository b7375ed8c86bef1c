"""What a model says of itself, read from the head of its weights file with the standard library alone.

A safetensors file begins with the length of its head (8 bytes, little-endian) and the head itself, JSON, whose
``__metadata__`` holds the card that fine-tuning writes.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from VoCoCore.errors import DataError
from VoCoCore.runs.files import open_plain
from VoCoCore.runs.weights import model_paths

_MOST_HEAD = 100_000_000  # bytes; no head is longer
_HINT = "give the run of a fine-tuning, a folder of its folds, or weights/model.safetensors in one"


@dataclass(frozen=True)
class ModelInfo:
    """A fine-tuned network. ``files``: one for each fold. ``labels``: names of its classes without background;
    ``channels``: the images of a case that it takes; ``facts``: what it says of its training, for a person.
    """

    path: Path
    files: tuple[Path, ...]
    task: str
    encoder: str
    labels: tuple[str, ...]
    channels: tuple[str, ...]
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What to call it: the run's folder, or the file's stem."""
        return self.path.name if os.path.isdir(self.path) else self.path.stem


def readModel(path: str | Path) -> ModelInfo:
    """The model in a run, a folder of folds or a file; reads a few kilobytes.

    Raises DataError, with what to give instead, where there is none or it is damaged.
    """
    path = Path(os.path.expanduser(path))
    files = tuple(model_paths(path))
    card = _cardOf(files[0])
    try:
        classes = [(str(one["name"]), list(one["values"])) for one in card["classes"]]
        labels = tuple(name for name, values in classes if values != [0] or card["task"] == "classification")
        facts = {str(name): str(value) for name, value in (card.get("facts") or {}).items()}
        channels = tuple(map(str, card.get("channels") or ("image",)))
        return ModelInfo(path, files, str(card["task"]), str(card["encoder"]), labels, channels, facts)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the card of the network in {files[0]} is damaged: {error}", "copy the file again"
        ) from None


def readHead(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises DataError where it is none."""
    try:
        with open_plain(file) as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            head = json.loads(opened.read(length)) if length <= _MOST_HEAD else None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}", "check the path") from None
    except (struct.error, ValueError, RecursionError):
        head = None
    metadata = head.get("__metadata__") if isinstance(head, dict) else None
    if not isinstance(metadata, dict):
        raise DataError(f"{file} is no file of weights that VoCo wrote", _HINT)
    return metadata


def _cardOf(file: Path) -> dict[str, Any]:
    card = readHead(file).get("card")
    if card is None:
        raise DataError(f"{file} is no fine-tuned network: it says nothing of classes", _HINT)
    try:
        found = json.loads(card)
    except (ValueError, RecursionError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"the card of the network in {file} is damaged", "copy the file again")
    return found
