"""What the tests share: the optional folder of real volumes and reference numbers, and what Slicer's tests need."""

import os
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

# Which CUDA cards were to be seen before they were hidden: `auto` must mean the processor in every test.
# test_gpu.py shows them again to a process of its own, which finds this set.
if "VOCO_TEST_GPUS" not in os.environ:
    os.environ["VOCO_TEST_GPUS"] = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

PROJECT_ROOT = Path(__file__).resolve().parents[1]
# What Qt asks of Linux -> the package of Debian and Ubuntu that has it.
PACKAGES = {
    "libEGL": "libegl1",
    "libGL": "libgl1",
    "libxkbcommon": "libxkbcommon0",
    "libfontconfig": "libfontconfig1",
    "libfreetype": "libfreetype6",
    "libdbus-1": "libdbus-1-3",
    "libglib-2.0": "libglib2.0-0",
    "libgthread-2.0": "libglib2.0-0",
}
WITHOUT_SLICER = {"test_packaging.py"}
# They take minutes, mostly waiting: begun first, they leave no test process alone with one of them at the end.
LONG = {"test_kills.py", "test_session.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the order within files, and of all others, stays."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder `shared/data`: under VOCO_SHARED, or beside the project; skips where there is none."""
    shared = Path(os.environ.get("VOCO_SHARED") or PROJECT_ROOT.parent / "shared")
    if not (shared / "data").is_dir():
        pytest.skip(f"no shared data in {shared} (set VOCO_SHARED to the folder that holds data/)")
    return shared / "data"


@cache
def missing_for_slicer() -> str:
    """Why the tests of the Slicer module cannot run on this machine; empty where they can."""
    for name in ("slicer", "PySide6.QtWidgets", "PySide6.QtUiTools"):
        try:
            import_module(name)
        except ImportError as error:
            library = str(error).split(":")[0]
            package = PACKAGES.get(library.split(".so")[0])
            advice = f" (install the package {package})" if package else ""
            return f"the Slicer module's tests need {name}: {error}{advice}"
    return ""


class LeftOut(pytest.Module):
    """A test file that this machine cannot run; it says so when it is collected."""

    def collect(self):
        pytest.skip(missing_for_slicer(), allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip the files of Testing/slicer, with the reason, where Slicer's core or Qt cannot be imported."""
    slicers = module_path.parent.name == "slicer" and module_path.name not in WITHOUT_SLICER
    if slicers and missing_for_slicer():
        return LeftOut.from_parent(parent, path=module_path)
    return None
