"""All ranks go on from the checkpoint that the first one chose, whatever their disks show them."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from VoCoCore.errors import DataError
from VoCoCore.training.checkpoint import MANIFEST, MODEL, checkpoints
from VoCoCore.training.resuming import chosen_checkpoint


class TwoRanks:
    """The sum over two threads, in place of two processes."""

    def __init__(self) -> None:
        self.told: list[torch.Tensor] = []
        self.barrier = Barrier(2, timeout=20)

    def sum(self, numbers):
        self.told.append(numbers)
        self.barrier.wait()
        return sum(self.told)


def both(first, other):
    """What the two ranks choose, or the error, when they see these folders."""
    ranks = TwoRanks()

    def ask(folder, is_first):
        try:
            return chosen_checkpoint(folder, ranks, is_first)
        except DataError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(ask, (first, other), (True, False)))


@pytest.fixture
def two_views(stopped_run, tmp_path):
    """The folder of checkpoints as each of two machines sees it."""
    other = tmp_path / "other" / "checkpoints"
    shutil.copytree(stopped_run.checkpoints, other)
    return stopped_run.checkpoints, other


def test_a_rank_that_sees_a_newer_one_still_takes_the_first_ones_choice(two_views):
    first, other = two_views
    older, newer = checkpoints(first)[-2:]
    shutil.rmtree(newer)
    assert both(first, other) == [(older, []), (other / older.name, [])]


def test_damage_that_the_first_rank_sees_counts_for_all(two_views):
    first, other = two_views
    older, newer = checkpoints(first)[-2:]
    (newer / MODEL).write_bytes(b"")
    assert both(first, other) == [(older, [newer]), (other / older.name, [])]


@pytest.mark.parametrize("sees", ["nothing", "no manifest", "an empty model", "another run's"])
def test_a_rank_that_does_not_see_the_chosen_one_never_begins_at_step_0(two_views, sees):
    first, other = two_views
    newer = other / checkpoints(first)[-1].name
    if sees == "nothing":
        shutil.rmtree(other)
    elif sees == "no manifest":
        (newer / MANIFEST).unlink()
    elif sees == "an empty model":
        (newer / MODEL).write_bytes(b"")
    else:
        manifest = json.loads((newer / MANIFEST).read_text())
        (newer / MANIFEST).write_text(json.dumps({**manifest, "best": "of another"}))
    (chosen, _), error = both(first, other)
    assert chosen == checkpoints(first)[-1]
    assert isinstance(error, DataError) and "does not see the checkpoint" in str(error)


def test_no_whole_one_is_an_error_on_every_rank(two_views):
    first, other = two_views
    for path in checkpoints(first):
        (path / MODEL).unlink()
    assert all(isinstance(e, DataError) and "is whole" in str(e) for e in both(first, other))


def test_without_any_all_begin_at_step_0(two_views):
    first, other = two_views
    shutil.rmtree(first)
    assert both(first, other) == [(None, []), (None, [])]
