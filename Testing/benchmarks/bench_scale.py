"""What grows with the number of cases, loader workers and ranks: start-up, memory, time of a step and of an item.

Run: python Testing/benchmarks/bench_scale.py [--full]
A case is a file of its own (a hard link) that shows one of 8 prepared volumes. Each figure is of a real pre-training
job in a process of its own (scale_job.py). Short: 10 and 10 000 cases, 0 and 2 workers, 1 and 2 ranks; --full: 10, 1000
and 100 000 cases, 0 to 2 workers. Workers and ranks are timed by the wall, since they are other processes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scale_job import small_settings
from side_by_side import Row, figure, full, paired, row, tell

from VoCoCore.data.cases import Case, Index, Source, save_index
from VoCoCore.data.hashes import Hashes
from VoCoCore.data.phantom import make_cohort
from VoCoCore.data.prepare import prepare_index
from VoCoCore.data.store import Store

HERE = Path(__file__).resolve().parent
VOLUMES = 8
Found = dict[str, Any]


class Bench:
    """A store of 8 prepared volumes, indexes of many cases that show them, and jobs on these."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.jobs = folder, Store(folder / "store"), 0
        self.images = sorted((make_cohort(folder / "made", VOLUMES, labels=False) / "imagesTr").iterdir())
        real = Index(tuple(Case(path.name, (Source(str(path)),)) for path in self.images))
        self.contents = prepare_index(real, small_settings(), self.store, workers=0).content

    def index(self, cases: int) -> Path:
        """The index of so many cases, each known to the store as prepared."""
        path, memory, listed = self.folder / f"{cases}.json", Hashes(self.store.root / "hashes.txt"), []
        for number in range(cases):
            place = self.folder / f"of{cases}" / f"{number // 1000:03d}" / f"{number:06d}.nii.gz"
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(self.images[number % VOLUMES], place)
            source = Source(str(place))
            memory.remember([source], [self.contents[number % VOLUMES]])
            # Of one patient, as they are one volume: else all of them would be read whole, as copies that they are.
            listed.append(Case(place.name, (source,), patient=str(number % VOLUMES)))
        save_index(Index(tuple(listed)), path)
        return path

    def job(self, index: Path, steps: int, workers: int = 0, ranks: int = 1) -> Found:
        """What scale_job.py found."""
        self.jobs += 1
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        words = [*(torchrun if ranks > 1 else []), str(HERE / "scale_job.py")]
        words += [str(index), str(self.store.root), str(self.folder / f"run{self.jobs}")]
        done = subprocess.run(
            [sys.executable, *words, str(workers), str(steps)],
            check=True,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        return json.loads(done.stdout.splitlines()[-1])


def compared(name: str, unit: str, what: str, ours: Found, baseline: Found, goal: str) -> Row:
    """A row in ms of what two jobs took for ``what``, step by step."""
    return row(name, unit, paired(ours[what], baseline[what]), goal, scale=1e3)


def of_cases(bench: Bench, numbers: tuple[int, ...], steps: int) -> Iterator[Row]:
    """Start, memory, step and item of more and more cases, beside those of the first number."""
    few, first = numbers[0], Found()
    for cases in numbers:
        found = bench.job(bench.index(cases), steps)
        first = first or found
        name = f"{cases:,} cases".replace(",", " ")
        yield figure(f"{name}: start of a job, all prepared", "CPU s", found["start"], "<= 5 s")
        yield figure(f"{name}: finding the cases of a run again", "CPU s", found["again"], "")
        yield figure(f"{name}: memory of the start", "MB", found["memory"], "")
        if cases == few:
            continue
        more = f"(baseline: {few} cases)"
        yield compared(f"{name}: a step {more}", "CPU ms", "cpu", found, first, "ratio about 1")
        yield compared(f"{name}: an item {more}", "CPU ms", "item", found, first, "ratio about 1")
        each = (found["memory"] - first["memory"]) / (cases - few) * 1e3
        yield figure(f"{name}: memory a case", "kB", each, "")


def of_processes(bench: Bench, workers: tuple[int, ...], steps: int) -> Iterator[Row]:
    """A step with loader workers and with two ranks: by the wall, and CPU time of the process or rank alone."""
    index = bench.index(11)
    alone = bench.job(index, steps)
    ways: dict[str, dict[str, int]] = {
        f"a step with {n} loader worker{'s' * (n > 1)} (baseline: none)": {"workers": n} for n in workers
    }
    ways["a step on 2 gloo ranks, half of the batch each (baseline: 1 rank)"] = {"ranks": 2}
    for name, way in ways.items():
        found = bench.job(index, steps, **way)
        yield compared(name, "ms", "wall", found, alone, "")
        yield compared(f"{name}, the first process alone", "CPU ms", "cpu", found, alone, "")


def main() -> None:
    """Print the rows."""
    whole = full(__doc__)
    numbers = (10, 1000, 100_000) if whole else (10, 10_000)
    steps = 20 if whole else 10
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        tell(of_cases(bench, numbers, steps))
        tell(of_processes(bench, (1, 2) if whole else (2,), steps))


if __name__ == "__main__":
    main()
