"""Held-out diagnostics: does the network know where a crop of a volume it never saw comes from?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from VoCoCore.data.loading import to_device
from VoCoCore.data.sampling import chance_accuracy
from VoCoCore.devices import Machine
from VoCoCore.settings import CropSettings
from VoCoCore.training.intervals import bootstrap_interval

MOST_LOOKED_AT = 400


def looked_at(volumes: Sequence[str]) -> list[str]:
    """The held-out volumes that a look reads: all, or MOST_LOOKED_AT of them in even steps.

    A tenth of 100 000 volumes is more than a look needs: ten looks at them would add a third to a training of 250 000
    steps, and their interval would get narrower than it matters.
    """
    count = min(len(volumes), MOST_LOOKED_AT)
    return [volumes[place * len(volumes) // count] for place in range(count)]


@dataclass
class HeldOut:
    """Everything that was seen of the held-out volumes, on the host."""

    case: np.ndarray  # (S,) which volume a sample came from
    labels: np.ndarray  # (S, k, n)
    logits: np.ndarray  # (S, k, n)
    means: dict[str, float]


@torch.no_grad()
def look(task: Any, batches: Iterable[dict[str, Tensor]], machine: Machine) -> HeldOut:
    """Run the task over held-out batches without training it; one copy from the device at the end."""
    task.eval()
    kept: dict[str, list[Tensor]] = {"case": [], "labels": [], "logits": []}
    sums: dict[str, list[Tensor]] = {}
    for host in batches:
        batch = to_device(host, machine.device)
        with machine.autocast():
            outcome = task(batch)
        named = {f"loss_{name}": value for name, value in outcome.terms.items()}
        for name, value in (named | task.diagnostics(outcome)).items():
            sums.setdefault(name, []).append(value.float())
        for name, value in (
            ("case", batch["case"]),
            *((n, outcome.details[n]) for n in ("labels", "logits")),
        ):
            kept[name].append(value)
    arrays = {name: torch.cat(values).cpu().numpy() for name, values in kept.items()}
    means = {name: float(torch.stack(values).mean()) for name, values in sums.items()}
    return HeldOut(arrays["case"].ravel(), arrays["labels"], arrays["logits"].astype(np.float64), means)


def score(seen: HeldOut, crops: CropSettings) -> dict[str, float]:
    """Position accuracy with its 95 % interval, chance and the shuffled-label control.

    Accuracy is the share of held-out random crops whose largest logit is at their largest label. The interval resamples
    volumes, because crops of one volume are not independent. Chance is the best constant answer under the same sampler;
    ``shuffled_accuracy`` is what these very answers would score if the labels were shuffled among the crops. All three
    are NaN where any logit is not finite: the largest of such logits is no answer.
    """
    assert crops.volume_size and crops.random_size
    answer, truth = seen.logits.argmax(-1), seen.labels.argmax(-1)
    known = 1.0 if np.isfinite(seen.logits).all() else np.nan
    right = (answer == truth).mean(axis=1) * known
    volumes = [right[seen.case == case].mean() for case in np.unique(seen.case)]
    several = len(volumes) > 1
    low, high = bootstrap_interval(np.asarray(volumes)) if several else (float(volumes[0]), float(volumes[0]))
    n = seen.labels.shape[-1]
    shares = [np.bincount(x.ravel(), minlength=n) / x.size for x in (answer, truth)]
    return {
        **seen.means,
        "loss": sum(value for name, value in seen.means.items() if name.startswith("loss_")),
        "position_accuracy": float(np.mean(volumes)),
        "accuracy_low": low,
        "accuracy_high": high,
        "chance": chance_accuracy(crops.volume_size, crops.counts, crops.random_size),
        "shuffled_accuracy": float(shares[0] @ shares[1]) * known,
        "volumes": float(len(volumes)),
    }
