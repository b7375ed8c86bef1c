"""A v1 pre-training step on a GPU: ours as `fast`, compiled and `small` beside the published one, and what is work.

Run: python Testing/benchmarks/bench_gpu_step.py [--full] [--device cuda]
Base preset, 2 volumes of 384 x 384 x 96 from a CT of 512 x 512 x 240, 2 x (2 + 16) crops of 64^3. Each kind runs in a
process of its own, by the wall: whole steps from files to updated weights with the loader of a job, and steps on a
batch that lies on the device already. Before whole steps are timed, the batches that the loader has read ahead are
taken without a step (`on_gpu.Fed`), and some steps go by untimed; as many are timed on either side. Ours is in bf16,
the published one in fp16 with a gradient scaler, as published; loader workers are as many, and fewer where /dev/shm is
small. The peak of memory is that after the first steps, in which cuDNN tries its ways. "Matmuls and convolutions" is
what torch.profiler counts for them alone in one of our steps: the least that a step with this network can take. Without
a GPU it ends with the code for "skipped"; --tiny --device cpu tries it out in minutes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines.published_step import PublishedStep, crops_of, volume_from
from bench_data import synthetic_ct
from on_gpu import Clock, Fed, device_name, gpu_options, loader_workers, skip_without
from side_by_side import Pair, Row, figure, paired, row, tell
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from VoCoCore.data.cases import Case, Index, Source
from VoCoCore.data.loading import Numbers, Samples, make_loader, to_device
from VoCoCore.data.prepare import prepare_index
from VoCoCore.data.sampling import TRAIN, draw
from VoCoCore.data.store import Store
from VoCoCore.data.workers import PREFETCHED
from VoCoCore.devices import choose
from VoCoCore.models.compiling import compile_encoders
from VoCoCore.models.placing import placed
from VoCoCore.presets import resolve_pretrain
from VoCoCore.pretext.build import build_task, encoder_factory
from VoCoCore.pretext.voco import VoCo
from VoCoCore.settings import PretrainSettings
from VoCoCore.training.updates import Updater

KINDS = ("published", "fast", "small", "compiled")  # what takes longest to begin comes last
WORK = re.compile(r"aten::.*(conv|mm$|attention)")
CT = "ct.nii.gz"
FIXED, WHOLE, ROUNDS = 10, 24, 3  # steps of a stretch without and with data, and stretches of each
Step = Callable[[], Any]


def settings_of(kind: str, device: str, tiny: bool) -> PretrainSettings:
    """Settings of one of ``KINDS``: the base preset with two volumes, or next to nothing."""
    less: dict[str, Any] = {"model.feature_size": 12, "crops.counts": (2, 1, 1), "crops.random_crops": 1}
    own = {"model.checkpointing": kind == "small", "run.compile": kind == "compiled", "run.device": device}
    usual = {"recipe": "v1", "preset": "base", "optim.batch": 1 if tiny else 2}
    return resolve_pretrain({}, {**usual, **own, **(less if tiny else {})})


def batch_bytes(settings: PretrainSettings) -> int:
    """Of a batch, the larger of both sides': ours are volumes of one byte a voxel, the published ones float crops."""
    crops, batch = settings.crops, settings.optim.batch
    assert crops.volume_size and crops.input_size
    made = prod(crops.counts) + crops.random_crops
    return batch * max(prod(crops.volume_size), 4 * made * prod(crops.input_size))


class PublishedItems(Dataset):
    """What the published loader's workers do for each item: a volume from its file, and its crops one by one."""

    def __init__(self, image: Path, settings: PretrainSettings) -> None:
        self.image, self.settings = image, settings

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        size, out = self.settings.crops.volume_size, self.settings.crops.input_size
        assert size and out
        drawn = draw(self.settings, number, size, TRAIN)
        return crops_of(volume_from(self.image, size), drawn, out), torch.from_numpy(drawn.labels).float()


def published(image: Path, settings: PretrainSettings, workers: int) -> tuple[Fed, Step]:
    """Whole steps of the published kind, and steps on one batch."""
    machine, stepper = choose(settings.run), PublishedStep(settings)
    device = machine.device
    stepper.student.to(device), stepper.teacher.to(device)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    items = PublishedItems(image, settings)
    batches = iter(
        DataLoader(items, settings.optim.batch, num_workers=workers, pin_memory=device.type == "cuda")
    )

    def step(crops: torch.Tensor, labels: torch.Tensor) -> float:
        crops, labels = crops.flatten(0, 1).to(device), labels.to(device)
        stepper.optimiser.zero_grad()
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            loss = stepper.loss(crops, labels)
        scaler.scale(loss).backward()
        scaler.step(stepper.optimiser)
        scaler.update()
        return loss.item()

    kept = [part.to(device) for part in next(batches)]
    return Fed(lambda: step(*next(batches)), batches, 2 * workers), lambda: step(*kept)


def ours(image: Path, settings: PretrainSettings, folder: Path, workers: int) -> tuple[Fed, Step]:
    """Whole steps as the step loop does them, and steps on one batch, whose crops are cut each time."""
    machine, store = choose(settings.run), Store(folder / "store")
    index = Index((Case("made", (Source(str(image)),)),))
    keys = prepare_index(index, settings, store, workers=0).keys
    task = build_task(settings, encoder_factory(settings, 1))
    if settings.run.compile:
        compile_encoders(task, lambda *_, **__: None)
    task = placed(task, machine).train()
    updater = Updater(task.parameters(), settings.optim, machine)
    samples = Samples(store.root, list(keys), partial(VoCo.views, settings, stream=TRAIN), seed=0)
    numbers = Numbers(0, 1_000_000, settings.optim.batch)
    batches = make_loader(samples, numbers, workers, machine.device.type == "cuda")

    def step(batch: dict[str, torch.Tensor]) -> None:
        with machine.autocast():
            loss = task(batch).loss
        updater.backward(loss)
        updater.step(settings.optim.lr)
        task.after_step(0)

    kept = to_device(next(batches), machine.device)
    whole = Fed(lambda: step(to_device(next(batches), machine.device)), batches, PREFETCHED * workers)
    return whole, lambda: step(kept)


def alone(kind: str, device: str, tiny: bool, folder: Path, workers: int) -> dict[str, Any]:
    """In a process of its own: seconds of steps, the peak of memory, and what of a step is bare work."""
    torch.manual_seed(0)
    settings, clock = settings_of(kind, device, tiny), Clock(device)
    image = folder / CT
    whole, kept = (
        published(image, settings, workers) if kind == "published" else ours(image, settings, folder, workers)
    )
    for warm in () if tiny else (kept, whole):
        clock.seconds(warm, 5)
    clock.forget_peak()
    found: dict[str, Any] = {"name": device_name(device, workers), "fixed": [], "whole": []}
    for _ in range(1 if tiny else ROUNDS):
        found["fixed"].append(clock.stretch(kept, 1 if tiny else FIXED, 0))
        # Workers that were emptied all at once hand their next batches over all at once.
        found["whole"].append(clock.stretch(whole, 1 if tiny else WHOLE, workers))
    found["peak"] = clock.peak_mb()
    if kind == "fast":
        found |= {
            "work": clock.work(kept, WORK),
            "flops": flops(kept),
            "most": clock.most_flops(2048 if tiny else 8192),
        }
    return found


def flops(step: Step) -> float:
    """Floating point operations of the matmuls and convolutions of a step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def measured(kind: str, device: str, tiny: bool, folder: Path, workers: int) -> dict[str, Any] | None:
    """What `alone` found; None, with a word to the terminal, where it failed."""
    words = [sys.executable, __file__, "--alone", kind, "--device", device, "--folder", str(folder)]
    words += ["--workers", str(workers), *["--tiny"] * tiny]
    done = subprocess.run(words, stdout=subprocess.PIPE, encoding="utf-8")
    if done.returncode:
        print(f"{kind}: failed, left out", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def rows(device: str, tiny: bool) -> Iterator[Row]:
    """Of each kind, as soon as it is measured: end to end, without data, memory; of ours also work and waiting."""
    first, *others = [kind for kind in KINDS if kind != "compiled" or not tiny]
    workers = 0 if tiny else loader_workers(batch_bytes(settings_of("fast", device, tiny)))
    with tempfile.TemporaryDirectory() as scratch:
        synthetic_ct(Path(scratch) / CT, (64, 64, 48) if tiny else (512, 512, 240))
        ways = (device, tiny, Path(scratch), workers)
        base = measured(first, *ways)
        if base is None:
            sys.exit("there is nothing to compare with")
        more = {"device": base["name"]}
        for kind in others:
            if seen := measured(kind, *ways):
                yield from beside(base, kind, seen, more)
                yield from work_in(seen, more) if "work" in seen else ()


def beside(base: dict[str, Any], kind: str, seen: dict[str, Any], more: dict[str, Any]) -> Iterator[Row]:
    """Times and memory of one kind of ours beside the published step."""
    goal = "ratio >= 1" if kind == "small" else "ratio >= 4"
    pair = paired(seen["whole"], base["whole"])
    yield row(f"v1 step, base, 2 volumes, {kind}: files to weights", "ms", pair, goal, scale=1e3, **more)
    pair = paired(seen["fixed"], base["fixed"])
    yield row(f"v1 step, base, 2 volumes, {kind}: crops at hand", "ms", pair, "", scale=1e3, **more)
    goal = "ratio >= 1.67 (<= 0.6 x)" if kind == "small" else ""
    name = f"peak memory of the v1 step, base, 2 volumes, {kind}"
    yield figure(name, "MB", seen["peak"], goal, base["peak"], **more)


def work_in(fast: dict[str, Any], more: dict[str, Any]) -> Iterator[Row]:
    """How near a step is to its bare work, and that to the machine."""
    step, whole = np.median(fast["fixed"]), np.median(fast["whole"])
    name = "v1 step, fast, beside its matmuls and convolutions alone"
    yield row(
        name, "ms", Pair(step, fast["work"], fast["work"] / step, 0.0), "ratio >= 0.6", scale=1e3, **more
    )
    speed = fast["flops"] / fast["work"]
    name = "roofline: its matmuls and convolutions (baseline: one large matmul)"
    pair = Pair(speed, fast["most"], speed / fast["most"], 0.0)
    yield row(name, "TFLOP/s", pair, "", scale=1e-12, **more)
    yield figure("v1 step, fast: waiting for data", "% of the step", 100 * (1 - step / whole), "< 3", **more)


def main() -> None:
    """Print the rows, or what a process of its own found."""
    parser = gpu_options(__doc__)
    parser.add_argument("--alone", choices=KINDS, help="one kind, in this process")
    parser.add_argument("--folder", type=Path, help="for its files")
    parser.add_argument("--workers", type=int, default=0, help="loader workers of it")
    given = parser.parse_args()
    skip_without(given.device)
    if given.alone:
        found = alone(given.alone, given.device, given.tiny, given.folder, given.workers)
        print(json.dumps(found))
    else:
        tell(rows(given.device, given.tiny))


if __name__ == "__main__":
    main()
