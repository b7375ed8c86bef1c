"""Reading weights from a file that may be anything: safetensors, a torch checkpoint, a web page, a program.

No code in a file is ever run: torch files are read with ``weights_only=True`` alone.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from VoCoCore.errors import DataError

_DEEPEST = 8
# What our own files say of their encoder, as text.
_DESCRIPTION = {
    "in_channels": "[0-9]{1,4}",
    "feature_size": "[0-9]{1,4}",
    "input_size": "[0-9]{1,4}(,[0-9]{1,4}){2}",
}
# Entries of checkpoints that hold the state dict, in order of preference.
WRAPPERS = ("state_dict", "model_state_dict", "network_weights", "net", "student", "model", "teacher")
# Beside its weights a checkpoint may keep a score, which numpy writes as such: values, no code.
_NUMBERS: list[Any] = [
    np.dtype,
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"},
]


@dataclass(frozen=True)
class WeightFile:
    """What a weights file holds: tensors by the names they have there, and the file's own metadata."""

    path: Path
    format: str  # 'safetensors' or 'torch'
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    notes: tuple[str, ...] = ()


def read_weight_file(path: str | Path) -> WeightFile:
    """Read a weights file onto the CPU; raises DataError, saying what the file is instead, if it is none."""
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a weights file", "of a run, take a file in its 'weights'")
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is a pipe or a device, not a weights file", "give the file itself")
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise DataError(f"cannot read weights from {path}: {error.strerror}", "check the path") from None
    _refuse_other_kinds(path, start)
    is_safetensors = path.suffix == ".safetensors" or start[8:9] == b"{"
    found = _read_safetensors(path) if is_safetensors else _read_torch(path)
    if not found.tensors:
        raise DataError(f"{path} holds no weights", "it should hold tensors by name, a PyTorch state dict")
    return found


def _refuse_other_kinds(path: Path, start: bytes) -> None:
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        raise DataError(f"{path} is empty", "copy or download it again")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise DataError(f"{path} is a web page, not weights", "open the link in a browser and save the file")
    # A pickle's first bytes; torch's own old format is of protocol 2. The length that safetensors begin with may look
    # the same, but a brace follows it.
    if start[0] == 0x80 and start[1:2] > b"\x02" and start[8:9] != b"{":
        raise _refused(path)
    if text.startswith(b"version https://git-lfs"):
        raise DataError(f"{path} is a git-lfs pointer, not weights", "run 'git lfs pull' where it came from")


def _read_safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
            metadata = file.metadata() or {}
    except SafetensorError as error:
        message = f"{path} is no safetensors file, or not a whole one: {error}"
        raise DataError(message, "copy or download it again") from None
    for name, form in _DESCRIPTION.items():
        if "encoder" in metadata and name in metadata and not re.fullmatch(form, metadata[name]):
            message = f"{path} says of its encoder that {name} is '{metadata[name][:40]}'"
            raise DataError(message, "copy or download it again")
    return WeightFile(path, "safetensors", tensors, metadata)


def _read_torch(path: Path) -> WeightFile:
    is_zip = zipfile.is_zipfile(path)
    if is_zip and (kind := _program(path)):
        message = f"{path} is a {kind} program, not weights"
        raise DataError(message, "take the file that it was made from, or export it with --format torch")
    try:
        # Mapped into memory, a checkpoint of several GB is not held twice; only the zip format allows it.
        with torch.serialization.safe_globals(_NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # torch and pickle raise a dozen kinds, none for "cannot be read"
        raise _unreadable(path, str(error)) from None
    tensors, notes = _unwrap(content)
    if not tensors and (elsewhere := _entries_with_tensors(content)):
        message = f"{path} holds no weights where they are looked for, but tensors in {elsewhere}"
        raise DataError(message, "save that entry alone, as a state dict of its own")
    return WeightFile(path, "torch", tensors, {}, tuple(notes))


def _entries_with_tensors(content: Any) -> str:
    """Names of a checkpoint's entries that may be a state dict under a name of its own."""
    entries = content.items() if isinstance(content, Mapping) else ()
    found = (name for name, entry in entries if isinstance(entry, Mapping))
    return ", ".join(
        f"'{name}'" for name in found if any(isinstance(t, Tensor) for t in content[name].values())
    )


def _program(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return "TorchScript"
    return "torch.export" if any(name.endswith("archive_format") for name in names) else ""


def _unreadable(path: Path, reason: str) -> DataError:
    if re.search(r"unsupported (global|class)|unrecognized function", reason, re.IGNORECASE):
        return _refused(path)
    return DataError(f"{path} is no PyTorch weights file, or not a whole one", "copy or download it again")


def _refused(path: Path) -> DataError:
    return DataError(
        f"{path} was refused: it holds more than tensors, and reading it could run code from the file",
        "if you trust it, load it with its own program and save only its state dict",
    )


def _unwrap(content: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict inside a training checkpoint, and which of its entries led there."""
    notes = []
    for _ in range(_DEEPEST):  # a checkpoint may hold itself
        if not isinstance(content, Mapping):
            break
        inner = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        other = ", its 'teacher' left" if inner == "student" and "teacher" in content else ""
        notes.append(f"taken from the checkpoint's entry '{inner}'{other}")
        content = content[inner]
    if not isinstance(content, Mapping):
        return {}, notes
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}, notes
