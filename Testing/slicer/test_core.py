"""Which trainer the module takes: its own, whatever else is installed."""

from __future__ import annotations

import os
import subprocess
import sys

from grounds import MODULE, ROOT


def test_another_copy_of_the_trainer_is_never_taken(tmp_path):
    other = tmp_path / "VoCoCore"
    other.mkdir()
    (other / "__init__.py").write_text("raise RuntimeError('the other copy')")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(MODULE.parent)!r}]; "
        "import VoCoSlicerLib, VoCoCore; print(VoCoCore.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout.strip() == str(ROOT / "VoCoCore" / "__init__.py"), done.stderr
