"""Jobs killed with SIGKILL at random moments and gone on with end in the same bits as one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kills import ENCODERS, RECIPES, all_combinations, differences
from nursery import ENVIRONMENT, ROOT

from VoCoCore.runs.directory import RunDirectory

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="forks"),
    pytest.mark.timeout(900),  # whichever test comes first waits for all kills
]

# (recipe, encoder): kills and steps. Twelve steps are four checkpoints, with a validation between two of them.
# Swin-UNETR's inputs are at least 64^3, so a step of it takes seconds: one recipe and two steps here, all of them and
# twenty in kills.py.
PLAN = {(recipe, encoder): (3, 12) for encoder in ENCODERS[:2] for recipe in RECIPES}
PLAN |= {("v1", "unet"): (4, 12), ("v1", "swin_unetr"): (1, 2)}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """All kills, two jobs at a time; a failure shows the seed."""
    seed = random.randrange(10**6)
    made = all_combinations(tmp_path_factory.mktemp("kills"), PLAN, seed)
    return seed, {outcome.name: outcome for outcome in made}


def test_twenty_moments_are_tried(outcomes):
    assert sum(outcome.kills for outcome in outcomes[1].values()) == 20


@pytest.mark.parametrize(("recipe", "encoder"), PLAN)
def test_a_killed_job_goes_on_to_the_same_bits(recipe, encoder, outcomes):
    seed, made = outcomes
    outcome = made[f"{encoder}, {recipe}"]
    assert outcome.kills == PLAN[recipe, encoder][0]
    assert not outcome.differences, f"seed {seed}, killed at {outcome.moments} of the run"


def voco(*words, **options):
    """The command line as a user calls it, in a process of its own."""
    words = [sys.executable, "-m", "VoCoCore", "pretrain", *map(str, words)]
    return subprocess.Popen(words, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, text=True, **options)


def wait_for_step(run: RunDirectory, step: int) -> None:
    give_up = time.monotonic() + 120
    while (status := run.read_status()) is None or status.step < step:
        assert time.monotonic() < give_up, "the job did not come so far"
        time.sleep(0.005)


@pytest.mark.usefixtures("own_config")
def test_through_the_command_line_after_a_kill_an_interrupt_and_a_signal_of_the_cluster(
    small_cohort, tmp_path
):
    """Three ways to end a job before its time; each time it is gone on with, and the bits are those of one run."""
    settings = ["--config", tmp_path / "settings.json", "--data", small_cohort.source]
    settings += ["--store", small_cohort.store]
    changes = {"optim__steps": 36, "run__validate_every": 15, "run__checkpoint_every": 4, "data__workers": 1}
    RunDirectory(tmp_path).write_json("settings.json", small_cohort.settings("v1", **changes).to_dict())
    assert voco(*settings, "--run", tmp_path / "whole", stdout=subprocess.DEVNULL).wait(120) == 0
    run, words = RunDirectory(tmp_path / "run"), [*settings, "--run", tmp_path / "run"]

    job = voco(*words, stdout=subprocess.DEVNULL)
    wait_for_step(run, 6)
    job.kill()
    assert job.wait(60) == -signal.SIGKILL and run.state() == "lost"

    words = ["--run", tmp_path / "run", "--resume"]
    for number, step in ((signal.SIGINT, 15), (signal.SIGUSR1, 24)):
        # A terminal's Ctrl-C reaches the workers too: so does this, in a process group of their own.
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        job = voco(*words, start_new_session=True, **pipes)
        wait_for_step(run, step)
        os.killpg(job.pid, number)
        _, said = job.communicate(timeout=60)
        assert job.returncode == 5 and run.state() == "stopped", said
        assert said.count("voco: stopped: at step") == 1 and "--resume goes on" in said
    assert voco(*words, stdout=subprocess.DEVNULL).wait(120) == 0
    assert not list(differences(Path(tmp_path / "whole"), run.path))
