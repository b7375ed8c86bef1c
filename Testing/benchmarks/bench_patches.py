"""Cost of a positive/negative crop: choosing its place, cutting it from memory or from the store, beside searching.

Run: python Testing/benchmarks/bench_patches.py
CPU milliseconds a crop of one process; prints a JSON list. The peer searches the label at each step, as dictionary
transforms do: MONAI's RandCropByPosNegLabel on arrays that are in memory already.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from monai.transforms import RandCropByPosNegLabel
from scipy.ndimage import zoom

from VoCoCore.data.labelled import LabelledSamples
from VoCoCore.data.patches import draw_patches
from VoCoCore.data.phantom import make_case
from VoCoCore.data.places import places_of
from VoCoCore.data.store import Store
from VoCoCore.protocols import resolve_finetune

EDGE, CROPS, ROUNDS = 96, 4, 30


def cpu_ms(work: Callable[[int], Any]) -> float:
    """Median CPU milliseconds of one call."""
    times = []
    for number in range(ROUNDS):
        began = time.process_time()
        work(number)
        times.append(1e3 * (time.process_time() - began))
    return median(times)


def write_case(store: Store, label: np.ndarray, image: np.ndarray) -> str:
    """A prepared case as fine-tuning stores it; returns its key."""
    places = places_of(label, seed=0)
    header = {
        "affine": np.eye(4).tolist(),
        "labels": {"values": places.values.tolist(), "counts": places.counts.tolist()},
    }
    store.write("0" * 64, np.stack([image, label]).astype(np.int16), header, places.voxels)
    return "0" * 64


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="voco-bench-"))
    try:
        case = make_case(0, 0, (96, 96, 80))
        scale = [n / s for n, s in zip((320, 240, 320), case.label.shape, strict=True)]
        label = zoom(case.label, scale, order=0)
        image = zoom(case.image.astype(np.float32), scale, order=1)
        store = Store(folder / "store").create()
        key = write_case(store, label, np.clip(image * 20, -32768, 32767))
        options = {
            "patches.size": (EDGE,) * 3,
            "patches.per_case": CROPS,
            "augment.flip": (0.2, 0, 0),
            "data.workers": 0,
        }
        settings = resolve_finetune({}, options)
        cached = LabelledSamples(store.root, [key], settings)
        from_store = LabelledSamples(store.root, [key], settings)
        from_store._bytes = 1 << 60  # no room in memory: every crop is read from its blocks
        cached.sample(0)
        places = store.open(key).places()
        peer = RandCropByPosNegLabel((EDGE,) * 3, label[None], 3, 1, CROPS)
        both = torch.from_numpy(np.stack([image, label]).astype(np.float32))
        shape = label.shape
        figures = {
            "choosing the place": cpu_ms(
                lambda n: draw_patches(settings.patches, settings.augment, 0, n, shape, places)
            ),
            "crop from memory": cpu_ms(cached.sample),
            "crop from the store": cpu_ms(from_store.sample),
            "MONAI, search and crop": cpu_ms(lambda n: peer(both, label=both[1:])),
        }
        baseline = figures.pop("MONAI, search and crop") / CROPS
        rows = [
            {
                "name": f"{name}, {EDGE}^3 with its label, volume {shape}",
                "unit": "CPU ms a crop",
                "ours": round(value / CROPS, 3),
                "baseline": round(baseline, 3),
                "ratio": round(baseline / (value / CROPS), 1),
                "goal": "at most 2 ms",
            }
            for name, value in figures.items()
        ]
        print(json.dumps(rows, indent=1))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
