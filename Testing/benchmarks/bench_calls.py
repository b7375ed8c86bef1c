"""How long calls of the Slicer module hold its window: opening, tables, the start of an export.

Run: python Testing/benchmarks/bench_calls.py
Prints a JSON list. A figure is the longest of several calls, in CPU time of the window's thread, because other work on
a machine disturbs it least; its distance from the median is the spread.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PLACES = [str(ROOT / "VoCoSlicer"), str(ROOT / "Testing" / "slicer")]
OPENING = (
    "import sys, time; sys.path[:0] = sys.argv[1:]\n"
    "import slicer, vtk, numpy; from host import Host; host = Host()\n"
    "began = time.process_time(); host.loadModule(sys.argv[1] + '/VoCoSlicer.py')\n"
    "host.enter('VoCoSlicer'); host.app.processEvents()\n"
    "print('SECONDS', time.process_time() - began); host.close()\n"
)
RUNS, LINES = 100, 20_000


def main() -> None:
    """Measure and print."""
    # Before Testing/ could get onto the path: slicer-core takes every folder called "slicer" there for its own.
    sys.path[:] = [path for path in sys.path if Path(path).name != "Testing"]
    import slicer

    sys.path[:0] = PLACES
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VOCO_CONFIG_HOME"] = os.environ["XDG_CACHE_HOME"] = folder
        rows = [row("opening the module, the first time in a process", opening(), 300)]
        rows += jobs(Path(folder)) + volumes(Path(folder))
    assert slicer.util is not None
    print(json.dumps(rows))


def opening() -> list[float]:
    """Milliseconds of opening the module in fresh processes, over the test host."""
    figures = []
    for _ in range(3):
        words = [sys.executable, "-c", OPENING, *PLACES]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        figures.append(1000 * float(done.stdout.partition("SECONDS ")[2].split()[0]))
    return figures


def jobs(folder: Path) -> list[dict[str, Any]]:
    """The table of jobs: of one run with a long history, and of many."""
    from made_jobs import makeRun, progress, started, train

    from VoCoCore.runs import known
    from VoCoSlicerLib.jobs import JobTable

    long = makeRun(folder / "long", events=[started(), *(train(step, 1.0) for step in range(LINES))])
    known.remember(long)
    history = calls(JobTable().rows)
    events = [started(), *(train(step, 1.0) for step in range(50)), progress(50)]
    for number in range(RUNS):
        state = ("running", "finished", "stopped", "failed")[number % 4]
        known.remember(makeRun(folder / f"run{number}", state, events=events, pid=os.getpid()))
    table = JobTable()
    return [
        row(f"rows of a run with {LINES} lines", history, 50),
        row(f"rows of {RUNS} runs, until all are read", calls(table.rows, 60), 50),
    ]


def volumes(folder: Path) -> list[dict[str, Any]]:
    """A large volume: described in the table, and its export begun."""
    import made_scene
    from preview_scene import sceneWithViews

    from VoCoSlicerLib.export import CaseExport, SceneCase
    from VoCoSlicerLib.volumes import describeVolume

    scene = sceneWithViews()
    node = made_scene.volume(scene, np.zeros((300, 512, 512), np.int16))
    exports = [CaseExport(scene, [SceneCase((node.GetID(),))], folder / f"out{n}") for n in range(3)]
    described, begun = calls(lambda: describeVolume(node)), []
    for export in exports:
        begun += calls(export.start, 1)
        begun += calls(export.poll, 5)
        export.cancel()
        while not export.poll().finished:
            time.sleep(0.01)
    return [
        row("a volume of 512^2 x 300 described", described, 50),
        row("its export: start and polls", begun, 50),
    ]


def calls(action: Callable[[], Any], count: int = 12) -> list[float]:
    """Milliseconds of this thread's CPU time that each of so many calls takes."""
    figures = []
    for _ in range(count):
        begun = time.thread_time()
        action()
        figures.append(1000 * (time.thread_time() - begun))
    return figures


def row(name: str, figures: list[float], most: float) -> dict[str, Any]:
    """One line of the table that `run.py bench` prints."""
    return {
        "name": name,
        "unit": "CPU ms",
        "ours": max(figures),
        "baseline": None,
        "ratio": None,
        "spread": max(figures) - statistics.median(figures),
        "goal": f"{most:g} ms at most",
    }


if __name__ == "__main__":
    main()
