"""Fine-tuning and prediction on a GPU beside MONAI's usual way, both in bf16, by the wall.

Run: python Testing/benchmarks/bench_gpu_segment.py [--full] [--device cuda]
Predictions: 512 x 512 x 300 voxels in memory to a label map in memory, by all that `voco predict` does between reading
and writing a file, with all cores of the host, on three ways: from a prepared volume; from voxels as either reader
leaves them, whose intensities are scaled; and from these resampled to 1.5 mm, the logits led back. Both sides share the
network with its weights, 14 classes, windows of 96^3, four at a time, overlap 0.5 and Gaussian weights, the precision,
preparing on the host, and a device that holds the volume and the sums. On a GPU ours has no network of its own: what
differs is what is done around it. ``alike`` is the share of voxels with the same label (MONAI weights logits in bf16).
Epochs: as in bench_finetune.py, cases prepared or in MONAI's cache, loader workers as many for both, kept from epoch to
epoch, and fewer where /dev/shm is small. What ours has read ahead while MONAI's was timed is taken first, without a
step, and one epoch of either goes by untimed (`on_gpu.Fed`). Without a GPU it ends with the code for "skipped";
--tiny --device cpu tries it out.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import bench_finetune
import numpy as np
import torch
from baselines import monai_pipeline
from on_gpu import Clock, Fed, device_name, gpu_options, loader_workers, skip_without
from side_by_side import Row, Work, in_turn, row, tell

from VoCoCore.data.check_pool import usable_cores
from VoCoCore.data.phantom import make_cohort
from VoCoCore.data.workers import PREFETCHED
from VoCoCore.devices import Machine, choose
from VoCoCore.inference.predict import Predictor
from VoCoCore.models.card import ModelCard, OutputClass, palette
from VoCoCore.models.networks import build_network
from VoCoCore.settings import PrepareSettings, RunSettings

CLASSES, OVERLAP, WINDOW = 14, 0.5, (-175.0, 250.0)
AFFINE, SPACING = np.diag([0.8, 0.8, 1.0, 1.0]), (1.5, 1.5, 1.5)
NETWORKS = (("tiny U-Net", "unet", 12), ("base Swin-UNETR", "swin_unetr", 48))
EPOCHS = 5  # of a stretch
Ways = Iterator[tuple[str, str, Work, Work]]


def card_of(encoder: str, size: int, edge: int, spacing: tuple[float, float, float] | None) -> ModelCard:
    """The card of a network for CTs; without ``spacing`` they keep their own."""
    prepare = PrepareSettings(intensity="ct", window=WINDOW, foreground=0.0, fit="pad", spacing=spacing)
    classes = tuple(OutputClass(str(n), (n,), colour) for n, colour in enumerate(palette(CLASSES)))
    return ModelCard("segmentation", encoder, size, (edge,) * 3, classes, "softmax", prepare.to_dict())


def ways(encoder: str, size: int, edge: int, voxels: np.ndarray, machine: Machine) -> Ways:
    """What is done, its goal, and both sides' way to label maps."""
    torch.manual_seed(0)
    plain, coarse = (card_of(encoder, size, edge, spacing) for spacing in (None, SPACING))
    network = build_network(plain).to(machine.device).eval()
    mine, resampling = (Predictor([(network, card)], machine, overlap=OVERLAP) for card in (plain, coarse))
    case, peers = mine.prepare(voxels, AFFINE), (network, plain.window, OVERLAP, machine)
    read = torch.from_numpy(np.ascontiguousarray(voxels)).float()
    peer = partial(monai_pipeline.segment, read, AFFINE, *peers, intensities=WINDOW)
    prepared = partial(monai_pipeline.labels_of, case.images, *peers)
    yield "sliding windows", "ratio >= 2", lambda: mine.segment_prepared(case), prepared
    yield "voxels as read to labels", "", lambda: mine.segment(voxels, AFFINE), peer
    yield (
        "voxels as read to labels, at 1.5 mm",
        "",
        lambda: resampling.segment(voxels, AFFINE),
        partial(peer, spacing=SPACING),
    )


def predictions(device: str, tiny: bool) -> Iterator[Row]:
    """A small and a large network over a large volume."""
    clock, machine = Clock(device), choose(RunSettings(device=device))
    shape, edge, rounds = ((48, 48, 40), 32, 1) if tiny else ((512, 512, 300), 96, 3)
    noise = np.random.default_rng(0).integers(-200, 300, shape[::-1], np.int16)
    voxels = noise.T[None]  # as our reader leaves them: in the file's order
    words, more = " x ".join(map(str, shape)), {"device": device_name(device)}
    for name, encoder, size in NETWORKS[: 1 if tiny else 2]:
        for what, goal, mine, peer in ways(encoder, size, edge, voxels, machine):
            made: dict[str, Any] = {}
            ours = partial(keep, made, "ours", mine)
            found = in_turn(ours, partial(keep, made, "theirs", peer), rounds, clock=clock.seconds)
            alike = float((made["ours"] == made["theirs"]).mean())
            title = f"{what}, {name}: volume {words}, windows {edge}^3, {CLASSES} labels"
            yield row(title, "s", found, goal, alike=alike, **more)


def keep(made: dict[str, Any], name: str, work: Work) -> None:
    """Do it, and keep what comes of it."""
    made[name] = work()


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
    if given.device == "cuda":  # a user's host is not held to one thread, as `run.py bench` has it
        torch.set_num_threads(usable_cores())
    tell(predictions(given.device, given.tiny))
    tell(epochs(given.device, given.tiny))


if __name__ == "__main__":
    main()
