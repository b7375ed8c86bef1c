"""What the pipeline adds to the network's own work, and the costs of losses, teacher, imports and long indexes.

Run: python Testing/benchmarks/bench_pretrain.py [--full]
--full: more rounds, and an index of 100 000 cases rather than 4 000.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from side_by_side import Row, Work, cpu_seconds, figure, full, in_turn, peak_mb, row, several, tell

from VoCoCore.data.cases import Case, Index, Source
from VoCoCore.data.loading import Numbers, Samples, make_loader, to_device
from VoCoCore.data.phantom import make_cohort
from VoCoCore.data.prepare import prepare_index
from VoCoCore.data.sampling import TRAIN
from VoCoCore.data.store import Store
from VoCoCore.devices import Machine, choose
from VoCoCore.models.teacher import Teacher
from VoCoCore.presets import resolve_pretrain
from VoCoCore.pretext.build import build_task, encoder_factory
from VoCoCore.pretext.voco import VoCo
from VoCoCore.pretext.voco_losses import prediction_loss, regularisation_loss, similarity
from VoCoCore.settings import PretrainSettings
from VoCoCore.training.updates import Updater


def prepared_cases(folder: Path, settings: PretrainSettings, copies: int = 1) -> tuple[Store, list[str]]:
    """Eight synthetic cases in a store; with ``copies`` the index repeats them."""
    cohort = make_cohort(folder / "cohort", 8, labels=False)
    images = sorted((cohort / "imagesTr").iterdir())
    cases = [Case(f"{n}-{path.name}", (Source(str(path)),)) for n in range(copies) for path in images]
    store = Store(folder / "store")
    return store, list(prepare_index(Index(tuple(cases)), settings, store, workers=0).keys)


def pipeline(folder: Path, machine: Machine, rounds: int) -> Iterator[Row]:
    """A whole step (read, copy, cut, network, update) against network and update on crops in memory."""
    for recipe in ("paper", "v1", "v2"):
        settings = resolve_pretrain({}, {"preset": "tiny", "recipe": recipe, "model.encoder": "unet"})
        store, keys = prepared_cases(folder / recipe, settings)
        torch.manual_seed(0)
        task = build_task(settings, encoder_factory(settings, 1)).to(machine.device).train()
        updater = Updater(task.parameters(), settings.optim, machine)
        samples = Samples(store.root, keys, partial(VoCo.views, settings, stream=TRAIN), seed=0)
        batches = make_loader(samples, Numbers(0, 10_000, settings.optim.batch), 0, False)

        def step(batch: dict[str, torch.Tensor], task: Any = task, updater: Updater = updater) -> None:
            with machine.autocast():
                loss = task(batch).loss
            updater.backward(loss)
            updater.step(1e-4)
            task.after_step(0)

        kept = to_device(next(batches), machine.device)
        kept["crops"] = task.cut(kept)

        def whole_step(step: Callable[..., None] = step, batches: Iterator[Any] = batches) -> None:
            step(to_device(next(batches), machine.device))

        found = in_turn(whole_step, partial(step, kept), rounds)
        yield row(f"whole step / network alone, {recipe}", "CPU ms", found, "ratio >= 0.95", scale=1e3)


def equations() -> Iterator[Row]:
    """Forward and backward of the losses for 2 volumes, 16 bases, 2048 channels."""
    p, q = torch.randn(2, 2, 2048, requires_grad=True), torch.randn(2, 16, 2048, requires_grad=True)
    labels = torch.softmax(torch.randn(2, 2, 16), -1)

    def ours() -> None:
        loss = prediction_loss(similarity(p, q, "v1"), labels, "v1") + regularisation_loss(q, "v1")
        loss.backward()

    def pairs() -> None:
        for v in range(2):
            terms = [
                torch.relu(torch.cosine_similarity(q[v, i], q[v, j].detach(), dim=0)) ** 2
                for i in range(16)
                for j in range(i + 1, 16)
            ]
            torch.stack(terms).mean().backward()

    name = "losses and regulariser, 16 bases (baseline: a loop over pairs)"
    yield row(name, "CPU ms", in_turn(ours, pairs), "<= 3 ms", scale=1e3)


def teacher() -> Iterator[Row]:
    """Moving average over a base Swin-UNETR encoder and projector, against a loop over parameters."""
    settings = resolve_pretrain({}, {"preset": "base", "recipe": "v1"})
    make = encoder_factory(settings, 1)
    student, follower = make(), Teacher(make())

    def loop() -> None:
        with torch.no_grad():
            for mine, theirs in zip(follower.network.parameters(), student.parameters(), strict=True):
                mine.data = mine.data * 0.9 + theirs.data * 0.1

    name = "teacher update, base (baseline: parameter by parameter)"
    found = in_turn(lambda: follower.follow(student, 0.9), loop)
    yield row(name, "CPU ms", found, "one foreach pass", scale=1e3)


def childrens_seconds(work: Work) -> float:
    """CPU time of the processes that a call starts and waits for."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    work()
    return spent() - before


FIRST_STEP = """
import sys, time
import VoCoCore.training.pretrain as job
from VoCoCore.presets import resolve_pretrain
import matplotlib, monai, zarr
source, store, run = sys.argv[1:]
options = {"preset": "tiny", "model.encoder": "unet", "optim.steps": 2, "run.log_every": 1, "run.threads": 1}
begun, seen = time.process_time(), []
def listen(event):
    if event.get("split") == "train":
        seen.append(time.process_time() - begun)
options |= {"data.source": source, "data.store": store, "run.device": "cpu"}
job.pretrain(resolve_pretrain({}, options), run, listeners=[listen])
print(seen[0])
"""


def starts(folder: Path) -> Iterator[Row]:
    """Commands, imports and jobs in fresh interpreters."""

    def program(*words: str) -> Callable[[], Any]:
        return lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True)

    geometry, numpy = program("-c", "import VoCoCore.geometry"), program("-c", "import numpy")
    beyond = in_turn(geometry, numpy, 3, clock=childrens_seconds)
    name, goal = "import VoCoCore.geometry beyond numpy", "<= 100 ms"
    yield figure(name, "CPU ms", 1e3 * (beyond.ours - beyond.baseline), goal)
    found = several(program("-m", "VoCoCore", "--help"), 3, clock=childrens_seconds)
    yield row("voco --help", "CPU ms", found, "<= 500 ms", scale=1e3)
    cohort = make_cohort(folder / "start", 8, labels=False)
    times = []
    for number in range(3):  # the first one prepares
        words = [str(cohort), str(folder / "start_store"), str(folder / f"run{number}")]
        done = subprocess.run(
            [sys.executable, "-c", FIRST_STEP, *words], check=True, stdout=subprocess.PIPE, encoding="utf-8"
        )
        times.append(float(done.stdout.splitlines()[-1]))
    name = "start to first step with a prepared store, beyond imports"
    yield figure(name, "CPU s", min(times[1:]), "<= 5 s")


def long_indexes(folder: Path, copies: int, rounds: int) -> Iterator[Row]:
    """Reading items when the index has 8 entries, or many that point at the same files; start-up and memory."""
    settings = resolve_pretrain({}, {"preset": "tiny", "model.encoder": "unet"})
    views = partial(VoCo.views, settings, stream=TRAIN)
    readers: list[Work] = []
    for times in (1, copies):
        before, found = peak_mb(), dict[str, Any]()
        place = folder / f"long{times}"

        def prepare(place: Path = place, times: int = times, found: dict[str, Any] = found) -> None:
            found["store"], found["keys"] = prepared_cases(place, settings, times)

        ready, keys = cpu_seconds(prepare), len(found["keys"])
        samples = Samples(found["store"].root, found["keys"], views, seed=0)
        numbers = iter(range(10**9))

        def read(samples: Samples = samples, numbers: Iterator[int] = numbers) -> None:
            for _ in range(100):
                samples[next(numbers)]

        readers.append(read)
        yield figure(f"index of {keys} entries: time until prepared", "CPU s", ready, "")
        yield figure(f"index of {keys} entries: memory", "MB", peak_mb() - before, "")
    found_pair = in_turn(readers[1], readers[0], rounds)
    name = f"100 items of {8 * copies} entries (baseline: of 8)"
    yield row(name, "CPU ms", found_pair, "ratio about 1", scale=1e3)


def main() -> None:
    """Print all rows."""
    torch.set_num_threads(1)
    whole = full(__doc__)
    rounds = 9 if whole else 3
    machine = choose(resolve_pretrain({}, {"preset": "tiny", "run.threads": 1, "run.device": "cpu"}).run)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = [*pipeline(folder, machine, rounds), *equations(), *teacher(), *starts(folder)]
        rows += long_indexes(folder, 12_500 if whole else 500, rounds)
    tell(rows)


if __name__ == "__main__":
    main()
