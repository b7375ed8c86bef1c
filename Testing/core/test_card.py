"""Jobs on an accelerator, without one: see `card.py`. A process of their own alone has this kind of device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices made in Python",
)
def test_jobs_on_a_card_are_those_of_the_processor():
    here = Path(__file__).parent
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(here / "card_jobs.py")]
    done = subprocess.run(words, cwd=here.parents[1], capture_output=True, encoding="utf-8", errors="replace")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
