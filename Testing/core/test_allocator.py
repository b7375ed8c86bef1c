"""Memory that is freed stays with the process for the length of a block, also of one that lies within another."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from VoCoCore.inference import allocator
from VoCoCore.inference.allocator import kept_memory
from VoCoCore.training.loop import run_steps


@pytest.fixture
def kept(monkeypatch):
    """The largest piece of memory that is not asked of the system by itself, as glibc was told last."""
    told = []
    library = SimpleNamespace(
        mallopt=lambda name, value: told.append(value) if name == allocator._MAPPED else None,
        malloc_trim=lambda _: None,
    )
    monkeypatch.setattr(allocator, "_library", lambda: library)
    return lambda: told[-1] == 1 << 30 if told else False


def test_a_block_within_a_block_does_not_end_it(kept):
    with kept_memory():
        assert kept()
        with kept_memory():
            assert kept()
        assert kept()
    assert not kept()


def test_a_block_that_fails_ends(kept):
    with pytest.raises(ValueError, match="x"), kept_memory():
        raise ValueError("x")
    assert not kept()


def test_training_keeps_it(kept):
    seen = []
    job = SimpleNamespace(
        start=1,
        steps=1,
        ended=True,
        owed=False,
        optim=SimpleNamespace(warmup=0, lr=1.0),
        model=SimpleNamespace(train=lambda: seen.append(kept())),
    )
    assert run_steps(job) == (1, True)
    assert seen == [True] and not kept()
