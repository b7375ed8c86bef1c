"""Weights in and out: our safetensors, the published checkpoints, and how much of a network a file fills."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from VoCoCore.errors import EnvironmentFault
from VoCoCore.models.coverage import Coverage
from VoCoCore.models.matching import UNTRAINED, check_match, description_of, match
from VoCoCore.models.weight_files import read_weight_file
from VoCoCore.runs.files import move

__all__ = ["Coverage", "load_weights", "save_tensors", "save_weights", "write_tensors"]


def save_weights(
    module: nn.Module,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    untrained: Sequence[str] = (),
) -> None:
    """Write a module's tensors as safetensors, beside ``path`` first and then in its place.

    The file says which encoder is inside (`Encoder.description`) and carries ``metadata``, which wins over
    that. Parts named in ``untrained`` are left out, and the file says so. Raises EnvironmentFault when it cannot be
    written.
    """
    left_out = tuple(f"{part}." for part in untrained)
    tensors = {name: t for name, t in module.state_dict().items() if not name.startswith(left_out)}
    said = {UNTRAINED: ",".join(untrained)} if untrained else {}
    write_tensors(tensors, path, {**description_of(module), **said, **(metadata or {})})


def write_tensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write named tensors as safetensors, beside ``path`` first; EnvironmentFault when it cannot be written."""
    path = Path(path)
    facts = {"format": "pt", **metadata}
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(_separate(tensors), beside, facts)
        _settle(beside)
        move(beside, path)
    except (OSError, SafetensorError) as error:
        message = f"cannot write weights to {path}: {error}"
        raise EnvironmentFault(message, "check free disk space and permissions") from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, facts: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file that others may read as any file of this user; raises what the library raises."""
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, dict(facts) if facts else None)
    path.chmod(mode)  # the library has put a file for its owner alone in that one's place


def load_weights(
    module: nn.Module, path: str | Path, *, minimum: float = 0.9, allow_partial: bool = False, part: str = ""
) -> Coverage:
    """Fill a module from a safetensors or torch file, ours or published, and say how much of it was filled.

    Names are matched as they are, else without the prefixes of wrappers; first convolutions are spread over
    other numbers of input channels, position tables interpolated. Raises DataError, and leaves the module
    as it was, when the file is not what it should be or fills less than ``minimum`` of the weights whose names
    begin with ``part``; with ``allow_partial`` any share above none will do.
    """
    file = read_weight_file(path)
    tensors, coverage = match(module, file)
    check_match(module, file, tensors, coverage, minimum=minimum, allow_partial=allow_partial, part=part)
    module.load_state_dict(tensors, strict=False)
    return coverage


def _settle(path: Path) -> None:
    """Order a file's metadata, which the library writes in a random order (equal weights should make equal files), and
    have it all on the disk.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # otherwise the library wrote in another style, and may keep its order
            file.seek(8)
            file.write(text.ljust(length))
        # A run says on the disk that it is finished; after a power cut its weights must be there too.
        file.flush()
        os.fsync(file.fileno())


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
