"""What a weights file holds: format, network, parts, and how much of that network it fills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from VoCoCore.errors import SettingsError
from VoCoCore.models.coverage import Coverage
from VoCoCore.models.identify import ENCODER, TRANSFORMER, Identity, identify
from VoCoCore.models.published import canonical, is_alias
from VoCoCore.models.weight_files import WeightFile, read_weight_file


@dataclass(frozen=True)
class Inspection:
    """``coverage`` is that of the network which ``against`` describes; None where it is no network of ours."""

    file: WeightFile
    found: Identity
    against: dict[str, str] = field(default_factory=dict)
    coverage: Coverage | None = None
    remark: str = ""

    @property
    def types(self) -> list[str]:
        """Number formats of the tensors, such as float32."""
        return sorted({_type(tensor) for tensor in self.file.tensors.values()})

    def parts(self) -> dict[str, dict[str, int]]:
        """Tensors and numbers of each part, by the first word of the names; second names are not counted."""
        parts: dict[str, dict[str, int]] = {}
        for name, tensor in self.file.tensors.items():
            if not is_alias(name):
                part = parts.setdefault(canonical(name).split(".")[0], {"tensors": 0, "weights": 0})
                part["tensors"] += 1
                part["weights"] += tensor.numel()
        return parts

    def stray(self) -> dict[str, int]:
        """How many tensors have no place in the network, by the first two words of their names."""
        counts: dict[str, int] = {}
        for name in self.coverage.unexpected if self.coverage else ():
            group = ".".join(name.split(".")[:2])
            counts[group] = counts.get(group, 0) + 1
        return counts

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        parts = self.parts()
        return {
            "file": self.file.path.name,
            "format": self.file.format,
            "metadata": self.file.metadata,
            "notes": list(self.file.notes),
            "network": self.found.words,
            "kind": self.found.kind,
            "encoder": dict(self.found.encoder) if self.found.encoder else None,
            "outputs": self.found.outputs,
            "weights": sum(part["weights"] for part in parts.values()),
            "parts": parts,
            "against": self.against or None,
            "coverage": self.coverage.to_dict() if self.coverage else None,
            "remark": self.remark,
            "tensors": {
                name: {"shape": list(tensor.shape), "type": _type(tensor)}
                for name, tensor in self.file.tensors.items()
            },
        }


def inspect_weights(path: str | Path, against: Mapping[str, str] | None = None) -> Inspection:
    """Look into a weights file without loading it into a network.

    ``against`` says of which encoder the coverage is taken (any of encoder, feature_size, in_channels, input_size);
    what it leaves out comes from the file. Raises DataError like `load_weights`, SettingsError for an encoder of
    ``against`` that cannot be.
    """
    file = read_weight_file(path)
    found = identify(file)
    wanted = described(found, against or {})
    if not wanted:
        return Inspection(file, found)
    from VoCoCore.models.matching import match, not_finite
    from VoCoCore.models.outline import outline

    whole = found.kind if found.kind not in (TRANSFORMER, ENCODER) else ENCODER
    try:
        network = outline(wanted, whole, found.outputs)
    except SettingsError as error:
        if against:
            raise
        return Inspection(file, found, wanted, remark=error.message)
    tensors, coverage = match(network, file)
    broken = not_finite(tensors)
    remark = f"no job takes this file: it holds values that are not finite, in {broken}" if broken else ""
    return Inspection(file, found, wanted, coverage, remark)


def described(found: Identity, wanted: Mapping[str, str]) -> dict[str, str]:
    """The description of an encoder: as wanted, and else as found; empty where neither knows one."""
    own = dict(found.encoder or {})
    if "encoder" not in own and "encoder" not in wanted:
        return {}
    if wanted.get("encoder", own.get("encoder")) != own.get("encoder"):
        own = {name: value for name, value in own.items() if name == "in_channels"}
    return {"in_channels": "1", "feature_size": "48", **own, **wanted}


def _type(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")
