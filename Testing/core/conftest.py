"""A small synthetic cohort that the tests of training share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from made_cohorts import LabelledCohort, SmallCohort

from VoCoCore.data.phantom import make_cohort
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.training.pretrain import pretrain

# Started in the background by a shell, the tests would hand on an ignored Ctrl-C to the jobs that they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def small_cohort(tmp_path_factory) -> SmallCohort:
    """Six synthetic cases of about 40 x 40 x 24 voxels."""
    root = tmp_path_factory.mktemp("cohort")
    return SmallCohort(make_cohort(root / "cases", cases=6, size=(40, 40, 24), labels=False), root / "store")


@pytest.fixture(scope="session")
def labelled_cohort(tmp_path_factory) -> LabelledCohort:
    """Six labelled synthetic cases of about 40 x 40 x 24 voxels."""
    root = tmp_path_factory.mktemp("labelled")
    return LabelledCohort(make_cohort(root / "cases", cases=6, size=(40, 40, 24)), root / "store")


@pytest.fixture
def own_config(tmp_path, monkeypatch):
    """Runs known to the user who tests stay as they are."""
    monkeypatch.setenv("VOCO_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def stopped_run(small_cohort, tmp_path):
    """A run with checkpoints of steps 1 and 2, and what it was started with."""
    settings = small_cohort.settings(optim__steps=4, run__checkpoint_every=1)
    events = []
    pretrain(
        settings,
        tmp_path / "run",
        listeners=[events.append],
        should_stop=lambda: any(event["type"] == "checkpoint" for event in events),
    )
    return RunDirectory(tmp_path / "run")


def pytest_sessionfinish(session) -> None:
    """Leave the list of faults where it was asked for; a worker of pytest-xdist hands its part to its master."""
    import faults

    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = faults.met
    elif wanted := os.environ.get("VOCO_FAULT_LIST"):
        faults.write_list(Path(wanted))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    """Collect what a worker of pytest-xdist met."""
    import faults

    faults.met.update(getattr(node, "workeroutput", {}).get("faults", {}))
