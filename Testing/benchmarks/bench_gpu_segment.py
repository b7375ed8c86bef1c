"""Fine-tuning and prediction on a GPU beside MONAI's usual way, both in bf16, by the wall.

Run: python Testing/benchmarks/bench_gpu_segment.py [--full] [--device cuda]
Windows: 512 x 512 x 300 voxels in memory to a label map in memory, 14 labels, overlap 0.5, windows of 96^3. Epochs: as
in bench_finetune.py, cases prepared or in MONAI's cache, loader workers as many for both. Without a GPU it ends with
the code for "skipped"; --tiny --device cpu tries it out.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import bench_finetune
import torch
from baselines.monai_pipeline import predict
from bench_windows import within
from on_gpu import Clock, device_name, gpu_options, skip_without
from side_by_side import Row, in_turn, row, tell
from torch import Tensor, nn

from VoCoCore.data.phantom import make_cohort
from VoCoCore.data.workers import usual_workers
from VoCoCore.devices import Machine, choose
from VoCoCore.inference.swift import swift
from VoCoCore.inference.tiling import tile
from VoCoCore.inference.windows import slabs
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.networks import SegmentationNetwork
from VoCoCore.settings import RunSettings

CLASSES = 14


def ours(volume: Tensor, network: nn.Module, edge: int, machine: Machine) -> Tensor:
    """Label map (X, Y, Z) by our windows, layer by layer, as `Predictor` does it."""
    window = (edge,) * 3
    axis = tile(volume.shape[1:], window, 0.5).axis
    pieces = slabs(volume, within(machine, network), window, 0.5, device=machine.device)
    return torch.cat([logits.argmax(0).to(torch.uint8).cpu() for _, logits in pieces], dim=axis)


def theirs(volume: Tensor, network: nn.Module, edge: int, machine: Machine) -> Tensor:
    """The same by MONAI's, with volume and sums on the device."""
    with machine.autocast():
        logits = predict(volume.to(machine.device), network, (edge,) * 3, 0.5)
    return logits.argmax(0).to(torch.uint8).cpu()


def windows(device: str, tiny: bool) -> Iterator[Row]:
    """A small and a large network over a large volume."""
    clock, machine = Clock(device), choose(RunSettings(device=device))
    shape, edge, rounds = ((48, 48, 40), 32, 1) if tiny else ((512, 512, 300), 96, 3)
    volume, more = torch.rand(1, *shape), {"device": device_name(device)}
    for name, encoder, size in (("tiny U-Net", "unet", 12), ("base Swin-UNETR", "swin_unetr", 48))[
        : 1 if tiny else 2
    ]:
        torch.manual_seed(0)
        network = (
            SegmentationNetwork(build_encoder(encoder, 1, size, (edge,) * 3), CLASSES)
            .to(machine.device)
            .eval()
        )
        quick = swift(network, machine)
        found = in_turn(
            partial(ours, volume, quick, edge, machine),
            partial(theirs, volume, network, edge, machine),
            rounds,
            clock=clock.seconds,
        )
        alike = (ours(volume, quick, edge, machine) == theirs(volume, network, edge, machine)).float().mean()
        title = f"sliding windows, {name}: volume {' x '.join(map(str, shape))}, windows {edge}^3, {CLASSES} labels"
        yield row(title, "s", found, "ratio >= 2", alike=float(alike), **more)


def epochs(device: str, tiny: bool) -> Iterator[Row]:
    """Both cohorts of bench_finetune."""
    clock, workers = Clock(device), 0 if tiny else usual_workers(torch.device("cuda"), 1)
    more, cases, rounds = {"device": device_name(device)}, *((2, 1) if tiny else (20, 3))
    for name, (shape, size) in list(bench_finetune.COHORTS.items())[: 1 if tiny else 2]:
        with tempfile.TemporaryDirectory() as scratch:
            cohort = make_cohort(Path(scratch) / "cohort", cases, size=shape)
            settings = bench_finetune.settings_of(size, cases, device, "auto")
            mine = bench_finetune.ours(cohort, settings, Path(scratch), True, workers)
            peer = bench_finetune.theirs(cohort, settings, True, workers)
            found = in_turn(mine, peer, rounds, clock=clock.seconds)
        title = f"fine-tuning epoch, {name}: {cases} cases, 2 crops of {' x '.join(map(str, size))} each"
        yield row(title, "s", found, "ratio >= 2", **more)


def main() -> None:
    """Print the rows."""
    given = gpu_options(__doc__).parse_args()
    skip_without(given.device)
    warnings.simplefilter("ignore")
    tell(windows(given.device, given.tiny))
    tell(epochs(given.device, given.tiny))


if __name__ == "__main__":
    main()
