"""Jobs on a CUDA card, where there is one; all other tests compute on processors (`Testing/conftest.py`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    torch.version.cuda is None and torch.version.hip is None, reason="this torch was built for no GPU"
)
def test_jobs_on_a_gpu_are_those_of_the_processor():
    shown = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    if (hidden := os.environ["VOCO_TEST_GPUS"]) != "all":
        shown["CUDA_VISIBLE_DEVICES"] = hidden
    asked = "from VoCoCore.devices import available; print('cuda' in available())"
    there = subprocess.run([sys.executable, "-c", asked], env=shown, capture_output=True, encoding="utf-8")
    if there.stdout.strip() != "True":
        pytest.skip("no GPU here")
    here = Path(__file__).parent
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "1500"]
    done = subprocess.run(
        [*words, str(here / "gpu_jobs.py")],
        cwd=here.parents[1],
        env=shown,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
