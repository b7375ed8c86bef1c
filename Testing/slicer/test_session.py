"""The session of a user, by hand, in the host; run_in_slicer.py does the same steps in a real Slicer."""

from __future__ import annotations

import pytest
import session
import session_safe
from conftest import MODULE, failOnFaults


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
