"""Cost of a positive/negative crop: choosing its place, cutting it from memory or from the store, beside searching.

Run: python Testing/benchmarks/bench_patches.py [--full]
CPU milliseconds a crop; --full: a larger volume, more rounds. The peer searches the label at each step, as dictionary
transforms do: MONAI's RandCropByPosNegLabel on arrays that are in memory already.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch
from monai.transforms import RandCropByPosNegLabel
from scipy.ndimage import zoom
from side_by_side import Row, full, in_turn, row, tell

from VoCoCore.data.labelled import LabelledSamples
from VoCoCore.data.patches import draw_patches
from VoCoCore.data.phantom import make_case
from VoCoCore.data.places import places_of
from VoCoCore.data.store import Store
from VoCoCore.protocols import resolve_finetune

EDGE, CROPS = 96, 4


def write_case(store: Store, label: np.ndarray, image: np.ndarray) -> str:
    """A prepared case as fine-tuning stores it; returns its key."""
    places = places_of(label, seed=0)
    header = {
        "affine": np.eye(4).tolist(),
        "labels": {"values": places.values.tolist(), "counts": places.counts.tolist()},
    }
    store.write("0" * 64, np.stack([image, label]).astype(np.int16), header, places.voxels)
    return "0" * 64


def rows(whole: bool, folder: Path) -> Iterator[Row]:
    """Places, crops from memory and crops from the store."""
    case = make_case(0, 0, (96, 96, 80))
    wanted, rounds = ((320, 240, 320), 20) if whole else ((200, 160, 200), 5)
    scale = [n / s for n, s in zip(wanted, case.label.shape, strict=True)]
    label, image = zoom(case.label, scale, order=0), zoom(case.image.astype(np.float32), scale, order=1)
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
    shape, places, numbers = label.shape, store.open(key).places(), count()
    peer = RandCropByPosNegLabel((EDGE,) * 3, label[None], 3, 1, CROPS)
    both = torch.from_numpy(np.stack([image, label]).astype(np.float32))
    ways = {
        "choosing the place": lambda: draw_patches(
            settings.patches, settings.augment, 0, next(numbers), shape, places
        ),
        "crop from memory": lambda: cached.sample(next(numbers)),
        "crop from the store": lambda: from_store.sample(next(numbers)),
    }
    for name, work in ways.items():
        found = in_turn(work, lambda: peer(both, label=both[1:]), rounds)
        title = f"{name}, {EDGE}^3 with its label, volume {shape} (baseline: MONAI, search and crop)"
        goal = "at most 10 ms" if "store" in name else "at most 2 ms"
        yield row(title, "CPU ms a crop", found, goal, scale=1e3 / CROPS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        tell(list(rows(full(__doc__), Path(scratch))))
