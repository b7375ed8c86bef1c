"""A host that runs the real module without Slicer's desktop: its core (slicer-core) and PySide6, made strict.

`Host()` puts `qt`, `ctk`, `slicer.app` and the rest in place; `loadModule(path)` does what Slicer's factory does;
`close()` takes everything away again. What it offers is what PythonQt and Slicer offer, or less, never more.
"""

from __future__ import annotations

from .host import Host

__all__ = ["Host"]
