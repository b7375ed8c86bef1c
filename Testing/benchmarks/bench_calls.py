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
TABLE = (
    "import sys, time; sys.path[:0] = sys.argv[1:]\n"
    "import slicer, vtk, numpy, numpy.ma; from host import Host; host = Host()\n"
    "widget = host.loadModule(sys.argv[1] + '/VoCoSlicer.py'); host.enter('VoCoSlicer')\n"
    "import made_scene as made\n"
    "for number in range(200):\n"
    "    node = made.volume(host.scene, made.noise((16, 16, 16)), f'case {number}')\n"
    "    made.segmentation(host.scene, node, {}, f'drawn {number}')\n"
    "widget.openSection('volumes'); figures = []\n"
    "for number in range(24):\n"
    "    action = host.app.processEvents if number % 2 else widget.panel('volumes').refresh\n"
    "    began = time.thread_time(); action(); figures.append(time.thread_time() - began)\n"
    "print('SECONDS', *figures); host.close()\n"
)
RUNS, LINES, CASES = 100, 20_000, 200


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
    return [figure for _ in range(3) for figure in hosted(OPENING)]


def hosted(program: str) -> list[float]:
    """Milliseconds that a program over the test host prints, as seconds."""
    words = [sys.executable, "-c", program, *PLACES]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    line = done.stdout.partition("SECONDS ")[2].splitlines()[0]
    return [1000 * float(word) for word in line.split()]


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
    """A large volume: described in the table, and its export begun; and many small ones."""
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
    mask = np.ones((16, 16, 16), bool)
    small = [made_scene.volume(scene, made_scene.noise((16, 16, 16)), f"case {n}") for n in range(CASES)]
    drawn = [made_scene.segmentation(scene, each, {"organ": mask}) for each in small]
    pairs = [(each.GetID(), label.GetID()) for each, label in zip(small, drawn, strict=True)]
    many = CaseExport(scene, [SceneCase((one,), two) for one, two in pairs], folder / "many")
    polls = calls(many.start, 1)
    while many.index is None:
        polls += calls(many.poll, 1)
    return [
        row("a volume of 512^2 x 300 described", described, 50),
        row("its export: start and polls", begun, 50),
        row(f"the export of {CASES} cases: start and polls", polls, 50),
        row(f"the table of {CASES} volumes and segmentations, first shown", hosted(TABLE), 50),
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
