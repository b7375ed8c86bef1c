"""Preparing a CT, its store, and the way from a volume to crops, beside the published one.

Run: python Testing/benchmarks/bench_data.py [--full] [--image ct.nii.gz]
Short: a noisy synthetic CT of 256 x 256 x 60 voxels; --full: of 512 x 512 x 120. It is prepared as recipe v1 has it, to
384 x 384 x 96 voxels, of which 18 crops of 96^3 are brought to 64^3.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import count
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines.published_step import crops_of, volume_from
from scipy.ndimage import gaussian_filter
from side_by_side import Pair, Row, figure, in_turn, options, row, several, tell

from VoCoCore.data.apply import quantise
from VoCoCore.data.cases import Case, Source
from VoCoCore.data.images import read_image, write_image
from VoCoCore.data.loading import Numbers, Samples, make_loader
from VoCoCore.data.plan import plan_case
from VoCoCore.data.prepare_case import prepare_case
from VoCoCore.data.resample import resize_points, sample
from VoCoCore.data.sampling import TRAIN, draw
from VoCoCore.data.store import Store
from VoCoCore.data.wanted import Wanted
from VoCoCore.geometry import Box, triple
from VoCoCore.presets import resolve_pretrain
from VoCoCore.pretext.build import encoder_factory
from VoCoCore.pretext.voco import VoCo
from VoCoCore.settings import PretrainSettings


def synthetic_ct(path: Path, shape: tuple[int, int, int]) -> None:
    """A torso-like CT: air around an ellipse of soft tissue, smooth structures, 15 HU of noise."""
    rng = np.random.default_rng(0)
    coarse = gaussian_filter(rng.standard_normal([n // 4 for n in shape], dtype=np.float32), 3)
    image = np.kron(coarse / coarse.std() * 60 + 40, np.ones((4, 4, 4), np.float32))
    x, y = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    image[(x / 0.85) ** 2 + (y / 0.7) ** 2 > 1] = -1000
    image += rng.normal(0, 15, shape).astype(np.float32)
    write_image(path, np.clip(image, -1024, 3071).astype(np.int16), np.diag([0.8, 0.8, 2.5, 1]))


def preparing(case: Case, settings: PretrainSettings, folder: Path) -> Iterator[Row]:
    """Prepare a case, beside the three parts of it together; our resampling beside torch's."""
    numbers = count()

    def whole() -> None:
        prepare_case(case, settings, Store(folder / f"whole{next(numbers)}").create())

    volume = read_image(case.images[0])
    plan = plan_case(volume.array[None], volume.affine, settings.prepare, Wanted.of(settings).volume_size)
    start, stop = plan.start, np.add(plan.start, plan.size)
    part = plan.oriented(volume.array)[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    ready = np.asfortranarray(plan.intensities[0].apply(part.astype(np.float32)))
    tensor = torch.from_numpy(np.ascontiguousarray(ready))[None, None]
    out = np.empty(plan.shape[::-1], np.float32).T

    def interpolate() -> np.ndarray:
        ways: dict[str, Any] = {"mode": "trilinear", "align_corners": True}
        return torch.nn.functional.interpolate(tensor, size=plan.shape, **ways).numpy()

    stored = quantise(interpolate()[0]).astype(np.uint8)
    store = Store(folder / "alone").create()

    def parts() -> None:
        read_image(case.images[0])
        interpolate()
        store.write(f"{next(numbers):064x}", stored, {})

    size = " x ".join(map(str, volume.array.shape))
    name = f"prepare a CT of {size} (baseline: its decompressing, resampling and writing alone)"
    yield row(name, "CPU s", in_turn(whole, parts, 2), "ratio >= 0.83")

    def resample() -> None:
        sample(ready, resize_points(plan.size, plan.shape), out)

    name = f"resample it to {plan.shape} (baseline: torch's interpolate)"
    yield row(name, "CPU ms", in_turn(resample, interpolate, 2), "", scale=1e3)


def stored(store: Store, key: str) -> Iterator[Row]:
    """Size of a prepared case, and reading it whole, and a crop of it."""
    volume = store.open(key)
    first = triple([(n - 96) // 2 for n in volume.shape[1:]], "first voxel")
    middle = Box(first, (96, 96, 96))
    size = " x ".join(map(str, volume.shape[1:]))
    megabytes, raw = store.size(key) / 1e6, 4 * prod(volume.shape) / 1e6
    yield figure(f"store of a CT of {size} (baseline: float32)", "MB", megabytes, "<= 14 MB", raw)
    works = {
        "read a crop of 96^3 of it": (lambda: volume.read(middle), "<= 10 ms"),
        "read the whole of it": (volume.read, "<= 60 ms"),
        "open it anew": (lambda: Store(store.root).open(key), ""),
    }
    for name, (work, goal) in works.items():
        yield row(name, "CPU ms", several(work, 7), goal, scale=1e3)


def crops(image: Path, settings: PretrainSettings, store: Store, key: str) -> Iterator[Row]:
    """From a volume to the crops of a step: as published, from the image file; ours, from the store."""
    wanted = settings.crops
    assert wanted.volume_size and wanted.input_size
    size, out = wanted.volume_size, wanted.input_size
    small = settings.with_values(
        {"model.encoder": "unet", "model.feature_size": 4, "model.projector_width": 8}
    )
    task = VoCo(small, encoder_factory(small, 1)).train()
    samples = Samples(store.root, [key], partial(VoCo.views, settings, stream=TRAIN), seed=0)
    batches, numbers = make_loader(samples, Numbers(0, 1000, 1), 0, False), count()

    def ours() -> None:
        task.cut(next(batches))

    def published() -> None:
        crops_of(volume_from(image, size), draw(settings, next(numbers), size, TRAIN), out)

    kept = volume_from(image, size)

    def cached() -> None:
        crops_of(kept, draw(settings, next(numbers), size, TRAIN), out)

    first = in_turn(ours, published, 2)
    name = "from a volume to 18 augmented crops of 64^3 (baseline: the published data path)"
    yield row(name, "volumes / CPU s", _per_second(first), "ratio >= 30")
    name = "the same (baseline: the published transforms alone, the volume prepared and in memory)"
    yield row(name, "volumes / CPU s", _per_second(in_turn(ours, cached, 2)), "")


def _per_second(found: Pair) -> Pair:
    return Pair(1 / found.ours, 1 / found.baseline, found.ratio, found.spread)


def main() -> None:
    """Print the rows."""
    torch.set_num_threads(1)
    parser = options(__doc__)
    parser.add_argument("--image", type=Path, help="a CT of your own")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, rows = Path(scratch), list[Row]()
        image = given.image or folder / "ct.nii.gz"
        if given.image is None:
            synthetic_ct(image, (512, 512, 120) if given.full else (256, 256, 60))
        case, settings = Case("bench", (Source(str(image)),)), resolve_pretrain({"recipe": "v1"})
        rows += preparing(case, settings, folder)
        store = Store(folder / "kept").create()
        key = prepare_case(case, settings, store).key
        rows += stored(store, key)
        rows += crops(image, settings, store, key)
        tell(rows)


if __name__ == "__main__":
    main()
