"""Costs of preparing and reading a CT, beside what decompressing, resampling and writing alone cost.

Run: python Testing/benchmarks/bench_data.py [image.nii.gz]   (without one, a noisy synthetic CT is made)
CPU seconds of one process, the best of several rounds; ratios hold better than times.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from VoCoCore.data.apply import quantise
from VoCoCore.data.cases import Case, Source
from VoCoCore.data.images import read_image, write_image
from VoCoCore.data.plan import plan_case
from VoCoCore.data.prepare_case import prepare_case
from VoCoCore.data.resample import resize_points, sample
from VoCoCore.data.store import Store
from VoCoCore.data.wanted import Wanted
from VoCoCore.geometry import Box, triple
from VoCoCore.presets import resolve_pretrain
from VoCoCore.settings import PretrainSettings

ROUNDS = 5


def cpu_seconds(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """CPU seconds of the quickest round, all threads of this process together."""
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times)


def synthetic_ct(path: Path, shape: tuple[int, int, int] = (512, 512, 120)) -> None:
    """A torso-like CT: air around an ellipse of soft tissue, smooth structures, 15 HU of noise."""
    rng = np.random.default_rng(0)
    coarse = gaussian_filter(rng.standard_normal([n // 4 for n in shape], dtype=np.float32), 3)
    image = np.kron(coarse / coarse.std() * 60 + 40, np.ones((4, 4, 4), np.float32))
    x, y = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    image[(x / 0.85) ** 2 + (y / 0.7) ** 2 > 1] = -1000
    image += rng.normal(0, 15, shape).astype(np.float32)
    write_image(path, np.clip(image, -1024, 3071).astype(np.int16), np.diag([0.8, 0.8, 2.5, 1]))


def bench_prepare(case: Case, settings: PretrainSettings, folder: Path) -> str:
    """Prepare a case, and the three parts of it that nobody can leave out; returns its key."""
    stores = iter(range(1000))

    def whole() -> None:
        prepare_case(case, settings, Store(folder / f"whole{next(stores)}").create())

    volume = read_image(case.images[0])
    plan = plan_case(volume.array[None], volume.affine, settings.prepare, Wanted.of(settings).volume_size)
    start, stop = plan.start, np.add(plan.start, plan.size)
    part = plan.oriented(volume.array)[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    ready = np.asfortranarray(plan.intensities[0].apply(part.astype(np.float32)))
    tensor = torch.from_numpy(np.ascontiguousarray(ready))[None, None]
    out = np.empty(plan.shape[::-1], np.float32).T

    def interpolate() -> np.ndarray:
        size = plan.shape
        return torch.nn.functional.interpolate(
            tensor, size=size, mode="trilinear", align_corners=True
        ).numpy()

    stored = quantise(interpolate()[0]).astype(np.uint8)
    store = Store(folder / "alone").create()
    numbers = iter(range(1000))
    parts = {
        "decompress": cpu_seconds(lambda: read_image(case.images[0])),
        "resample": cpu_seconds(interpolate),
        "write": cpu_seconds(lambda: store.write(f"{next(numbers):064x}", stored, {})),
    }
    ours = cpu_seconds(lambda: sample(ready, resize_points(plan.size, plan.shape), out))
    total, alone = cpu_seconds(whole), sum(parts.values())
    print(f"image {volume.array.shape}, prepared {plan.shape}")
    print(
        "  " + ", ".join(f"{name} {seconds:.3f}" for name, seconds in parts.items()) + f": {alone:.3f} CPU-s"
    )
    print(f"  prepare {total:.3f} CPU-s: {total / alone:.2f} x the three alone (target 1.2)")
    print(
        f"  resample by our own code {ours:.3f} CPU-s: {ours / parts['resample']:.2f} x torch's interpolate"
    )
    print(
        f"  with that instead, prepare is {total / (alone - parts['resample'] + ours):.2f} x the three alone"
    )
    return prepare_case(case, settings, Store(folder / "whole0")).key


def bench_read(store: Store, key: str) -> None:
    """Read a prepared case whole and a crop of it."""
    volume = store.open(key)
    first = triple([(n - 96) // 2 for n in volume.shape[1:]], "first voxel")
    middle = Box(first, (96, 96, 96))
    whole, crop = cpu_seconds(volume.read, 20), cpu_seconds(lambda: volume.read(middle), 20)
    fresh = cpu_seconds(lambda: Store(store.root).open(key), 20)
    print(f"stored: {store.size(key) / 1e6:.1f} MB (target 14) for {prod(volume.shape) / 1e6:.1f} M voxels")
    print(f"  whole read {whole * 1e3:.1f} ms CPU (target 60), crop of 96^3 {crop * 1e3:.1f} ms CPU")
    print(f"  opening {fresh * 1e3:.1f} ms CPU")


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="voco-bench-"))
    try:
        image = Path(sys.argv[1]) if len(sys.argv) > 1 else folder / "ct.nii.gz"
        if len(sys.argv) == 1:
            synthetic_ct(image)
        case = Case("bench", (Source(str(image)),))
        key = bench_prepare(case, resolve_pretrain({"recipe": "v1"}), folder)
        bench_read(Store(folder / "whole0"), key)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
