"""Sliding windows beside MONAI's: the same network, windows, overlap and weights, on one thread of a CPU.

Run: python Testing/benchmarks/bench_windows.py
CPU seconds (medians of interleaved rounds); prints a JSON list with the largest difference of the results.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import time
from collections.abc import Callable
from statistics import median

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from VoCoCore.inference.allocator import kept_memory
from VoCoCore.inference.swift import swift
from VoCoCore.inference.windows import slide
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.networks import SegmentationNetwork

CLASSES, ROUNDS = 14, 3
CPU = torch.device("cpu")


class Trivial(nn.Module):
    """Costs next to nothing, so that what is left is the windows' own cost."""

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, CLASSES, -1, -1, -1).contiguous()


def interleaved(
    ours: Callable[[], Tensor], peer: Callable[[], Tensor]
) -> tuple[float, float, list[float], float]:
    """Median CPU seconds of both, the ratios of all rounds, and the largest difference of the results."""
    times: tuple[list[float], list[float]] = ([], [])
    difference = 0.0
    for _ in range(ROUNDS):
        results = []
        for work, spent in zip((ours, peer), times, strict=True):
            began = time.process_time()
            results.append(work())
            spent.append(time.process_time() - began)
        difference = max(difference, float((results[0] - results[1]).abs().max()))
    ratios = [b / a for a, b in zip(*times, strict=True)]
    return median(times[0]), median(times[1]), ratios, difference


def row(name: str, network: nn.Module, edge: int, size: int, overlap: float) -> dict[str, object]:
    """One comparison."""
    volume = torch.rand(1, size, size, size)
    quick, window = swift(network, CPU) if not isinstance(network, Trivial) else network, (edge,) * 3

    def ours() -> Tensor:
        with torch.no_grad(), kept_memory():
            return slide(volume, quick, window, overlap)

    def peer() -> Tensor:
        with torch.no_grad():
            return sliding_window_inference(volume[None], window, 4, network, overlap, mode="gaussian")[0]

    a, b, ratios, difference = interleaved(ours, peer)
    return {
        "name": f"{name}, volume {size}^3, windows {edge}^3, overlap {overlap}, {CLASSES} labels",
        "unit": "CPU s",
        "ours": round(a, 3),
        "baseline": round(b, 3),
        "ratio": round(median(ratios), 2),
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
        "goal": 1.5,
        "difference": difference,
        "device": "cpu, 1 thread",
    }


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for overlap in (0.5, 0.75):
        network = SegmentationNetwork(build_encoder("unet", 1, 12, 32), CLASSES).eval()
        rows.append(row("unet tiny", network, 32, 64, overlap))
        rows.append(row("unet tiny", network, 64, 96, overlap))
        rows.append(row("no network", Trivial(), 32, 128, overlap))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
