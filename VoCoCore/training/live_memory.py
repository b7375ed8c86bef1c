"""The most memory that tensors held at one time while some code ran, on any device."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LivePeak(TorchDispatchMode):
    """As a context: follows every tensor that an operation makes until it is freed; ``peak`` is in bytes.

    Tensors in ``known`` do not count. What operations need inside, such as the workspace of a convolution, is not seen.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.peak = 0
        self._held = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        # By storage: what tells of its end, and its bytes. Asking all of them after each operation took most of the
        # time of a transformer, which has tens of thousands.
        self._alive: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry the operation out and count what it made."""
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf.untyped_storage())
        self.peak = max(self.peak, self._held)
        return made

    def _follow(self, storage: torch.UntypedStorage) -> None:
        at, size = storage._cdata, storage.nbytes()
        if at in self._known:
            return
        if at in self._alive:
            end, before = self._alive[at]
        else:
            # Python's object of a storage lives as long as the storage itself.
            end, before = weakref.ref(storage, lambda _: self._forget(at)), 0
        self._alive[at] = end, size
        self._held += size - before

    def _forget(self, at: int) -> None:
        self._held -= self._alive.pop(at)[1]
