"""How many processes read volumes: by cores, ranks, and the shared memory that they pass arrays through."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from VoCoCore.data import workers
from VoCoCore.data.loading import ByNumber, Numbers
from VoCoCore.data.workers import PREFETCHED, usual_workers, workers_with_room
from VoCoCore.devices import ranks_here
from VoCoCore.errors import DataError
from VoCoCore.training import attempt
from VoCoCore.training.pretrain import pretrain

HOST, CARD = torch.device("cpu"), torch.device("cuda")


class Made(ByNumber):
    """Samples of 1000 bytes; number 9 is damaged."""

    def sample(self, number):
        if number == 9:
            raise DataError("damaged")
        return {"volumes": torch.from_numpy(np.zeros(900, np.uint8)), "case": torch.zeros(100).byte()}


def test_they_are_as_many_as_this_process_may_use_cores_for_each_rank(monkeypatch):
    monkeypatch.setattr(workers, "usable_cores", lambda: 12)
    assert usual_workers(HOST, 1) == 0 and usual_workers(CARD, 1) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert usual_workers(CARD, ranks_here()) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "many")
    assert ranks_here() == 1 and usual_workers(CARD, 64) == 1


@pytest.mark.parametrize(
    ("free", "ranks", "found"),
    [(10**9, 1, 8), (24_000 * PREFETCHED, 1, 6), (24_000 * PREFETCHED, 2, 3), (1000, 1, 0), (None, 1, 8)],
)
def test_what_each_holds_ready_has_room_in_half_of_the_shared_memory(free, ranks, found, monkeypatch):
    monkeypatch.setattr(workers, "shared_memory_free", lambda: free)
    assert workers_with_room(Made(), Numbers(0, 100, 2), 8, ranks) == found


def test_without_workers_batches_or_a_whole_sample_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(workers, "shared_memory_free", lambda: 1)
    assert workers_with_room(Made(), Numbers(0, 100, 2), 0, 1) == 0
    assert workers_with_room(Made(), Numbers(0, 0, 2), 8, 1) == 8
    assert workers_with_room(Made(), Numbers(9, 10, 1), 8, 1) == 8  # the job says it


def test_a_job_in_a_container_with_little_of_it_says_so_and_goes_on(small_cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "usual_workers", lambda *_: 4)
    monkeypatch.setattr(workers, "shared_memory_free", lambda: 100)
    heard = []
    done = pretrain(
        small_cohort.settings(optim__steps=2, data__workers=None), tmp_path / "run", listeners=[heard.append]
    )
    assert done.finished
    warned = [event for event in heard if event["type"] == "warning"]
    assert any("0 workers read volumes, not 4" in event["message"] for event in warned)
    assert any("--shm-size" in event["hint"] for event in warned)
