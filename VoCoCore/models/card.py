"""What a fine-tuned network is for: the card that lies in its weights file, so that the file alone is usable."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from VoCoCore.errors import DataError

Colour = tuple[int, int, int]
_LARGEST = 4096  # feature size, and edge of a window in voxels
CARD_KEY = "card"  # in the metadata of a safetensors file


@dataclass(frozen=True)
class OutputClass:
    """One output of a network.

    ``values``: the voxel values of a label file that it stands for: one for a class of a softmax, one or several for
    a region of a sigmoid; for a classification its number. ``colour`` is RGB, 0 to 255.
    """

    name: str
    values: tuple[int, ...]
    colour: Colour


@dataclass(frozen=True)
class ModelCard:
    """All that prediction must know of a network beside its weights.

    ``task``: segmentation or classification. ``activation``: softmax (segmentation: the first class is the background)
    or sigmoid (overlapping regions). ``window`` (3,): size in voxels of the crops that it was trained with.
    ``prepare``: settings of preparing (`PrepareSettings.to_dict`). ``channels``: names of the images it takes.
    ``facts``: what a person may want to know: data, settings, metrics; no path and no patient.
    """

    task: str
    encoder: str
    feature_size: int
    window: tuple[int, int, int]
    classes: tuple[OutputClass, ...]
    activation: str
    prepare: dict[str, Any]
    channels: tuple[str, ...] = ("image",)
    body_part: str | None = None
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def in_channels(self) -> int:
        """Images per case."""
        return len(self.channels)

    @property
    def outputs(self) -> int:
        """Number of outputs, the background among them."""
        return len(self.classes)

    def combinations(self) -> dict[frozenset[int], int]:
        """Numbers of the outputs that hold together -> the voxel value that lies in just these.

        Of several, the first that the smallest of the regions names. WT (1, 2, 4), TC (1, 4), ET (4) of BraTS: WT alone
        2, WT and TC 1, all three 4.
        """
        found: dict[frozenset[int], int] = {}
        for number in reversed(self.writing_order()):
            for value in self.classes[number].values:
                holders = (other for other, kind in enumerate(self.classes) if value in kind.values)
                found.setdefault(frozenset(holders), value)
        return found

    def written_values(self) -> tuple[int, ...]:
        """The voxel value that each output writes into a label map where no smaller one holds, see `writing_order`.

        It is the value that lies in the fewest other regions: WT (1, 2, 4), TC (1, 4), ET (4) of BraTS write 2, 1, 4.
        Of regions that overlap, A (1, 2) and B (2, 3) write 1 and 3; see `joint_values`.
        """
        known, found = self.combinations().items(), []
        for number, kind in enumerate(self.classes):
            own = [(len(some), kind.values.index(value), value) for some, value in known if number in some]
            found.append(min(own)[-1])
        return tuple(found)

    def joint_values(self) -> list[tuple[list[int], int]]:
        """(Numbers of regions, the value where they hold together), small combinations first; none of nested regions.

        Of A (1, 2) and B (2, 3), both write 2. Where all regions lie in one another or apart, the smallest that holds
        decides, and there is nothing to add.
        """
        known, order, written = self.combinations(), self.writing_order(), self.written_values()
        if all(written[max(some, key=order.index)] == value for some, value in known.items()):
            return []
        several = sorted((some for some in known if len(some) > 1), key=len)
        return [(sorted(some), known[some]) for some in several]

    def writing_order(self) -> list[int]:
        """Numbers of the outputs, regions of many values first."""
        return sorted(range(self.outputs), key=lambda number: -len(self.classes[number].values))

    def to_metadata(self) -> dict[str, str]:
        """The card as metadata of a safetensors file, with the encoder's description as `load_weights` reads it."""
        return {
            "what": f"VoCo {self.task} model",
            "encoder": self.encoder,
            "feature_size": str(self.feature_size),
            "in_channels": str(self.in_channels),
            "input_size": ",".join(map(str, self.window)),
            CARD_KEY: json.dumps(asdict(self), sort_keys=True),
        }

    def _check(self) -> None:
        """Raise ValueError for what no network has: a file may say anything."""
        fits = {
            "task": isinstance(self.task, str),
            "encoder": isinstance(self.encoder, str),
            "feature_size": type(self.feature_size) is int and self.feature_size <= _LARGEST,
            "window": max(self.window) <= _LARGEST,
            "classes": bool(self.classes) and all(map(_is_possible, self.classes)),
            "activation": self.activation in ("softmax", "sigmoid"),
            "prepare": isinstance(self.prepare, dict),
            "channels": bool(self.channels) and all(isinstance(name, str) for name in self.channels),
            "body_part": self.body_part is None or isinstance(self.body_part, str),
            "facts": isinstance(self.facts, dict) and all(isinstance(v, str) for v in self.facts.values()),
        }
        if wrong := [name for name, fit in fits.items() if not fit]:
            raise ValueError(
                f"its {wrong[0]} cannot be {json.dumps(getattr(self, wrong[0]), default=vars)[:60]}"
            )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: object) -> ModelCard:
        """The card in a file's metadata; DataError, naming ``path``, where there is none or it is damaged."""
        if CARD_KEY not in metadata:
            raise DataError(
                f"{path} is no fine-tuned network: it says nothing of classes and preparing",
                "give the run of a fine-tuning, or weights/model.safetensors in it",
            )
        try:
            found = json.loads(metadata[CARD_KEY])
            classes = tuple(
                OutputClass(str(c["name"]), tuple(map(int, c["values"])), _colour(c["colour"]))
                for c in found["classes"]
            )
            x, y, z = (int(edge) for edge in found["window"])
            card = cls(
                **{**found, "classes": classes, "window": (x, y, z), "channels": tuple(found["channels"])}
            )
            card._check()
            return card
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(
                f"the card of the network in {path} is damaged: {error}", "copy the file again"
            ) from None


def _is_possible(kind: OutputClass) -> bool:
    """Whether the values fit into a label map, and the colour into a screen."""
    values = bool(kind.values) and all(0 <= value < 2**16 for value in kind.values)
    return values and all(0 <= part < 256 for part in kind.colour)


def _colour(values: Sequence[int]) -> Colour:
    red, green, blue = (int(value) for value in values)
    return red, green, blue


def palette(count: int) -> list[Colour]:
    """``count`` colours that are easy to tell apart, the first black: it is the background's."""
    colours: list[Colour] = [(0, 0, 0)]
    for number in range(count - 1):
        # Steps of the golden ratio never come close to a hue that was there.
        hue, level = (0.02 + number * 0.618034) % 1.0, (0.95, 0.75, 0.85)[number % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, (0.65, 0.85, 0.5)[number % 3], level)
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colours[:count]
