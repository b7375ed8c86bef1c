"""Augmentation and losses of fine-tuning on one core, beside the same done by MONAI.

Run: python Testing/benchmarks/bench_augment.py [--full]
--full: more rounds, and 3 and 40 classes too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.data import set_track_meta
from monai.losses import DiceCELoss
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from side_by_side import Pair, Row, figure, full, in_turn, row, tell
from torch import Tensor

from VoCoCore.data.augment_intensity import augment_intensity
from VoCoCore.data.augment_space import augment_space
from VoCoCore.downstream.losses import segmentation_loss

EDGE, CROPS = 64, 4


def per_crop(name: str, goal: str, ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> Row:
    """A line of CPU ms a crop."""
    found = in_turn(ours, theirs, rounds)
    return row(f"{name}, a crop of {EDGE}^3", "CPU ms", found, goal, scale=1e3 / CROPS)


def augmentation(rounds: int) -> Iterator[Row]:
    """Each part of augmentation for a batch of crops with labels, and MONAI's dictionary transforms crop by crop."""
    rng = np.random.default_rng(0)
    images = torch.rand(CROPS, 1, EDGE, EDGE, EDGE)
    labels = torch.randint(0, 14, (CROPS, EDGE, EDGE, EDGE), dtype=torch.int16)
    singly = [{"image": i, "label": x[None]} for i, x in zip(images, labels, strict=True)]
    nothing, one = torch.zeros(CROPS), torch.ones(CROPS)
    still = torch.zeros(CROPS, 3, dtype=torch.bool)
    tilt = torch.eye(3) + torch.from_numpy(rng.uniform(-0.1, 0.1, (3, 3)).astype(np.float32))
    warp: dict[str, Any] = {
        "flips": still,
        "turns": nothing.long(),
        "matrix": tilt.repeat(CROPS, 1, 1),
        "warped": one.bool(),
    }
    turn = {**warp, "flips": ~still, "turns": one.long(), "warped": nothing.bool()}
    plain: dict[str, Any] = {"scale": one, "shift": nothing, "gamma": one, "noise": nothing, "blur": nothing}
    plain["seeds"] = range(CROPS)
    levels = {**plain, "scale": one * 1.1, "shift": one / 10, "gamma": one * 1.3}

    def by_monai(*steps: Any) -> Callable[[], Any]:
        whole = Compose(steps)
        return lambda: [whole(dict(crop)) for crop in singly]

    keys = ["image", "label"]
    turns = [RandFlipd(keys, 1.0, axis) for axis in range(3)] + [RandRotate90d(keys, 1.0)]
    intensities = [
        RandScaleIntensityd("image", 0.1, 1.0),
        RandShiftIntensityd("image", 0.1, prob=1.0),
        RandAdjustContrastd("image", 1.0, (0.7, 1.5)),
    ]
    affine = RandAffined(
        keys, prob=1.0, rotate_range=[0.2] * 3, mode=("bilinear", "nearest"), padding_mode="border"
    )

    def turned_and_levelled() -> None:
        moved, _ = augment_space(images, labels, **turn)
        augment_intensity(moved, **levels)

    simple = by_monai(*turns, *intensities)
    yield per_crop("flips, turn, scale, shift, gamma", "<= 2 ms", turned_and_levelled, simple, rounds)
    warped = by_monai(affine)
    yield per_crop("affine map", "<= 15 ms", lambda: augment_space(images, labels, **warp), warped, rounds)
    noisy, soft = {**plain, "noise": one / 10}, {**plain, "blur": one}
    noise = by_monai(RandGaussianNoised("image", 1.0, sample_std=False))
    yield per_crop("noise", "<= 3 ms", lambda: augment_intensity(images, **noisy), noise, rounds)
    near = (0.99, 1.0)
    blur = by_monai(RandGaussianSmoothd("image", near, near, near, prob=1.0))
    yield per_crop("blur of 1 voxel", "<= 5 ms", lambda: augment_intensity(images, **soft), blur, rounds)


def kept_bytes(loss: Callable[[], Tensor]) -> int:
    """What a forward pass keeps for the backward pass; memory used twice counts once."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = loss()
    size = sum(kept.values())
    del result
    return size


def backward(loss: Callable[[], Tensor]) -> None:
    loss().backward()


def losses(rounds: int, kinds: tuple[int, ...]) -> Iterator[Row]:
    """Dice and cross-entropy, forward and backward, as the published fine-tuning uses them."""
    published: dict[str, Any] = {
        "include_background": False,
        "squared_pred": True,
        "smooth_nr": 0,
        "smooth_dr": 1e-6,
    }
    monai = DiceCELoss(to_onehot_y=True, softmax=True, **published)
    for classes in kinds:
        logits = torch.randn(2, classes, EDGE, EDGE, EDGE, requires_grad=True)
        target = torch.randint(0, classes, (2, 1, EDGE, EDGE, EDGE))

        def ours(z: Tensor = logits, t: Tensor = target) -> Tensor:
            terms = segmentation_loss(z, t[:, 0])
            return terms["dice"] + terms["cross_entropy"]

        def theirs(z: Tensor = logits, t: Tensor = target) -> Tensor:
            return monai(z, t)

        name = f"Dice and cross-entropy, {classes} classes, 2 crops of {EDGE}^3"
        found: Pair = in_turn(partial(backward, ours), partial(backward, theirs), rounds)
        yield row(name, "CPU ms", found, "ratio >= 1 from 14 classes on", scale=1e3)
        kept, other = (kept_bytes(loss) / 2**20 for loss in (ours, theirs))
        yield figure(f"{name}: kept for the backward pass", "MiB", kept, "ratio >= 1", other)


if __name__ == "__main__":
    torch.set_num_threads(1)
    set_track_meta(False)  # as kind to MONAI as possible: its crops carry no history
    rounds, kinds = (15, (3, 14, 40)) if full(__doc__) else (5, (14,))
    tell([*augmentation(rounds), *losses(rounds, kinds)])
