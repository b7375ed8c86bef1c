"""What a run was made with: versions, without the name of a person, a machine or a folder.

Versions come from the packages' metadata; nothing is imported to learn its own.
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from VoCoCore import __version__

PACKAGES = (
    "torch",
    "monai",
    "numpy",
    "scipy",
    "zarr",
    "nibabel",
    "SimpleITK",
    "safetensors",
    "psutil",
    "isal",
    "matplotlib",
)


def environment() -> dict[str, Any]:
    """Return the versions of VoCoCore, Python, the system and the packages (None: not installed).

    The job adds what it knows itself: device, fingerprint of the data, parent weights.
    """
    return {
        "vococore": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "machine": platform.machine(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
