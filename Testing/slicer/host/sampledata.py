"""A stand-in for Slicer's module SampleData: keeps what is registered, and loads what lies on disk already."""

from __future__ import annotations

import types
from typing import ClassVar


class SampleDataLogic:
    """Registered sources are in `sources`, as dictionaries of the arguments given."""

    sources: ClassVar[list[dict]] = []

    @classmethod
    def registerCustomSampleDataSource(cls, **source) -> None:
        """Remember a source."""
        cls.sources.append(source)


def makeModule():
    """The module `SampleData`, with nothing registered."""
    module = types.ModuleType("SampleData")
    SampleDataLogic.sources = []
    module.SampleDataLogic = SampleDataLogic
    return module
