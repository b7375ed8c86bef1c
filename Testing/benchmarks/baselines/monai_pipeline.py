"""MONAI's usual pipeline for fine-tuning, prediction and evaluation, as its tutorials put it together; written by us.

Images and labels are loaded, oriented, scaled and cropped to the foreground once (`CacheDataset` in memory or
`PersistentDataset` on disk); each step searches the label for crops (`RandCropByPosNegLabeld`) and collates them
(`DataLoader`); a volume is predicted by `sliding_window_inference` and scored by `DiceMetric` and
`HausdorffDistanceMetric`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor, PersistentDataset, list_data_collate
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric, HausdorffDistanceMetric, SurfaceDiceMetric
from monai.networks.utils import one_hot
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    Orientation,
    Orientationd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
    ScaleIntensityRange,
    ScaleIntensityRanged,
    Spacing,
    SpatialPadd,
)
from torch import Tensor, nn

from VoCoCore.devices import Machine

BOTH = ["image", "label"]
HOST = Machine(torch.device("cpu"), "fp32", "")


def fixed_steps(window: tuple[float, float], size: Sequence[int]) -> list[Any]:
    """What is done to a case once."""
    return [
        LoadImaged(BOTH),
        EnsureChannelFirstd(BOTH),
        Orientationd(BOTH, axcodes="RAS"),
        ScaleIntensityRanged("image", *window, 0.0, 1.0, clip=True),
        CropForegroundd(BOTH, source_key="image", allow_smaller=True),
        SpatialPadd(BOTH, tuple(size)),
    ]


def random_steps(size: Sequence[int], crops: int, positive: float = 0.75) -> list[Any]:
    """What is done at each step."""
    return [
        RandCropByPosNegLabeld(BOTH, "label", tuple(size), positive, 1 - positive, crops),
        *(RandFlipd(BOTH, 0.2, axis) for axis in range(3)),
        *([RandRotate90d(BOTH, 0.2)] if size[0] == size[1] else []),
        RandScaleIntensityd("image", 0.1, 0.1),
        RandShiftIntensityd("image", 0.1, prob=0.1),
    ]


def loader(
    files: Sequence[Mapping[str, str]],
    window: tuple[float, float],
    size: Sequence[int],
    crops: int,
    cache: Path | None = None,
    workers: int = 0,
    pin: bool = False,
) -> DataLoader:
    """Batches of ``crops`` crops of one case each; decoded cases stay in memory, or in the folder ``cache``.

    ``workers`` stay from epoch to epoch, as a careful user has it; ``pin`` for a GPU.
    """
    steps = Compose([*fixed_steps(window, size), *random_steps(size, crops)])
    data = (
        CacheDataset(list(files), steps, progress=False)
        if cache is None
        else PersistentDataset(list(files), steps, cache)
    )
    return DataLoader(
        data,
        batch_size=1,
        shuffle=True,
        num_workers=workers,
        collate_fn=list_data_collate,
        persistent_workers=workers > 0,
        pin_memory=pin,
    )


class MonaiTraining:
    """One epoch after the other of a network with Dice and cross-entropy, on a machine at its precision."""

    def __init__(self, network: nn.Module, lr: float = 3e-4, machine: Machine = HOST) -> None:
        self.network, self.machine = network.train().to(machine.device), machine
        self.loss = DiceCELoss(
            to_onehot_y=True,
            softmax=True,
            include_background=False,
            squared_pred=True,
            smooth_nr=0.0,
            smooth_dr=1e-6,
        )
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=1e-5)

    def step(self, images: Tensor, labels: Tensor) -> float:
        """One step on images (M, C, X, Y, Z) and labels (M, 1, X, Y, Z); the loss."""
        images, labels = images.to(self.machine.device), labels.to(self.machine.device)
        self.optimiser.zero_grad()
        with self.machine.autocast():
            loss = self.loss(self.network(images), labels)
        loss.backward()
        self.optimiser.step()
        return loss.item()

    def epoch(self, batches: DataLoader) -> float:
        """Every case once; the mean loss."""
        losses = [self.step(batch["image"], batch["label"]) for batch in batches]
        return sum(losses) / len(losses)


@torch.no_grad()
def predict(
    volume: Tensor, network: nn.Module, window: Sequence[int], overlap: float, batch: int = 4
) -> Tensor:
    """Logits (K, X, Y, Z) of a volume (C, X, Y, Z)."""
    return sliding_window_inference(volume[None], window, batch, network, overlap, mode="gaussian")[0]


def labels_of(
    volume: Tensor, network: nn.Module, window: Sequence[int], overlap: float, machine: Machine
) -> np.ndarray:
    """Label map (X, Y, Z), uint8, of a prepared volume (C, X, Y, Z), with volume and sums on the device."""
    with machine.autocast():
        logits = predict(volume.to(machine.device), network, window, overlap)
    return _chosen(logits)


@torch.no_grad()
def segment(
    voxels: Tensor,
    affine: np.ndarray,
    network: nn.Module,
    window: Sequence[int],
    overlap: float,
    machine: Machine,
    *,
    intensities: tuple[float, float],
    spacing: Sequence[float] | None = None,
) -> np.ndarray:
    """Label map in the grid of ``voxels`` (C, X, Y, Z), float32 as `LoadImage` leaves them.

    They are turned, resampled to ``spacing`` and scaled on the host; logits are led back on the device.
    """
    steps = Compose(
        [
            Orientation("RAS"),
            *([] if spacing is None else [Spacing(spacing, mode="bilinear", dtype=np.float32)]),
            ScaleIntensityRange(*intensities, 0.0, 1.0, clip=True),
        ]
    )
    image: Any = steps(MetaTensor(voxels, torch.from_numpy(affine)))
    with machine.autocast():
        logits = predict(image.to(machine.device), network, window, overlap)
    return _chosen(steps.inverse(logits))


def _chosen(logits: Tensor) -> np.ndarray:
    return torch.as_tensor(logits.argmax(0)).to(torch.uint8).cpu().numpy()


def scores(
    reference: Tensor,
    prediction: Tensor,
    spacing: Sequence[float],
    labels: int,
    tolerance: float,
    at_once: int = 1,
) -> dict[str, list[float]]:
    """Dice, HD95 and surface Dice of labels 1 to ``labels`` of two maps (X, Y, Z).

    ``at_once`` labels become one-hot maps at a time: all of a large volume's would not fit the memory.
    """
    found: dict[str, list[float]] = {"dice": [], "hd95": [], "surface_dice": []}
    for first in range(1, labels + 1, at_once):
        some = range(first, min(first + at_once, labels + 1))
        if at_once >= labels:
            a, b = (one_hot(x[None, None].float(), labels + 1)[:, 1:] for x in (prediction, reference))
        else:
            a, b = (torch.stack([x == n for n in some])[None] for x in (prediction, reference))
        metrics = {
            "dice": DiceMetric(include_background=True, reduction="none"),
            "hd95": HausdorffDistanceMetric(include_background=True, percentile=95, reduction="none"),
            "surface_dice": SurfaceDiceMetric([tolerance] * len(some), include_background=True),
        }
        for name, metric in metrics.items():
            ways = {} if name == "dice" else {"spacing": list(spacing)}
            found[name] += [float(value) for value in metric(a, b, **ways)[0]]
    return found
