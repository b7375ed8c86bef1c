"""What the tests of the Slicer module share: a real scene without Qt (ring 1), and the whole host (ring 2)."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FORBIDDEN = ("torch", "monai", "nibabel")  # in Slicer's process never

# The package slicer of slicer-core takes every folder "slicer" below an entry of sys.path for a part of itself and
# imports all its files: this one too, where pytest has put Testing/ on the path for the sake of Testing/conftest.py.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE.parent]
for folder in (HERE, ROOT / "VoCoSlicer"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from grounds import MODULE, failOnFaults  # noqa: E402  found by the path above


def missing(*names: str) -> str:
    """Which of the packages are not installed, as a reason to skip; "" if all are there."""
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    packages = {"slicer_core": "slicer-core", "PySide6": "PySide6-Essentials"}
    return f"not installed: {', '.join(packages.get(name, name) for name in absent)}" if absent else ""


def isLibrary(name: str) -> bool:
    """Whether a module of Python is of ours; a host reads them anew."""
    return name.split(".")[0] in ("VoCoSlicer", "VoCoSlicerLib")


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Runs known, stores and the jobs' Python of a test are its own."""
    monkeypatch.setenv("VOCO_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("VOCO_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("VOCO_PYTHON", sys.executable)
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))


@pytest.fixture
def noTorch(monkeypatch):
    """Importing torch fails, also where an earlier test of this process has imported it already."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture
def scene(tmp_path, monkeypatch, noTorch):
    """A real scene as Slicer's after its start, in ``slicer.mrmlScene``; importing qt or ctk fails meanwhile."""
    if missing("slicer_core"):
        pytest.skip(missing("slicer_core"))
    from host.scene import SceneSetup, i18n

    for name in ("qt", "ctk"):
        monkeypatch.setitem(sys.modules, name, None)
    import slicer

    monkeypatch.setitem(sys.modules, "slicer.i18n", i18n())
    monkeypatch.setattr(slicer, "i18n", sys.modules["slicer.i18n"], raising=False)
    (tmp_path / "bundles").mkdir()
    setup = SceneSetup(str(tmp_path / "bundles"))
    yield setup.scene
    setup.close()


@pytest.fixture
def preview(scene):
    """A preview of a small volume in ``scene``, which a file may make by itself; it is off."""
    from preview_scene import chosen, torso

    from VoCoSlicerLib.preview import CropPreview

    made = CropPreview(scene)
    made.setVolume(torso(scene))
    made.setSettings(chosen())
    yield made
    made.cleanup()


@pytest.fixture
def slicerHost(tmp_path, noTorch):
    """Makes hosts that share one folder of settings, as one installation of Slicer does, one after the other."""
    if missing("slicer_core", "PySide6"):
        pytest.skip(missing("slicer_core", "PySide6"))
    from host import Host

    made = []
    # Tests of other files hold on to what they have imported, and put faults into it by its name.
    before = {name: module for name, module in sys.modules.items() if isLibrary(name)}

    def make(mainWindow=True):
        made.append(Host(tmp_path / "slicer", mainWindow))
        made[-1].answers.clear()
        return made[-1]

    yield make
    for one in made:
        one.close()
    for name in [name for name in sys.modules if isLibrary(name)]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def host(slicerHost):
    """The host, without the module; ``host.loadModule(MODULE)`` loads it. Fails on errors that nobody could catch."""
    before = set(sys.modules)
    application = slicerHost()
    yield application
    loaded = [name for name in FORBIDDEN if name in sys.modules and name not in before]
    application.close()
    failOnFaults(application)
    assert not loaded, f"imported in Slicer's process: {loaded}"


@pytest.fixture
def voco(host, monkeypatch):
    """The module's widget in the host, loaded and entered; its table of jobs takes the time that it needs, whatever
    else this machine does."""
    widget = host.loadModule(MODULE)
    for limit in ("BUDGET", "LONGEST"):
        monkeypatch.setattr(f"VoCoSlicerLib.jobs.{limit}", 60.0)
    widget.parent.resize(560, 900)
    widget.parent.show()
    host.enter("VoCoSlicer")
    return widget


@pytest.fixture
def hand(voco, host, request):
    """A hand at the module's controls; the section is open that the test's file names as ``SECTION``."""
    from hand import Hand

    hand = Hand(voco.parent, host)
    hand.open(f"{request.module.SECTION}Section")
    return hand


@pytest.fixture
def panel(voco, hand, request):
    """The panel of that section."""
    return voco.panel(request.module.SECTION)
