"""How much of a network a weights file filled: the report that every loading prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from VoCoCore.models.published import Shape, canonical

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Mismatch:
    """A tensor that is in both, in different shapes."""

    name: str
    in_file: Shape
    in_network: Shape

    def __str__(self) -> str:
        return f"{self.name}: {list(self.in_file)} in the file, {list(self.in_network)} in the network"


@dataclass(frozen=True)
class Part:
    """One part of a network: how many of its tensors and weights (single numbers) came from the file."""

    name: str
    tensors: int = 0
    loaded_tensors: int = 0
    weights: int = 0
    loaded_weights: int = 0

    @property
    def fraction(self) -> float:
        return self.loaded_weights / self.weights if self.weights else 1.0


@dataclass(frozen=True)
class Coverage:
    """The network's names that were loaded, missing or mismatched, and the file's that had no place in it.

    ``sizes`` counts the weights of each of the network's parameters. Fractions are of weights, not of
    tensors: a few missing convolutions can be most of a network.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    notes: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        """Share of the network's weights that came from the file, 0 to 1."""
        return self.share("")

    def share(self, part: str) -> float:
        """The same share of those weights alone whose names begin with ``part``."""
        total = sum(size for name, size in self.sizes.items() if name.startswith(part))
        got = sum(self.sizes.get(name, 0) for name in self.loaded if name.startswith(part))
        return got / total if total else 1.0

    def lacks(self, part: str) -> bool:
        """Whether the file left something of ``part`` as it was."""
        left = (*self.missing, *(mismatch.name for mismatch in self.mismatched))
        return any(name.startswith(f"{part}.") for name in left)

    def parts(self) -> list[Part]:
        """Coverage of each part of the network, by the first word of its names."""
        loaded = set(self.loaded)
        counts: dict[str, list[int]] = {}
        for name, size in self.sizes.items():
            row = counts.setdefault(canonical(name).split(".")[0], [0, 0, 0, 0])
            got = name in loaded
            for i, amount in enumerate((1, got, size, got * size)):
                row[i] += amount
        return [Part(name, *row) for name, row in counts.items()]

    def summary(self) -> str:
        """One line: the share, the counts, and what was changed on the way."""
        network = len(self.loaded) + len(self.missing) + len(self.mismatched)
        text = f"{self.fraction:.1%} of the weights loaded ({len(self.loaded)} of {network} tensors)"
        return "; ".join([text, *self._counts(self.missing), *self.notes])

    def by_part(self) -> str:
        """The same for an encoder with what follows it, part by part: a new decoder is no lack of the file."""
        parts = dict.fromkeys(name.partition(".")[0] for name in self.sizes)
        shares = {part: self.share(f"{part}.") for part in parts}
        texts = [
            f"{share:.1%} of the {part} loaded" if share else f"the {part} begins anew"
            for part, share in shares.items()
        ]
        missing = [name for name in self.missing if shares.get(name.partition(".")[0])]
        return "; ".join([*texts, *self._counts(missing), *self.notes])

    def _counts(self, missing: Sequence[str]) -> list[str]:
        named = {"missing": missing, "of another shape": self.mismatched, "not used": self.unexpected}
        return [f"{len(names)} {word}" for word, names in named.items() if names]

    def table(self) -> Table:
        """A rich table with a row for each part of the network."""
        from rich.table import Table

        table = Table(title="Coverage")
        table.add_column("part")
        for head in ("tensors", "loaded", "weights", "loaded"):
            table.add_column(head, justify="right")
        for part in self.parts():
            counts = (part.tensors, part.loaded_tensors, f"{part.weights:,}", f"{part.fraction:.1%}")
            table.add_row(part.name, *map(str, counts))
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "fraction": self.fraction,
            "loaded": list(self.loaded),
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "mismatched": [
                {"name": m.name, "in_file": list(m.in_file), "in_network": list(m.in_network)}
                for m in self.mismatched
            ],
            "notes": list(self.notes),
            "parts": {part.name: part.fraction for part in self.parts()},
        }
