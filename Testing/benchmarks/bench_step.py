"""A pre-training step of recipe v1 with a Swin-UNETR: ours as `fast` and as `small`, beside the published one.

Run: python Testing/benchmarks/bench_step.py [--full] [--grid 2 1 1]
A step is everything from the stored volume to the updated weights. `fast` keeps activations, `small` computes them
again (model.checkpointing). Each runs in a process of its own, on one thread, so that its peak of memory is its own:
figures are the most resident memory above that of the imports. Short: feature size 12, one volume, 2 + 1 crops of 64^3;
--full: the base preset, one volume, 16 + 2 crops, which takes an hour; with --grid 2 1 1 the base network with 2 + 1.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines.published_step import PublishedStep, crops_of, volume_from
from side_by_side import Row, cpu_seconds, figure, options, paired, peak_mb, row, tell

from VoCoCore.data.cases import Case, Index, Source
from VoCoCore.data.images import write_image
from VoCoCore.data.loading import Numbers, Samples, make_loader, to_device
from VoCoCore.data.prepare import prepare_index
from VoCoCore.data.sampling import TRAIN, draw
from VoCoCore.data.store import Store
from VoCoCore.devices import choose
from VoCoCore.models.placing import placed
from VoCoCore.presets import resolve_pretrain
from VoCoCore.pretext.build import build_task, encoder_factory
from VoCoCore.pretext.voco import VoCo
from VoCoCore.settings import PretrainSettings
from VoCoCore.training.updates import Updater

KINDS = ("published", "fast", "small")
ROUNDS = int(os.environ.get("VOCO_BENCH_ROUNDS", "2"))


def settings_of(kind: str, feature_size: int, grid: Sequence[int]) -> PretrainSettings:
    """Settings of one of ``KINDS``: the base preset with another network and grid."""
    sizes = {"model.feature_size": feature_size, "crops.counts": tuple(grid)}
    options = {"recipe": "v1", "preset": "base", "optim.batch": 1, "run.device": "cpu", "run.threads": 1}
    few = {"crops.random_crops": 1} if prod(grid) < 4 else {}
    return resolve_pretrain({}, {**options, **sizes, **few, "model.checkpointing": kind == "small"})


def made_image(folder: Path) -> Path:
    """A CT of noise in an ellipse; its values cost a step nothing."""
    path = folder / "ct.nii.gz"
    axes = np.ogrid[-1:1:192j, -1:1:192j, -1:1:96j]
    image = np.where(sum(x**2 for x in axes[:2]) < 0.9, 40, -1000) + 0 * axes[2]
    image = image + np.random.default_rng(0).integers(-60, 60, image.shape)
    write_image(path, image.astype(np.int16), np.diag([2.0, 2.0, 2.5, 1]))
    return path


def published(image: Path, settings: PretrainSettings) -> Callable[[int], None]:
    """The published step of sample ``number``."""
    torch.manual_seed(0)
    stepper, crops = PublishedStep(settings), settings.crops
    assert crops.volume_size and crops.input_size
    size, out = crops.volume_size, crops.input_size

    def step(number: int) -> None:
        drawn = draw(settings, number, size, TRAIN)
        cut = crops_of(volume_from(image, size), drawn, out)
        stepper.step(cut, torch.from_numpy(drawn.labels)[None].float())

    return step


def ours(image: Path, settings: PretrainSettings, folder: Path) -> Callable[[int], None]:
    """Our step of sample ``number``, as the step loop does it."""
    torch.manual_seed(0)
    machine = choose(settings.run)
    store = Store(folder / "store")
    index = Index((Case("made", (Source(str(image)),)),))
    keys = prepare_index(index, settings, store, workers=0).keys
    task = placed(build_task(settings, encoder_factory(settings, 1)), machine).train()
    updater = Updater(task.parameters(), settings.optim, machine)
    samples = Samples(store.root, list(keys), partial(VoCo.views, settings, stream=TRAIN), seed=0)
    batches = make_loader(samples, Numbers(0, 1000, 1), 0, False)

    def step(_: int) -> None:
        updater.backward(task(to_device(next(batches), machine.device)).loss)
        updater.step(settings.optim.lr)
        task.after_step(0)

    return step


def alone(kind: str, settings: PretrainSettings, folder: Path) -> None:
    """In a process of its own: print CPU seconds of each step and the peak of memory."""
    image, before = made_image(folder), peak_mb()
    step = published(image, settings) if kind == "published" else ours(image, settings, folder)
    seconds = [cpu_seconds(lambda number=number: step(number)) for number in range(ROUNDS)]
    print(json.dumps({"seconds": seconds, "peak": peak_mb() - before}))


def measured(kind: str, feature_size: int, grid: Sequence[int]) -> dict[str, Any]:
    """What `alone` printed."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, "--alone", kind, folder, *map(str, (feature_size, *grid))]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    return json.loads(done.stdout.splitlines()[-1])


def rows(feature_size: int, grid: Sequence[int]) -> list[Row]:
    """Time and memory of both configurations."""
    torch.set_num_threads(1)
    found = {kind: measured(kind, feature_size, grid) for kind in KINDS}
    crops = settings_of("fast", feature_size, grid).crops.random_crops + prod(grid)
    size = f"feature size {feature_size}, 1 volume, {crops} crops of 64^3"
    base, made = found["published"], []
    goals = {"fast": ("ratio >= 1.4", ""), "small": ("ratio >= 1", "ratio >= 1.67 (<= 0.6 x)")}
    for kind, (time_goal, memory_goal) in goals.items():
        pair = paired(found[kind]["seconds"], base["seconds"])
        made.append(row(f"v1 step, {kind} ({size})", "CPU s", pair, time_goal))
        name = f"peak memory of the v1 step, {kind} ({size})"
        made.append(figure(name, "MB", found[kind]["peak"], memory_goal, base["peak"]))
    return made


def main() -> None:
    """Print the rows, or what a process of its own found."""
    if "--alone" in sys.argv:
        _, kind, folder, *numbers = sys.argv[1:]
        feature_size, *grid = map(int, numbers)
        alone(kind, settings_of(kind, feature_size, grid), Path(folder))
        return
    parser = options(__doc__)
    parser.add_argument("--grid", type=int, nargs=3, help="base crops along x, y, z")
    given = parser.parse_args()
    usual = (4, 4, 1) if given.full else (2, 1, 1)
    tell(rows(48 if given.full else 12, given.grid or usual))


if __name__ == "__main__":
    main()
