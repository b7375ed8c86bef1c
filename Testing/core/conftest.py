"""A small synthetic cohort that the tests of training share."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from VoCoCore.data.phantom import make_cohort
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.presets import resolve_pretrain
from VoCoCore.protocols import resolve_finetune
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.settings import PretrainSettings
from VoCoCore.training.pretrain import pretrain

# Started in the background by a shell, the tests would hand on an ignored Ctrl-C to the jobs that they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A network of seconds: four base crops of 32^3, four channels.
SMALL = {
    "preset": "tiny",
    "model.encoder": "unet",
    "model.feature_size": 4,
    "model.projector_width": 16,
    "crops.counts": "2,2,1",
    "optim.steps": 6,
    "optim.warmup": 1,
    "data.val_fraction": 0.3,
    "run.log_every": 1,
    "run.validate_every": 3,
    "run.validation_rounds": 1,
    "run.checkpoint_every": 3,
    "run.threads": 1,
    "data.workers": 0,
}


@dataclass(frozen=True)
class SmallCohort:
    """Where it lies; ``settings`` gives those of a small job on it, with changes by dotted name."""

    source: Path
    store: Path

    def settings(self, recipe: str = "paper", **changes: Any) -> PretrainSettings:
        places = {"data.source": str(self.source), "data.store": str(self.store)}
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return resolve_pretrain({}, {**SMALL, "recipe": recipe, **places, **named})


@pytest.fixture(scope="session")
def small_cohort(tmp_path_factory) -> SmallCohort:
    """Six synthetic cases of about 40 x 40 x 24 voxels."""
    root = tmp_path_factory.mktemp("cohort")
    return SmallCohort(make_cohort(root / "cases", cases=6, size=(40, 40, 24), labels=False), root / "store")


# A segmentation network of seconds.
SMALL_FINETUNE = {
    "model.encoder": "unet",
    "model.feature_size": 4,
    "patches.size": "32,32,32",
    "prepare.spacing": "8,8,10",
    "optim.steps": 6,
    "optim.batch": 2,
    "patches.per_case": 1,
    "data.val_fraction": 0.34,
    "run.log_every": 1,
    "run.validate_every": 3,
    "run.checkpoint_every": 3,
    "run.threads": 1,
    "data.workers": 0,
}


@dataclass(frozen=True)
class LabelledCohort:
    """Where labelled cases lie; ``settings`` gives those of a small fine-tuning on them."""

    source: Path
    store: Path

    def settings(self, **changes: Any) -> FinetuneSettings:
        places = {"data.source": str(self.source), "data.store": str(self.store)}
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return resolve_finetune({}, {**SMALL_FINETUNE, **places, **named})


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
