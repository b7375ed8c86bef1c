"""What the pipeline adds to the network's own work, and the costs of losses, teacher, imports and long indexes.

Run: python Testing/benchmarks/bench_pretrain.py
Prints a JSON list; ratios are ours against the named baseline in the same run, medians of several rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

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

ROUNDS = 9


def milliseconds(work: Callable[[], Any], rounds: int = ROUNDS) -> tuple[float, float]:
    """Median and spread (largest minus smallest) of the wall time of ``work``, after one round to warm up."""
    work()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times), max(times) - min(times)


def row(
    name: str, unit: str, ours: float, baseline: float | None, goal: str, spread: float
) -> dict[str, Any]:
    """One line of the table; ``ratio`` is baseline / ours: higher is better."""
    ratio = None if baseline is None else baseline / ours
    figures = {"ours": ours, "baseline": baseline, "ratio": ratio, "spread": spread}
    return {"name": name, "unit": unit, **figures, "goal": goal}


def prepared_cases(folder: Path, settings: PretrainSettings, copies: int = 1) -> tuple[Store, list[str]]:
    """Eight synthetic cases in a store; with ``copies`` the index repeats them."""
    cohort = make_cohort(folder / "cohort", 8, labels=False)
    images = sorted((cohort / "imagesTr").iterdir())
    cases = [Case(f"{n}-{path.name}", (Source(str(path)),)) for n in range(copies) for path in images]
    store = Store(folder / "store")
    return store, list(prepare_index(Index(tuple(cases)), settings, store, workers=0).keys)


def pipeline(folder: Path, machine: Machine) -> Iterator[dict[str, Any]]:
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

        kept = to_device(next(batches), machine.device)
        kept["crops"] = task.cut(kept)

        def whole_step(step: Callable[..., None] = step, batches: Iterator[Any] = batches) -> None:
            step(to_device(next(batches), machine.device))

        # Alternated, so that a busy machine disturbs both alike.
        both = [
            (milliseconds(partial(step, kept), 1)[0], milliseconds(whole_step, 1)[0]) for _ in range(ROUNDS)
        ]
        network, whole = (statistics.median(column) for column in zip(*both, strict=True))
        spread = max(w / n for n, w in both) - min(w / n for n, w in both)
        yield row(f"whole step / network alone, {recipe}", "ms", whole, network, "ratio >= 0.95", spread)


def equations() -> Iterator[dict[str, Any]]:
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

    mine, spread = milliseconds(ours)
    name = "losses and regulariser, 16 bases (baseline: a loop over pairs)"
    yield row(name, "ms", mine, milliseconds(pairs)[0], "<= 3 ms", spread)


def teacher() -> Iterator[dict[str, Any]]:
    """Moving average over a base Swin-UNETR encoder and projector, against a loop over parameters."""
    settings = resolve_pretrain({}, {"preset": "base", "recipe": "v1"})
    make = encoder_factory(settings, 1)
    student, follower = make(), Teacher(make())

    def loop() -> None:
        with torch.no_grad():
            for mine, theirs in zip(follower.network.parameters(), student.parameters(), strict=True):
                mine.data = mine.data * 0.9 + theirs.data * 0.1

    ours, spread = milliseconds(lambda: follower.follow(student, 0.9))
    name = "teacher update, base (baseline: parameter by parameter)"
    yield row(name, "ms", ours, milliseconds(loop)[0], "one foreach pass", spread)


def starts() -> Iterator[dict[str, Any]]:
    """Commands and imports in fresh interpreters."""

    def program(*words: str) -> Callable[[], Any]:
        return lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True)

    numpy_alone, _ = milliseconds(program("-c", "import numpy"))
    with_geometry, spread = milliseconds(program("-c", "import VoCoCore.geometry"))
    yield row(
        "import VoCoCore.geometry beyond numpy", "ms", with_geometry - numpy_alone, None, "<= 100 ms", spread
    )
    ours, spread = milliseconds(program("-m", "VoCoCore", "--help"))
    yield row("voco --help", "ms", ours, None, "<= 500 ms", spread)


def long_indexes(folder: Path) -> Iterator[dict[str, Any]]:
    """Reading one item when the index has 8 or 100 000 entries (pointing at the same files)."""
    settings = resolve_pretrain({}, {"preset": "tiny", "model.encoder": "unet"})
    views = partial(VoCo.views, settings, stream=TRAIN)
    costs = []
    for copies in (1, 12_500):
        begun = time.perf_counter()
        store, keys = prepared_cases(folder / f"long{copies}", settings, copies)
        ready = time.perf_counter() - begun
        samples = Samples(store.root, keys, views, seed=0)
        numbers = iter(range(10**9))

        def read(samples: Samples = samples, numbers: Iterator[int] = numbers) -> None:
            for _ in range(200):
                samples[next(numbers)]

        costs.append(milliseconds(read))
        name = f"index of {len(keys)} entries: time until prepared"
        yield row(name, "s", ready, None, "", 0.0)
    (few, _), (many, spread) = costs
    yield row("200 items of 100 000 entries (baseline: of 8)", "ms", many, few, "ratio about 1", spread)


def main() -> None:
    """Print all rows as JSON."""
    machine = choose(resolve_pretrain({}, {"preset": "tiny"}).run)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = [*pipeline(folder, machine), *equations(), *teacher(), *starts(), *long_indexes(folder)]
    print(json.dumps([{**each, "device": machine.words} for each in rows], indent=1))


if __name__ == "__main__":
    main()
