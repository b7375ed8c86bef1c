"""Weights in and out: our safetensors, the published checkpoints, and how much of a network a file fills."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from VoCoCore.errors import DataError, EnvironmentFault
from VoCoCore.models.coverage import Coverage, Mismatch
from VoCoCore.models.interface import Encoder
from VoCoCore.models.published import canonical, likely_encoder, without_teacher
from VoCoCore.models.weight_files import WeightFile, read_weight_file

__all__ = ["Coverage", "inspect_weights", "load_weights", "save_weights"]


def save_weights(module: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a module's tensors as safetensors, beside ``path`` first and then in its place.

    The file says which encoder is inside (`Encoder.description`) and carries ``metadata``, which wins over
    that. Raises EnvironmentFault when it cannot be written.
    """
    write_tensors(module.state_dict(), path, {**_description(module), **(metadata or {})})


def write_tensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write named tensors as safetensors, beside ``path`` first; EnvironmentFault when it cannot be written."""
    path = Path(path)
    facts = {"format": "pt", **metadata}
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(_separate(tensors), beside, facts)
        _sort_metadata(beside)
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        message = f"cannot write weights to {path}: {error}"
        raise EnvironmentFault(message, "check free disk space and permissions") from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def load_weights(
    module: nn.Module, path: str | Path, *, minimum: float = 0.9, allow_partial: bool = False
) -> Coverage:
    """Fill a module from a safetensors or torch file, ours or published, and say how much of it was filled.

    Names are matched as they are, else without the prefixes of wrappers; first convolutions are spread over
    other numbers of input channels, position tables interpolated. Raises DataError, and leaves the module
    as it was, when the file is not what it should be or fills less than ``minimum`` of the weights; with
    ``allow_partial`` any share above none will do.
    """
    file = read_weight_file(path)
    tensors, coverage = _match(module, file)
    if not coverage.loaded or (coverage.fraction < minimum and not allow_partial):
        message = f"{file.path} fills only {coverage.fraction:.0%} of this network's weights"
        raise DataError(message, _why_little(module, file, coverage))
    broken = next((n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()), None)
    if broken:
        message = f"{file.path} holds values that are not finite, in {broken}"
        raise DataError(message, "use an earlier checkpoint")
    module.load_state_dict(tensors, strict=False)
    return coverage


def inspect_weights(path: str | Path) -> dict[str, Any]:
    """What a weights file holds, as plain values ready for JSON: format, metadata, encoder, parts, tensors.

    ``encoder`` is what the file records or, without that, what its names and shapes suggest; None if unknown.
    Raises DataError like `load_weights`.
    """
    file = read_weight_file(path)
    parts: dict[str, dict[str, int]] = {}
    for name, tensor in file.tensors.items():
        part = parts.setdefault(canonical(name).split(".")[0], {"tensors": 0, "weights": 0})
        part["tensors"] += 1
        part["weights"] += tensor.numel()
    return {
        "file": file.path.name,
        "format": file.format,
        "metadata": file.metadata,
        "notes": list(file.notes),
        "encoder": _source(file) or None,
        "weights": sum(part["weights"] for part in parts.values()),
        "parts": parts,
        "tensors": {
            name: {"shape": list(tensor.shape), "type": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in file.tensors.items()
        },
    }


def _sort_metadata(path: Path) -> None:
    """Equal weights should make equal files, but the library writes their metadata in a random order."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # otherwise the library wrote in another style, and may keep its order
            file.seek(8)
            file.write(text.ljust(length))


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor in memory of its own, as safetensors wants it: each name is then found in the file."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return separate


def _encoders(module: nn.Module) -> Iterator[tuple[str, Encoder]]:
    for name, part in module.named_modules():
        if isinstance(part, Encoder):
            yield f"{name}." if name else "", part


def _description(module: nn.Module) -> dict[str, str]:
    return next((encoder.description() for _, encoder in _encoders(module)), {})


def _match(module: nn.Module, file: WeightFile) -> tuple[dict[str, Tensor], Coverage]:
    """The file's tensors by the module's names, made to fit, and the coverage that loading them gives."""
    state, source = module.state_dict(), _source(file)
    by_canonical = {canonical(name): name for name in state}
    exact = [name for name in file.tensors if name in state]
    others, role = without_teacher(name for name in file.tensors if name not in state)
    notes = [*file.notes, *filter(None, [role])]
    tensors: dict[str, Tensor] = {}
    mismatched: dict[str, Mismatch] = {}
    used = set()
    for name in exact + others:
        target = name if name in state else by_canonical.get(canonical(name), "")
        if not target or target in tensors:
            continue
        used.add(name)
        tensor, note = _fitted(module, target, file.tensors[name], source)
        if tensor.shape == state[target].shape:
            tensors[target] = tensor
            notes += [note] if note else []
        else:
            mismatched[target] = Mismatch(target, tuple(file.tensors[name].shape), tuple(state[target].shape))
    coverage = Coverage(
        loaded=tuple(tensors),
        missing=tuple(name for name in state if name not in tensors and name not in mismatched),
        unexpected=tuple(name for name in file.tensors if name not in used),
        mismatched=tuple(mismatched.values()),
        notes=tuple(notes),
        sizes={name: parameter.numel() for name, parameter in module.named_parameters()},
    )
    return tensors, coverage


def _fitted(module: nn.Module, target: str, tensor: Tensor, source: Mapping[str, str]) -> tuple[Tensor, str]:
    for prefix, encoder in _encoders(module):
        if target.startswith(prefix):
            return encoder.adapt(target.removeprefix(prefix), tensor, source)
    return tensor, ""


def _source(file: WeightFile) -> dict[str, str]:
    """Description of the encoder in a file: as recorded, else as its names and shapes suggest."""
    if "encoder" in file.metadata:
        keys = ("encoder", "in_channels", "feature_size", "input_size")
        return {key: file.metadata[key] for key in keys if key in file.metadata}
    return likely_encoder({name: tuple(tensor.shape) for name, tensor in file.tensors.items()})


def _why_little(module: nn.Module, file: WeightFile, coverage: Coverage) -> str:
    """One reason that a person can act on: another network, else the first tensor that does not fit."""
    theirs, ours = (
        " with feature size ".join(filter(None, (facts.get("encoder"), facts.get("feature_size"))))
        for facts in (_source(file), _description(module))
    )
    if theirs and ours and theirs != ours:
        return f"the file looks like {theirs}, the network is {ours}"
    reasons = [*map(str, coverage.mismatched), *(f"{name} is missing" for name in coverage.missing)]
    return f"{reasons[0]}; 'voco weights inspect' lists what is in the file"
