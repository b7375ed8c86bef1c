"""What the tests share: the optional folder of real volumes and reference numbers."""

import os
from pathlib import Path

import pytest

PROJECT_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder `shared/data`: under VOCO_SHARED, or beside the project; skips where there is none."""
    shared = Path(os.environ.get("VOCO_SHARED") or PROJECT_ROOT.parent / "shared")
    if not (shared / "data").is_dir():
        pytest.skip(f"no shared data in {shared} (set VOCO_SHARED to the folder that holds data/)")
    return shared / "data"
