"""The model card in words: a Markdown page beside each export, for whoever is handed the file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from VoCoCore import __version__
from VoCoCore.models.card import ModelCard

# Of a file's metadata, what a reader wants to know; the run's name and hashes of images are left out.
_KNOWN = {
    "recipe": "Recipe of the pre-training",
    "steps": "Steps of the pre-training",
    "spacing": "Spacing of the volumes [mm]",
    "untrained": "Parts that were not trained, and are left out",
    "data": "Fingerprint of the data",
    "source_sha256": "SHA-256 of the file that it was converted from",
    "vococore": "Trained with VoCoCore",
}


@dataclass(frozen=True)
class Page:
    """What goes into a page: the encoder's description, the card of a fine-tuned network, what the file says of itself,
    measured numbers by name, ``use``: lines of Python or of text that say how to read the file.
    """

    title: str
    encoder: Mapping[str, str]
    parameters: int
    use: Sequence[str]
    card: ModelCard | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    code: bool = True


def write_page(page: Page) -> str:
    """The page as Markdown, without paths or names of patients."""
    parts = [
        f"# {page.title}",
        "A network for three-dimensional medical images, made with VoCoCore "
        f"{__version__} (volume contrastive learning, VoCo).",
        "## Network",
        _table(_network(page)),
        *_classes(page.card),
        "## Input",
        _input(page.card, page.metadata),
        "## Data, training and results",
        _table(_facts(page)) or "Nothing is recorded in the file.",
        "## Use",
        "\n".join(["```python", *page.use, "```"] if page.code else page.use),
        "## Limits",
        "It was tested on no other data than those named above. It is no medical device: look at every result.",
        "## Licence and contact",
        "To be filled in by whoever passes this on: licence of the weights, terms of the data, whom to ask.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _network(page: Page) -> dict[str, str]:
    rows = {
        "Encoder": page.encoder["encoder"],
        "Feature size": page.encoder["feature_size"],
        "Input channels": page.encoder["in_channels"],
        "Parameters": f"{page.parameters:,}",
    }
    if page.card:
        rows["Task"] = page.card.task
        rows["Window [voxels]"] = " x ".join(map(str, page.card.window))
        rows["Outputs"] = f"{page.card.outputs} logits, for {page.card.activation}"
    return rows


def _classes(card: ModelCard | None) -> list[str]:
    if card is None:
        return []
    lines = ["| Output | Name | Values in label files |", "|---|---|---|"]
    for number, kind in enumerate(card.classes):
        lines.append(f"| {number} | {_cell(kind.name)} | {', '.join(map(str, kind.values))} |")
    return ["## Outputs", "\n".join(lines)]


def _input(card: ModelCard | None, metadata: Mapping[str, str]) -> str:
    prepare = card.prepare if card else _json(metadata.get("prepare", ""))
    rows = {name.replace("_", " "): _value(value) for name, value in prepare.items()}
    if card:
        rows = {"images per case": ", ".join(card.channels), **rows}
        if card.body_part:
            rows["body part"] = card.body_part
    words = "Axes along right, anterior and superior; values brought to 0 to 1."
    return f"{words}\n\n{_table(rows)}" if rows else words


def _facts(page: Page) -> dict[str, str]:
    rows = {words: page.metadata[key] for key, words in _KNOWN.items() if key in page.metadata}
    if seen := page.metadata.get("seen"):
        rows["Images seen in pre-training"] = str(len(seen.split(",")))
    own = page.card.facts if page.card else {}
    rows |= {_KNOWN.get(key, key.replace("_", " ")): value for key, value in own.items() if key != "run"}
    return rows | {key.replace("_", " "): f"{value:.4g}" for key, value in page.metrics.items()}


def _json(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "not set" if value is None else str(value)


def _cell(text: object) -> str:
    return " ".join(str(text).replace("|", "\\|").split())


def _table(rows: Mapping[str, str]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""
