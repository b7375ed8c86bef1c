"""What nodes are called where a person reads of them."""

from __future__ import annotations

from typing import Any


def titleOf(node: Any) -> str:
    """The node's name, or what it is in Slicer's words where it has none: "Volume", "Segmentation"."""
    name: str = (node.GetName() or "").strip()
    return name or node.GetNodeTagName() or "node"


def uniqueName(scene: Any, name: str) -> str:
    """``name``, with a number after it where a node has that name already."""
    number, made = 2, name
    while scene.GetFirstNodeByName(made) is not None:
        number, made = number + 1, f"{name} {number}"
    return made
