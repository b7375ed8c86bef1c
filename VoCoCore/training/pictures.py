"""Slices, crops, labels and predictions of a few held-out volumes, kept for the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from VoCoCore.data.loading import Samples
from VoCoCore.geometry import spacing_of
from VoCoCore.runs.files import move
from VoCoCore.settings import CropSettings
from VoCoCore.training.validation import HeldOut

SHOWN = 4


def keep_pictures(path: Path, samples: Samples, seen: HeldOut, crops: CropSettings, step: int) -> None:
    """Write ``path`` (npz, replaced as a whole): middle slices, boxes, labels and logits of up to four volumes."""
    count = min(SHOWN, len(samples.keys))
    items = [samples.sample(number) for number in range(count)]
    k = seen.labels.shape[1]
    regions = [item["volumes"][0].numpy() for item in items]
    boxes = [np.stack([item["starts"][:k].numpy(), item["sizes"][:k].numpy()], axis=1) for item in items]
    write_arrays(
        path,
        axial=np.stack([region[:, :, region.shape[2] // 2] for region in regions]),
        coronal=np.stack([region[:, region.shape[1] // 2] for region in regions]),
        boxes=np.stack(boxes).astype(np.float64),
        labels=seen.labels[:count],
        logits=seen.logits[:count],
        counts=np.asarray(crops.counts),
        volume_size=np.asarray(crops.volume_size),
        spacing=np.stack([spacing_of(samples.store.open(key).affine) for key in samples.keys[:count]]),
        step=np.asarray(step),
    )


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Replace ``path`` (npz) as a whole by named arrays."""
    draft = path.with_name(path.name + ".tmp")
    with open(draft, "wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    move(draft, path)
