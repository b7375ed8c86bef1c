"""The module `ctk`: the stand-ins that the host has."""

from __future__ import annotations

import types


class CtkModule(types.ModuleType):
    """`ctk` of the host; a class without stand-in is refused."""

    def __getattr__(self, name: str):
        raise AttributeError(f"the host has no stand-in for ctk.{name}")


def make() -> CtkModule:
    """The module."""
    from . import ctk_boxes, ctk_numbers
    from .uiloader import STAND_INS

    module = CtkModule("ctk")
    for source in (ctk_boxes, ctk_numbers):
        for name in STAND_INS:
            if hasattr(source, name):
                setattr(module, name, STAND_INS[name])
    return module
