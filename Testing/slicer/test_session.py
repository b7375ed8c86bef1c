"""The session of a user, by hand, in the host; run_in_slicer.py does the same steps in a real Slicer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import session
import session_safe
from grounds import HERE, MODULE, failOnFaults


class Live:
    """The host of the moment: it is replaced when Slicer is opened anew."""

    def __init__(self, make) -> None:
        self._make, self.current = make, make()

    app = property(lambda self: self.current.app)
    failures = property(lambda self: self.current.failures)

    def opened(self):
        """The module's widget, loaded where it is not, and entered."""
        loaded = self.app.moduleManager().module("VoCoSlicer")
        widget = loaded.widgetRepresentation().self() if loaded else self.current.loadModule(MODULE)
        widget.parent.resize(560, 1400)
        widget.parent.show()
        self.current.enter("VoCoSlicer")
        return widget

    def left(self) -> None:
        """Another module."""
        self.current.exit("VoCoSlicer")

    def restarted(self):
        """Slicer closed and opened again."""
        self.current.close()
        failOnFaults(self.current)
        self.current = self._make()
        return self.opened()

    def reloaded(self):
        """The module read again, in the same Slicer."""
        self.current.reload("VoCoSlicer")
        return self.opened()


@pytest.fixture
def live(slicerHost):
    live = Live(slicerHost)
    yield live
    live.current.close()
    failOnFaults(live.current)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_whole_session(tmp_path, live):
    """Sample, preview, drag, pre-train, plot, stop, restart, resume, fine-tune, predict, save and load."""
    session.Stage(live, live.opened, live.left, live.restarted, tmp_path / "session").run(session.STEPS)


@pytest.mark.parametrize("step", session_safe.STEPS, ids=lambda step: step.__name__)
def test_nothing_hurts(tmp_path, live, step):
    stage = session.Stage(live, live.opened, live.left, live.reloaded, tmp_path / "session")
    stage.open()
    stage.run([step])


DRIVER = """
import runpy, sys
sys.path.insert(0, {here!r})
from host import Host
host = Host(mainWindow={window})
host.loadModule({module!r})
import made_scene, session, slicer
made_scene.volume(slicer.mrmlScene, made_scene.noise((8, 8, 8)), "of the user")
def breaks(stage):
    raise ValueError("on purpose")
session.STEPS = session.STEPS[:2] + (session.chooseSample, session.previewCrops) + ((breaks,) if {broken} else ())
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.parametrize(("broken", "window"), [(False, True), (True, True), (False, False)])
@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="there is no other Python than that of the tests")
def test_the_script_for_a_real_slicer_says_how_it_went(tmp_path, broken, window):
    """It is played in the host, with and without a main window, and with a Python for the jobs that has no torch: those
    steps are left out, and said so.
    """
    script = HERE / "run_in_slicer.py"
    words = {"here": str(HERE), "module": str(MODULE), "script": str(script)}
    driver = DRIVER.format(**words, broken=broken, window=window)
    environ = {
        **os.environ,
        "VOCO_PYTHON": sys._base_executable,
        "VOCO_TEST_PICTURES": str(tmp_path / "pictures"),
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", driver], env=environ, capture_output=True, text=True, cwd=tmp_path, timeout=600
    )
    assert done.returncode == (1 if broken else 0), done.stdout + done.stderr
    lines = done.stdout.splitlines()
    passed = [line.split()[1] for line in lines if line.startswith("passed")]
    first = ["openEverySection", "jobsAreNone", "chooseSample", "previewCrops"]
    assert passed == [*first, *[step.__name__ for step in session_safe.STEPS]]
    assert ("FAILED  breaks" in lines, lines[-1]) == (broken, f"result: {'FAILED' if broken else 'passed'}")
    assert len(list(tmp_path.glob("VoCo-test-*"))) == broken
    if broken:
        assert "on purpose" in done.stderr and (tmp_path / "pictures" / "failed-breaks.png").is_file()
