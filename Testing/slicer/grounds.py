"""Where the tests of the module stand, and what none of them lets pass."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODULE = ROOT / "VoCoSlicer" / "VoCoSlicer.py"


def failOnFaults(application) -> None:
    """Fail on what went wrong where nobody could catch it, and on answers that nobody asked for."""
    failed, unused = application.failures.take(), application.answers.unused
    assert not failed, "failed where nobody could catch it:\n" + "\n".join(failed)
    assert not unused, f"answers that nobody asked for: {unused}"
