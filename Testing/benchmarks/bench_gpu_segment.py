"""Fine-tuning and prediction on a GPU beside MONAI's usual way, both in bf16, by the wall.

Run: python Testing/benchmarks/bench_gpu_segment.py [--full] [--device cuda]
Windows: 512 x 512 x 300 voxels in memory to a label map in memory, 14 labels, overlap 0.5, windows of 96^3. Epochs: as
in bench_finetune.py, cases prepared or in MONAI's cache, loader workers as many for both, kept from epoch to epoch, and
fewer where /dev/shm is small. What ours has read ahead while MONAI's was timed is taken first, without a step, and one
epoch of either goes by untimed (`on_gpu.Fed`). Without a GPU it ends with the code for "skipped"; --tiny --device cpu
tries it out.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path

import bench_finetune
import torch
from baselines.monai_pipeline import predict
from bench_windows import within
from on_gpu import Clock, Fed, device_name, gpu_options, loader_workers, skip_without
from side_by_side import Row, in_turn, row, tell
from torch import Tensor, nn

from VoCoCore.data.phantom import make_cohort
from VoCoCore.data.workers import PREFETCHED
from VoCoCore.devices import Machine, choose
from VoCoCore.inference.swift import swift
from VoCoCore.inference.tiling import tile
from VoCoCore.inference.windows import slabs
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.networks import SegmentationNetwork
from VoCoCore.settings import RunSettings

CLASSES = 14
EPOCHS = 5  # of a stretch


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
    clock, cases, rounds, times = Clock(device), *((2, 1, 1) if tiny else (20, 3, EPOCHS))
    # A batch of MONAI's is the larger one: image and label in float32.
    largest = max(8 * bench_finetune.CROPS * prod(size) for _, size in bench_finetune.COHORTS.values())
    workers = 0 if tiny else loader_workers(largest)
    more = {"device": device_name(device, workers)}
    for name, (shape, size) in list(bench_finetune.COHORTS.items())[: 1 if tiny else 2]:
        with tempfile.TemporaryDirectory() as scratch:
            cohort = make_cohort(Path(scratch) / "cohort", cases, size=shape)
            settings = bench_finetune.settings_of(size, cases, device, "auto")
            batches = bench_finetune.our_batches(cohort, settings, Path(scratch), workers)
            epoch = bench_finetune.our_epoch(batches, settings, cases, True)
            peer = bench_finetune.theirs(cohort, settings, True, workers)  # which begins anew in each epoch
            stretch = partial(clock.stretch, times=times, untimed=1)
            found = in_turn(Fed(epoch, batches, PREFETCHED * workers), peer, rounds, clock=stretch)
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
