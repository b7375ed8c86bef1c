"""Run a function over many items in worker processes, and survive what one item does to its worker.

Workers are started fresh ("spawn", as on Windows) and get one item at a time through a pipe. Where a worker
dies, its item is reported as lost and a new worker takes over; nothing else is lost.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

MOST = 60 if os.name == "nt" else sys.maxsize  # processes: Windows waits for 63 things at a time


@dataclass(frozen=True)
class Died:
    """Comes back for an item whose worker process ended: its exit code (negative: a signal's number)."""

    exit_code: int | None


def usable_cores() -> int:
    """Processor cores that this process may use; a cluster gives a job a part of a machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_each(
    function: Callable[[Any], Any], items: Sequence[Any], workers: int
) -> Iterator[tuple[int, Any | Died]]:
    """Yield (position, result or Died) for each item, in the order in which they finish.

    ``workers`` 0 works in this process. ``function`` is importable by name and raises nothing; an exception
    in it ends its worker and is reported as Died.
    """
    if workers == 0:
        yield from ((position, function(item)) for position, item in enumerate(items))
        return
    waiting = iter(range(len(items)))
    busy = [_Worker(function) for _ in range(min(workers, len(items), MOST))]
    try:
        for worker in busy:
            worker.take(waiting, items)
        while busy:
            worker = _first_ready(busy)
            position, result = worker.item, worker.result()
            busy.remove(worker)
            if isinstance(result, Died):
                worker = _Worker(function)
            if worker.take(waiting, items):
                busy.append(worker)
            else:
                worker.end()
            yield position, result
    finally:
        for worker in busy:
            worker.end(at_once=True)


def _first_ready(workers: list[_Worker]) -> _Worker:
    """Wait until a worker has an answer or is gone; the one that has worked longest comes first."""
    ready = wait([worker.pipe for worker in workers])
    return next(worker for worker in workers if worker.pipe in ready)


class _Worker:
    """One process, its end of the pipe and the item that it has."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.item = -1
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        with _interrupts_held():
            self.process.start()
        theirs.close()  # else the pipe would not say when the process is gone

    def take(self, waiting: Iterator[int], items: Sequence[Any]) -> bool:
        """Give the worker the next item; False where there is none."""
        self.item = next(waiting, -1)
        if self.item < 0:
            return False
        # A worker that is dead already is noticed when its result is awaited.
        with suppress(OSError):
            self.pipe.send(items[self.item])
        return True

    def result(self) -> Any | Died:
        """What came back, or Died."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.end()
            return Died(self.process.exitcode)

    def end(self, at_once: bool = False) -> None:
        """Let the process finish, or stop it."""
        self.pipe.close()
        if at_once:
            self.process.terminate()
        self.process.join()


_CAN_HOLD = hasattr(signal, "pthread_sigmask")


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process started now gets no Ctrl-C before it can ignore it, which would print a trace; ours waits."""
    if not _CAN_HOLD:
        yield
        return
    from multiprocessing import resource_tracker  # there is none on Windows

    resource_tracker.ensure_running()  # starting it later would end the block below
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(function: Callable[[Any], Any], pipe: Connection) -> None:
    """Body of a worker: until the other end is closed, take an item and send back its result."""
    # Ctrl-C reaches all processes of a terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _CAN_HOLD:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _silence()
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(function(item))


def _silence() -> None:
    """C libraries print about broken files; the findings say it better."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
