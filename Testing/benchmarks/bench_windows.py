"""Sliding windows beside MONAI's: the same network, windows, overlap and weights, on one thread of a CPU.

Run: python Testing/benchmarks/bench_windows.py [--full]
--full: 512 x 512 x 300 voxels and 14 labels, with a network that costs nothing and a small one.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator

import torch
from baselines.monai_pipeline import predict
from side_by_side import Row, full, in_turn, row, tell
from torch import Tensor, nn

from VoCoCore.devices import Machine
from VoCoCore.inference.allocator import kept_memory
from VoCoCore.inference.swift import swift
from VoCoCore.inference.windows import slide
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.networks import SegmentationNetwork

CLASSES, ROUNDS = 14, 3
CPU = Machine(torch.device("cpu"), "fp32", "")


class Trivial(nn.Module):
    """Costs next to nothing, so that what is left is the windows' own cost."""

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, CLASSES, -1, -1, -1).contiguous()


def compared(
    name: str,
    network: nn.Module,
    edge: int,
    shape: tuple[int, ...],
    overlap: float,
    rounds: int = ROUNDS,
    goal: str = "ratio >= 1.5",
) -> Row:
    """One comparison; the largest difference of the results stands beside it."""
    volume = torch.rand(1, *shape)
    quick, window = swift(network, CPU) if not isinstance(network, Trivial) else network, (edge,) * 3
    results: dict[str, Tensor] = {}

    def ours() -> None:
        with torch.no_grad(), kept_memory():
            results["ours"] = slide(volume, quick, window, overlap)

    def theirs() -> None:
        results["theirs"] = predict(volume, network, window, overlap)

    found = in_turn(ours, theirs, rounds, warm=int(rounds > 1))
    size = " x ".join(map(str, shape))
    title = f"sliding windows, {name}: volume {size}, windows {edge}^3, overlap {overlap}, {CLASSES} labels"
    # Plane by plane: a difference of both whole results would be a third one.
    apart = max(float((a - b).abs().max()) for a, b in zip(results["ours"], results["theirs"], strict=True))
    return row(title, "CPU s", found, goal, difference=apart)


def rows(whole: bool) -> Iterator[Row]:
    """The short form, or the size of the goal."""
    if whole:
        size = (512, 512, 300)
        yield compared("no network", Trivial(), 96, size, 0.5, 1)
        network = SegmentationNetwork(build_encoder("unet", 1, 12, 96), CLASSES).eval()
        yield compared("tiny U-Net", network, 96, size, 0.5, 1)
        return
    network = SegmentationNetwork(build_encoder("unet", 1, 12, 32), CLASSES).eval()
    for overlap in (0.5, 0.75):
        yield compared("tiny U-Net", network, 32, (64,) * 3, overlap)
    yield compared("tiny U-Net", network, 64, (96,) * 3, 0.5, 1)
    yield compared("no network", Trivial(), 32, (96,) * 3, 0.5, goal="")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tell(rows(full(__doc__)))
