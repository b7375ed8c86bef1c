"""Find the trainer that belongs to this module, and let Slicer's process import its light part.

VoCoCore lies beside VoCoSlicer.py once the extension is installed, and one level up in a checkout. A copy that was
pip-installed somewhere is never used: panels and jobs must speak the same version.
"""

from __future__ import annotations

import sys
from pathlib import Path

MODULE_FOLDER = Path(__file__).resolve().parents[1]


class CoreMissing(ImportError):
    """No VoCoCore beside this module; the message says where it was looked for."""


def coreFolder(module: Path = MODULE_FOLDER) -> Path:
    """The folder that holds VoCoCore/ for the module in ``module``. Raises CoreMissing where there is none."""
    for folder in (module, module.parent):
        if (folder / "VoCoCore" / "__init__.py").is_file():
            return folder
    raise CoreMissing(
        f"VoCoCore was found neither in {module} nor in {module.parent}; "
        "install the VoCo extension again, or add the folder VoCoSlicer of a whole checkout as module path"
    )


def useCore() -> Path:
    """Put the folder of `coreFolder` first on ``sys.path``, once, and return it."""
    folder = coreFolder()
    sys.path[:] = [str(folder), *(path for path in sys.path if path != str(folder))]
    return folder
