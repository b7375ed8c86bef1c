"""A stand-in for Slicer's module SampleData: keeps what is registered, and loads what lies on disk already."""

from __future__ import annotations

import types
from typing import ClassVar


class SampleDataLogic:
    """Registered sources are in `sources`, as dictionaries of the arguments given.

    What Slicer 5.10 does not know, or takes with a warning to come (``loadFileType``), is refused.
    """

    sources: ClassVar[list[dict]] = []
    LISTS = ("uris", "fileNames", "nodeNames", "checksums", "loadFiles", "loadFileTypes")
    OTHERS = ("category", "sampleName", "customDownloader", "thumbnailFileName", "loadFileProperties")

    @classmethod
    def registerCustomSampleDataSource(cls, **source) -> None:
        """Remember a source, with lists of one length."""
        if unknown := source.keys() - {*cls.LISTS, *cls.OTHERS}:
            raise TypeError(f"sample data sources have no {', '.join(sorted(unknown))}")
        if len({len(source[name]) for name in cls.LISTS if source.get(name) is not None}) > 1:
            raise ValueError("All fields of sample data source must have the same length")
        cls.sources.append(source)


def makeModule():
    """The module `SampleData`, with nothing registered."""
    module = types.ModuleType("SampleData")
    SampleDataLogic.sources = []
    module.SampleDataLogic = SampleDataLogic
    return module
