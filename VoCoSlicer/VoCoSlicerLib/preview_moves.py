"""Views that the preview moves to its grid, each once, and moves back where their users left them there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from VoCoSlicerLib.preview_nodes import nodesByClass


class Moves(ABC):
    """Moves nodes of class ``kind`` and remembers the places of their users; what a place is a subclass says."""

    kind: str

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        # By node: the place of its user, and the one that it was moved to.
        self._moved: dict[str, tuple[Any, Any]] = {}
        self._known: set[str] = set()

    @abstractmethod
    def placeOf(self, node: Any) -> Any:
        """Where a node is."""

    @abstractmethod
    def put(self, node: Any, place: Any) -> None:
        """Move a node to a place."""

    def isAt(self, node: Any, place: Any) -> bool:
        """Whether nobody has moved a node from a place."""
        return bool(self.placeOf(node) == place)

    def newNodes(self) -> Iterator[Any]:
        """The nodes that no call has given before: where their users go from there they stay. Move them or not."""
        for node in nodesByClass(self._scene, self.kind):
            if node.GetID() not in self._known:
                self._known.add(node.GetID())
                before = self.placeOf(node)
                yield node
                if self.placeOf(node) != before:
                    self._moved[node.GetID()] = before, self.placeOf(node)

    def restore(self) -> None:
        """Take the nodes back that are still where they were moved."""
        for nodeId, (before, left) in self._moved.items():
            node = self._scene.GetNodeByID(nodeId)
            if node is not None and self.isAt(node, left):
                self.put(node, before)
        self._moved.clear()
