"""Which Python runs the background work, and in which environment.

In order: the user's choice, the variable VOCO_PYTHON, Slicer's own (PythonSlicer: a launcher that finds its libraries).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import slicer

VARIABLE = "VOCO_PYTHON"
# How variables begin that a script may set for its jobs: where they and their volumes are, which cards and how many
# threads they take.
_OURS = ("VOCO_", "XDG_CACHE_HOME", "CUDA_", "OMP_", "PYTORCH_")


def slicerHome() -> Path | None:
    """The folder of the running Slicer; None outside the application."""
    application = getattr(slicer, "app", None)
    home = str(getattr(application, "slicerHome", "") or "")
    return Path(home) if home else None


def pythonSlicer() -> str:
    """Slicer's own Python as a program for another process; outside Slicer the Python that runs this."""
    home = slicerHome()
    places = [] if home is None else [str(home / "bin"), str(home)]
    found = shutil.which("PythonSlicer", path=os.pathsep.join(places)) if places else None
    # An application with Python inside may have no program of it: then the name says what is missing.
    return found or shutil.which("PythonSlicer") or sys.executable or "PythonSlicer"


def choosePython(chosen: str = "") -> tuple[str, str]:
    """The Python for the jobs and why that one: ``"chosen"``, ``"VOCO_PYTHON"`` or ``"Slicer"``.

    A bare name such as ``python3`` is looked up on the PATH; of a virtual environment's folder, its Python is taken.
    Whether the file is there is not asked: the probe tells.
    """
    for word, why in ((chosen.strip(), "chosen"), (os.environ.get(VARIABLE, "").strip(), VARIABLE)):
        if word:
            path = _program(Path(os.path.expanduser(word)))
            return (shutil.which(path) or path), why
    return pythonSlicer(), "Slicer"


def _program(path: Path) -> str:
    """The Python of a virtual environment or installation where ``path`` is its folder; else ``path`` as it is."""
    inside = (
        path / "bin" / "python",
        path / "bin" / "python3",
        path / "Scripts" / "python.exe",
        path / "python.exe",
    )
    # Not Path.is_dir: it raises for a folder that may not be opened or a server that is gone, and then the section
    # Environment, where another Python could be chosen, would not open.
    return str(next(filter(os.path.isfile, inside), path) if os.path.isdir(path) else path)


def isExternal(python: str | Path) -> bool:
    """Whether ``python`` is another one than Slicer's, and so needs an environment without Slicer's libraries."""
    path, home = Path(os.path.abspath(python)), slicerHome()
    if home is not None and path.is_relative_to(home):
        return False
    return path != Path(os.path.abspath(pythonSlicer()))


def environOf(python: str | Path) -> dict[str, str] | None:
    """The environment in which ``python`` must start; None for this process's own.

    Inside Slicer, another Python would find Slicer's libraries before its own, so that it gets what the environment was
    before Slicer started, with the variables for jobs that a script has set since.
    """
    if getattr(slicer, "app", None) is None or not isExternal(python):
        return None
    before = {str(name): str(value) for name, value in slicer.util.startupEnvironment().items()}
    ours = {name: value for name, value in os.environ.items() if name.startswith(_OURS)}
    return before | ours
