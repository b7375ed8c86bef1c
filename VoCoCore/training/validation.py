"""Held-out diagnostics: does the network know where a crop of a volume it never saw comes from?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from VoCoCore.data.loading import to_device
from VoCoCore.data.sampling import chance_accuracy
from VoCoCore.devices import Machine
from VoCoCore.settings import CropSettings
from VoCoCore.training.intervals import bootstrap_interval, counts_of
from VoCoCore.training.ranks import Ranks

MOST_LOOKED_AT = 400


def looked_at(volumes: Sequence[str]) -> list[str]:
    """The held-out volumes that a look reads: all, or MOST_LOOKED_AT of them in even steps.

    A tenth of 100 000 volumes is more than a look needs: ten looks at them would add a third to a training of 250 000
    steps, and their interval would get narrower than it matters.
    """
    count = min(len(volumes), MOST_LOOKED_AT)
    return [volumes[place * len(volumes) // count] for place in range(count)]


def share_of(batches: Sequence[list[int]], rank: int, ranks: int) -> Sequence[list[int]]:
    """The batches that a rank looks at: whole ones, whose crops are compared, in the order of all of them."""
    return batches[rank * len(batches) // ranks : (rank + 1) * len(batches) // ranks]


@dataclass
class HeldOut:
    """Everything that was seen of the held-out volumes, on the host."""

    case: np.ndarray  # (S,) which volume a sample came from
    labels: np.ndarray  # (S, k, n)
    logits: np.ndarray  # (S, k, n)
    means: dict[str, float]


@torch.no_grad()
def look(
    task: Any,
    batches: Iterable[dict[str, Tensor]],
    machine: Machine,
    ranks: Ranks,
    stop: Callable[[], bool] = lambda: False,
) -> HeldOut | None:
    """Run the task over this rank's held-out batches without training it; what all ranks saw, in their order.

    ``stop`` is asked before each batch; None where any rank's says that the look is to be broken off.
    """
    task.eval()
    broken_off = False
    mine: dict[str, Tensor] = {}
    for place, host in enumerate(batches):
        if broken_off := stop():
            break
        batch = to_device(host, machine.device)
        with machine.autocast():
            outcome = task(batch)
        named = {f"loss_{name}": value for name, value in outcome.terms.items()} | task.diagnostics(outcome)
        details = {name: outcome.details[name] for name in ("labels", "logits")}
        details["case"] = batch["case"]
        details |= {name: value.float() for name, value in named.items()}
        mine |= {f"{place} {name}": value for name, value in details.items()}
    if ranks.any(broken_off):
        return None
    # Only now is the device waited for.
    there = ranks.all_of({name: value.cpu() for name, value in mine.items()})
    seen: dict[str, list[Tensor]] = {}
    for part in there:
        for place, name in sorted(
            (int(place), name) for place, _, name in (key.partition(" ") for key in part)
        ):
            seen.setdefault(name, []).append(part[f"{place} {name}"])
    case, labels, logits = (torch.cat(seen.pop(name)).numpy() for name in ("case", "labels", "logits"))
    means = {name: float(torch.stack(values).mean()) for name, values in seen.items()}
    return HeldOut(case.ravel(), labels, logits.astype(np.float64), means)


def score(seen: HeldOut, crops: CropSettings, patients: Sequence[str] | None = None) -> dict[str, float]:
    """Position accuracy with its 95 % interval, chance and the shuffled-label control.

    Accuracy is the share of held-out random crops whose largest logit is at their largest label. The interval resamples
    patients, because crops of one are not independent; ``patients``: whose each volume is, None where each is of
    another. Chance is the best constant answer under the same sampler;
    ``shuffled_accuracy`` is what these very answers would score if the labels were shuffled among the crops. All three
    are NaN where any logit is not finite: the largest of such logits is no answer.
    """
    assert crops.volume_size and crops.random_size
    answer, truth = seen.logits.argmax(-1), seen.labels.argmax(-1)
    known = 1.0 if np.isfinite(seen.logits).all() else np.nan
    right = (answer == truth).mean(axis=1) * known
    there = np.unique(seen.case)
    volumes = np.array([right[seen.case == case].mean() for case in there])
    whose = [patients[case] if patients is not None else str(case) for case in there]
    mean = float(np.mean(volumes))
    low, high = bootstrap_interval(volumes, whose) if len(set(whose)) > 1 else (mean, mean)
    n = seen.labels.shape[-1]
    shares = [np.bincount(x.ravel(), minlength=n) / x.size for x in (answer, truth)]
    return {
        **seen.means,
        "loss": sum(value for name, value in seen.means.items() if name.startswith("loss_")),
        "position_accuracy": mean,
        "accuracy_low": low,
        "accuracy_high": high,
        "chance": chance_accuracy(crops.volume_size, crops.counts, crops.random_size),
        "shuffled_accuracy": float(shares[0] @ shares[1]) * known,
        **{name: float(count) for name, count in counts_of(whose, "volumes").items()},
    }
