"""An epoch of fine-tuning beside MONAI's usual pipeline: the same cases, network, loss, crops and augmentation.

Run: python Testing/benchmarks/bench_finetune.py [--full]
Cases are prepared, or decoded into MONAI's cache, before the clock starts: it is a later epoch that is measured. Short:
4 and 2 cases; --full: 20 like the hippocampus (crops of 32 x 48 x 32) and 6 CT-like ones (crops of 64^3). Rows "without
the network" are the same epochs with a network of one convolution of one voxel: what data, augmentation and loss cost.
Both sides compute in float32; where the processor multiplies bf16 natively, rows follow with ours in it, as a job would
be by itself, beside MONAI's in float32, as it is by itself, and beside MONAI's in bf16.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from baselines.monai_pipeline import MonaiTraining, loader
from side_by_side import Row, full, in_turn, row, tell
from torch import Tensor, nn

from VoCoCore.data.cases import Case, Index, Source
from VoCoCore.data.labelled import LabelledSamples
from VoCoCore.data.loading import Numbers, make_loader, to_device
from VoCoCore.data.phantom import LABELS, make_cohort
from VoCoCore.data.prepare import prepare_index
from VoCoCore.data.store import Store
from VoCoCore.data.wanted import Wanted
from VoCoCore.devices import choose, multiplies_bf16
from VoCoCore.downstream.segmentation import Segmentation
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.inference.allocator import kept_memory
from VoCoCore.models.card import OutputClass, palette
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.networks import SegmentationNetwork
from VoCoCore.models.placing import placed
from VoCoCore.protocols import resolve_finetune
from VoCoCore.training.updates import Updater

WINDOW, CROPS = (-175.0, 250.0), 2
IN_WORDS = {
    ("fp32", "fp32"): "",
    ("bf16", "fp32"): " in bf16 beside float32",
    ("bf16", "bf16"): " in bf16, both",
}
Size = tuple[int, int, int]
COHORTS: dict[str, tuple[Size, Size]] = {
    "hippocampus-like": ((36, 50, 36), (32, 48, 32)),
    "CT-like": ((128, 128, 96), (64, 64, 64)),
}


def settings_of(size: Size, cases: int, device: str = "cpu", precision: str = "fp32") -> FinetuneSettings:
    """As MONAI's pipeline has it: one case a step, no clipping."""
    options: dict[str, Any] = {
        "patches.size": size,
        "patches.per_case": CROPS,
        "patches.balance": "voxels",
        "augment.flip": (0.2,) * 3,
        "augment.turn": 0.2 if size[0] == size[1] else 0.0,
        "prepare.window": WINDOW,
        "prepare.foreground": 0.0,
        "prepare.intensity": "ct",
        "optim.batch": 1,
        "optim.clip": None,
        "optim.steps": cases,
        "run.device": device,
        "run.precision": precision,
        "run.threads": 1,
    }
    return resolve_finetune({}, options)


def network_of(size: Size, outputs: int, real: bool) -> nn.Module:
    """The tiny 3D U-Net, or next to nothing; always the same."""
    torch.manual_seed(0)
    return (
        SegmentationNetwork(build_encoder("unet", 1, 12, size), outputs) if real else nn.Conv3d(1, outputs, 1)
    )


def our_batches(
    cohort: Path, settings: FinetuneSettings, folder: Path, workers: int = 0
) -> Iterator[dict[str, Tensor]]:
    """Batches of our loader, one case each, without end; the cases are prepared in ``folder`` first."""
    images = sorted((cohort / "imagesTr").iterdir())
    cases = [Case(p.name, (Source(str(p)),), Source(str(cohort / "labelsTr" / p.name))) for p in images]
    wanted = Wanted(settings.prepare, (1, 1, 1), None, tuple(range(len(LABELS))), "int16")
    store = Store(folder / "store")
    keys = list(prepare_index(Index(tuple(cases)), wanted, store, workers=0).keys)
    samples = LabelledSamples(store.root, keys, settings)
    return make_loader(samples, Numbers(0, 1_000_000, 1), workers, settings.run.device == "cuda")


def our_epoch(
    batches: Iterator[dict[str, Tensor]], settings: FinetuneSettings, cases: int, real: bool
) -> Callable[[], None]:
    """One epoch of ours: as many batches as there are cases."""
    size, values = settings.patches.size, range(len(LABELS))
    assert size
    colours = palette(len(values))
    classes = [OutputClass(str(n), (n,), colour) for n, colour in zip(values, colours, strict=True)]
    machine, network = choose(settings.run), network_of(size, len(values), real)
    task = placed(Segmentation(settings, network, classes, "softmax"), machine).train()  # type: ignore[arg-type]
    updater = Updater(task.parameters(), settings.optim, machine)

    @kept_memory()
    def epoch() -> None:
        for _ in range(cases):
            with machine.autocast():
                loss = task(to_device(next(batches), machine.device)).loss
            updater.backward(loss)
            updater.step(3e-4)

    return epoch


def ours(cohort: Path, settings: FinetuneSettings, folder: Path, real: bool) -> Callable[[], None]:
    """The same with a loader of its own, in this process."""
    cases = len(list((cohort / "imagesTr").iterdir()))
    return our_epoch(our_batches(cohort, settings, folder), settings, cases, real)


def theirs(cohort: Path, settings: FinetuneSettings, real: bool, workers: int = 0) -> Callable[[], Any]:
    """One epoch of MONAI's pipeline with its cases in memory."""
    size = settings.patches.size
    assert size
    images = sorted((cohort / "imagesTr").iterdir())
    files = [{"image": str(p), "label": str(cohort / "labelsTr" / p.name)} for p in images]
    batches = loader(files, WINDOW, size, CROPS, workers=workers, pin=settings.run.device == "cuda")
    training = MonaiTraining(network_of(size, len(LABELS), real), 3e-4, choose(settings.run))
    return lambda: training.epoch(batches)


def rows(whole: bool) -> Iterator[Row]:
    """Both cohorts, with and without the network."""
    for name, (shape, size) in COHORTS.items():
        cases = {"hippocampus-like": 20, "CT-like": 6}[name] if whole else {"CT-like": 2}.get(name, 4)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            cohort = make_cohort(folder / "cohort", cases, size=shape)
            edges = " x ".join(map(str, size))
            for real, pair in compared():
                mine, peer = (settings_of(size, cases, precision=precision) for precision in pair)
                ways = ours(cohort, mine, folder, real), theirs(cohort, peer, real)
                found = in_turn(*ways, 3 if whole or not real else 1)
                what = ("" if real else " without the network") + IN_WORDS[pair]
                title = f"fine-tuning epoch{what}, {name}: {cases} cases, {CROPS} crops of {edges} each"
                yield row(title, "CPU s", found, "ratio >= 2" if real else "")


def compared() -> Iterator[tuple[bool, tuple[str, str]]]:
    """Whether the network is the real one, and the precision of either side."""
    yield True, ("fp32", "fp32")
    yield False, ("fp32", "fp32")
    if multiplies_bf16(torch.device("cpu")):
        yield True, ("bf16", "fp32")
        yield True, ("bf16", "bf16")


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tell(rows(full(__doc__)))
