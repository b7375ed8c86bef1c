"""The published pre-training step of recipe `v1`, written by us from its description; what ours is compared with.

As published: a volume is loaded and prepared anew for each item (its cache is never readable with current MONAI);
each of its 2 + 16 crops goes through dictionary transforms of its own, built for it; a Swin-UNETR encoder with
checkpointed blocks, and a teacher that is a whole second one; the teacher follows parameter by parameter; similarities
and the regulariser are computed pair by pair. Randomness comes from the same draw as ours, which is kinder to it: only
the augmentations that were drawn are carried out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.nets import SwinUNETR
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    Flipd,
    LoadImaged,
    Orientationd,
    Resized,
    Rotate90d,
    ScaleIntensityRanged,
    ShiftIntensityd,
    SpatialCropd,
    ToTensord,
)
from torch import Tensor, nn

from VoCoCore.data.sampling import Draw
from VoCoCore.settings import PretrainSettings

KEYS = ["image"]
SMALL = 1e-6


def volume_from(path: Path, size: Sequence[int], window: tuple[float, float] = (-175, 250)) -> Tensor:
    """An image file as the published data path gives it: (1, *size) in [0, 1]."""
    steps = Compose(
        [
            LoadImaged(KEYS),
            EnsureChannelFirstd(KEYS),
            Orientationd(KEYS, axcodes="RAS"),
            ScaleIntensityRanged(KEYS, *window, 0.0, 1.0, clip=True),
            CropForegroundd(KEYS, source_key="image", select_fn=lambda x: x > 0.3, allow_smaller=True),
            Resized(KEYS, tuple(size), mode="trilinear", align_corners=True),
        ]
    )
    return steps({"image": str(path)})["image"]


def crops_of(volume: Tensor, draw: Draw, size: Sequence[int]) -> Tensor:
    """The crops (k + n, 1, *size) of a volume (1, X, Y, Z), one after the other."""
    return torch.stack([_crop(volume, draw, number, size) for number in range(len(draw.starts))])


def _crop(volume: Tensor, draw: Draw, number: int, size: Sequence[int]) -> Tensor:
    start = draw.region + draw.starts[number]
    steps: list[Any] = [
        SpatialCropd(KEYS, roi_start=start.tolist(), roi_end=(start + draw.sizes[number]).tolist()),
        Resized(KEYS, tuple(size), mode="trilinear", align_corners=True),
        *(Flipd(KEYS, axis) for axis in range(3) if draw.flips[number][axis]),
    ]
    if draw.turns[number]:
        steps.append(Rotate90d(KEYS, int(draw.turns[number]), (0, 1)))
    if draw.shifts[number]:
        steps.append(ShiftIntensityd(KEYS, float(draw.shifts[number])))
    return Compose([*steps, ToTensord(KEYS, track_meta=False)])({"image": volume})["image"]


class PublishedEncoder(nn.Module):
    """MONAI's Swin-UNETR without its decoder: five maps of a crop, each averaged over its voxels."""

    def __init__(self, feature_size: int, checkpointing: bool) -> None:
        super().__init__()
        whole = SwinUNETR(1, 1, feature_size=feature_size, use_v2=True, use_checkpoint=checkpointing)
        self.swinViT = whole.swinViT
        for name in ("encoder1", "encoder2", "encoder3", "encoder4", "encoder10"):
            self.add_module(name, whole.get_submodule(name))

    def forward(self, x: Tensor) -> Tensor:
        h = self.swinViT(x, True)
        pairs = (("1", x), ("2", h[0]), ("3", h[1]), ("4", h[2]), ("10", h[4]))
        maps = [self.get_submodule(f"encoder{name}")(part) for name, part in pairs]
        return torch.cat([F.adaptive_avg_pool3d(m, 1).flatten(1) for m in maps], dim=1)


class PublishedProjector(nn.Module):
    """Three linear layers with batch norm without parameters and ReLU between them."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        for number, inputs in enumerate((features, width, width), start=1):
            parts: list[nn.Module] = [nn.Linear(inputs, width)]
            if number < 3:
                parts += [nn.BatchNorm1d(width, affine=False, track_running_stats=False), nn.ReLU()]
            self.add_module(f"layer{number}", nn.Sequential(*parts))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class PublishedNetwork(nn.Module):
    """Encoder and projector; parameters have the names of `VoCoCore.pretext.voco.Branch`."""

    def __init__(self, feature_size: int, width: int, checkpointing: bool) -> None:
        super().__init__()
        self.encoder = PublishedEncoder(feature_size, checkpointing)
        self.head = PublishedProjector(24 * feature_size, width)

    def forward(self, crops: Tensor) -> Tensor:
        return self.head(self.encoder(crops))


class PublishedStep:
    """Student, teacher and optimiser; ``step`` does one step on crops."""

    def __init__(self, settings: PretrainSettings, checkpointing: bool = True) -> None:
        size, width = settings.model.feature_size, settings.model.projector_width
        self.momentum = settings.pretext.momentum
        self.student = PublishedNetwork(size, width, checkpointing).train()
        self.teacher = PublishedNetwork(size, width, checkpointing).train()
        self.optimiser = torch.optim.AdamW(
            self.student.parameters(), lr=settings.optim.lr, amsgrad=True, weight_decay=0.01
        )

    def loss(self, crops: Tensor, labels: Tensor) -> Tensor:
        """Loss of crops (V * (k + n), 1, X, Y, Z) and labels (V, k, n); the teacher follows on the way."""
        student = self.student(crops)
        with torch.no_grad():
            self._follow()
            teacher = self.teacher(crops)
        k, volumes = labels.shape[1], len(labels)
        each = zip(student.chunk(volumes), teacher.chunk(volumes), labels, strict=True)
        terms = [prediction(s, t, y) + regulariser(s[k:]) for s, t, y in each]
        return torch.stack(terms).mean()

    def _follow(self) -> None:
        for mine, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mine.data = mine.data * self.momentum + theirs.data * (1 - self.momentum)

    def step(self, crops: Tensor, labels: Tensor) -> float:
        """One optimiser step; returns the loss, read from the device as the published loop does."""
        self.optimiser.zero_grad()
        loss = self.loss(crops, labels)
        loss.backward()
        self.optimiser.step()
        return loss.item()


def prediction(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """The prediction loss of one volume's crops (k + n, c), both directions, with labels (k, n)."""
    k = len(labels)
    rows = []
    for number in range(k):
        forth = F.relu(F.cosine_similarity(student[number][None], teacher[k:], dim=1))
        back = F.relu(F.cosine_similarity(teacher[number][None], student[k:], dim=1))
        rows.append((forth + back) / 2)
    logits = torch.stack(rows)
    zero = (labels == 0).float()
    positive = -labels * torch.log(1 - (labels - logits).abs() + SMALL)
    negative = logits**2 * zero
    return positive.sum() / (labels.sum() + SMALL) + negative.sum() / (zero.sum() + SMALL)


def regulariser(bases: Tensor) -> Tensor:
    """Mean squared positive similarity of all pairs of bases (n, c), the second one without gradient."""
    terms = [
        F.relu(F.cosine_similarity(bases[i], bases[j].detach(), dim=0)) ** 2
        for i, j in combinations(range(len(bases)), 2)
    ]
    return torch.stack(terms).mean()
