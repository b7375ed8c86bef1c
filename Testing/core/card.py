"""An accelerator that is not there: tensors that say they lie on a card, and are computed on the processor.

With it whole jobs run as on a GPU. What a GPU refuses is refused: an operation over tensors of the card and of the
host, and a numpy array of a tensor on the card. What makes the host wait for all of a GPU's work is counted: values
that are read, and copies that do not say ``non_blocking``.
"""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "card"
READS = {"_local_scalar_dense", "nonzero", "equal", "masked_select"}


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend(NAME, _Backend())
DEVICE = torch.device(NAME, 0)


class _Generator(torch.Generator):
    """The card's random numbers are those of the host."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls, "cpu" if on_card(device) else device)


class OnCard(Tensor):
    """A tensor of the card; ``inner`` has its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnCard:
        facts = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = Tensor._make_wrapper_subclass(cls, inner.size(), device=DEVICE, **facts)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of a Card")

    def __repr__(self) -> str:
        return f"OnCard({self.inner!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("a tensor of the card has to be copied to the host first")

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()


def on_card(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


class Card(TorchDispatchMode):
    """While it is entered there is a card; ``waits`` has a line for each time that the host waited for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __enter__(self) -> Card:
        # Tensors made of numbers are made on the host and sent, which is what happens, and is seen only then.
        torch._C._set_only_lift_cpu_tensors(True)
        torch.Generator = _Generator  # type: ignore[misc]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(False)
        torch.Generator = _Generator.__base__  # type: ignore[misc]
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        here = [t for t in tree_leaves((args, kwargs)) if isinstance(t, OnCard)]
        crosses = name == "copy_" or (name == "_to_copy" and kwargs.get("device") is not None)
        to_card = on_card(kwargs["device"]) if kwargs.get("device") is not None else bool(here)
        if name == "copy_":
            to_card = isinstance(args[0], OnCard)
        if crosses:
            self._see_copy(name, args, kwargs, to_card)
        elif here:
            _refuse_mixed(name, tree_leaves((args, kwargs)))
        if name in READS and here:
            self._wait(name)
        if on_card(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
        known = {id(tensor.inner): tensor for tensor in here}
        args, kwargs = tree_map_only(OnCard, lambda tensor: tensor.inner, (args, kwargs))
        out = func(*args, **kwargs)
        return tree_map_only(Tensor, lambda t: _shown(t, known), out) if to_card else out

    def _see_copy(self, name: str, args: Any, kwargs: dict[str, Any], to_card: bool) -> None:
        source = args[1] if name == "copy_" else args[0]
        free = kwargs.pop("non_blocking", False) or (name == "copy_" and len(args) > 2 and args[2])
        if isinstance(source, OnCard) != to_card and not (free and to_card):
            self._wait("copy to the card" if to_card else "copy to the host")

    def _wait(self, why: str) -> None:
        frames = [f for f in traceback.extract_stack() if "VoCoCore" in f.filename]
        self.waits.append(" ".join([why, *(f"{f.name}:{f.lineno}" for f in frames[-3:])]))


def _shown(inner: Tensor, known: dict[int, OnCard]) -> OnCard:
    """The card's tensor of these values; what an operation changed in place is the one that it was."""
    return known[id(inner)] if id(inner) in known else OnCard(inner)


def _refuse_mixed(name: str, given: list[Any]) -> None:
    host = [t for t in given if isinstance(t, Tensor) and not isinstance(t, OnCard) and t.ndim]
    if host:
        raise RuntimeError(f"{name}: tensors on the card and one {tuple(host[0].shape)} on the host")
