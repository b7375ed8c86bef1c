"""One function over many items in several processes: results as they come, errors in the data among them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from VoCoCore.errors import DataError, EnvironmentFault

T = TypeVar("T")
R = TypeVar("R")

_ITEMS_PER_WORKER = 4  # fewer are not worth the second or two that a new process takes to start


def default_workers() -> int:
    """Processes for work on images: one per usable core, at most 8, since each holds a volume or two."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, usable))


def run_all(
    function: Callable[[T], R],
    items: Sequence[T],
    workers: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[T, R | DataError]]:
    """Yield (item, result) in the order of completion; a DataError is a result, other errors are raised.

    With 0 or 1 ``workers``, or few items, everything happens in this process. ``function`` must be importable
    by its name. Ends early, after the items under way, when ``should_stop`` says so. Raises EnvironmentFault
    for a worker that was killed.
    """
    workers = min(workers, len(items) // _ITEMS_PER_WORKER)
    if workers > 1:
        yield from _in_processes(function, items, workers, should_stop)
        return
    for item in items:
        if should_stop():
            return
        yield item, _result(function, item)


def _in_processes(
    function: Callable[[T], R], items: Sequence[T], workers: int, should_stop: Callable[[], bool]
) -> Iterator[tuple[T, R | DataError]]:
    # Spawned, not forked: the parent may hold threads and a GPU.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    waiting = iter(items)
    running: dict[Future[R | DataError], T] = {}
    try:
        while True:
            while (
                len(running) < 2 * workers and not should_stop() and (item := next(waiting, None)) is not None
            ):
                running[pool.submit(_result, function, item)] = item
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool:
        hint = "use fewer processes (data.workers), then run the same command again"
        raise EnvironmentFault(
            "a process that read images was killed, most often for want of memory", hint
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(function: Callable[[T], R], item: T) -> R | DataError:
    try:
        return function(item)
    except DataError as error:
        return error


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent has been killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()
