"""Sliding windows beside MONAI's: the same network, windows, overlap and weights, on one thread of a CPU.

Run: python Testing/benchmarks/bench_windows.py [--full]
--full: 512 x 512 x 300 voxels and 14 labels, with a network that costs nothing and a small one. Both sides compute in
float32; where the processor multiplies bf16 natively, rows follow with ours in it, beside MONAI's in either.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator

import torch
from baselines.monai_pipeline import predict
from side_by_side import Row, full, in_turn, row, tell
from torch import Tensor, nn

from VoCoCore.devices import Machine, multiplies_bf16
from VoCoCore.inference.allocator import kept_memory
from VoCoCore.inference.swift import swift
from VoCoCore.inference.windows import slide
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.networks import SegmentationNetwork

CLASSES, ROUNDS = 14, 3
FP32, BF16 = (Machine(torch.device("cpu"), precision, "") for precision in ("fp32", "bf16"))


class Trivial(nn.Module):
    """Costs next to nothing, so that what is left is the windows' own cost."""

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, CLASSES, -1, -1, -1).contiguous()


def within(machine: Machine, network: nn.Module) -> Callable[[Tensor], Tensor]:
    """``network`` at the precision of ``machine``, its logits in float32."""

    def answer(windows: Tensor) -> Tensor:
        with machine.autocast():
            return network(windows).float()

    return answer


def compared(
    name: str,
    network: nn.Module,
    edge: int,
    shape: tuple[int, ...],
    overlap: float,
    rounds: int = ROUNDS,
    goal: str = "ratio >= 1.5",
    machines: tuple[Machine, Machine] = (FP32, FP32),
) -> Row:
    """One comparison; the largest difference of the results stands beside it."""
    volume = torch.rand(1, *shape)
    mine, peer = machines
    quick, window = swift(network, mine) if not isinstance(network, Trivial) else network, (edge,) * 3
    results: dict[str, Tensor] = {}

    def ours() -> None:
        with torch.no_grad(), kept_memory():
            results["ours"] = slide(volume, within(mine, quick), window, overlap)

    def theirs() -> None:
        results["theirs"] = predict(volume, within(peer, network), window, overlap)

    found = in_turn(ours, theirs, rounds, warm=int(rounds > 1))
    size = " x ".join(map(str, shape))
    words = "" if mine is FP32 else " in bf16, both" if peer is BF16 else " in bf16 beside float32"
    title = f"sliding windows{words}, {name}: volume {size}, windows {edge}^3, overlap {overlap}, {CLASSES} labels"
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
    if multiplies_bf16(BF16.device):
        for machines in ((BF16, FP32), (BF16, BF16)):
            for edge, shape in ((32, (64,) * 3), (64, (96,) * 3)):
                yield compared("tiny U-Net", network, edge, shape, 0.5, machines=machines)
    yield compared("no network", Trivial(), 32, (96,) * 3, 0.5, goal="")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tell(rows(full(__doc__)))
