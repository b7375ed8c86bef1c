"""Where the time of a step goes: the published step of recipe v1 and ours, MONAI's usual fine-tuning and ours.

Run: python Testing/benchmarks/profile_step.py [--full] [--kernels]
Prints one table for each, CPU ms of a step by part, the median of rounds taken in turn; --full: the base network and
CT-like cases; --kernels: what torch.profiler saw of our steps too. A part's time is without that of the parts in it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import bench_finetune
import bench_step
import torch
from baselines import published_step
from monai import transforms
from monai.data import Dataset
from monai.losses import DiceCELoss
from side_by_side import options
from torch.profiler import profile, record_function

from VoCoCore.data.labelled import LabelledSamples
from VoCoCore.data.loading import Samples
from VoCoCore.data.phantom import make_cohort
from VoCoCore.downstream import segmentation
from VoCoCore.models.networks import SegmentationNetwork
from VoCoCore.models.teacher import Teacher
from VoCoCore.pretext.voco import VoCo
from VoCoCore.training.updates import Updater

DATA, CROPS, FORWARD, TEACHER = "data", "crops, augmentation", "forward pass", "teacher"
AVERAGE, LOSS, BACKWARD, UPDATE, OTHER = "moving average", "loss", "backward pass", "optimiser", "other"
PARTS = (DATA, CROPS, FORWARD, TEACHER, AVERAGE, LOSS, BACKWARD, UPDATE, OTHER)
ROUNDS = 3
Step = Callable[[int], Any]
Spent = dict[str, list[float]]


class Clock:
    """CPU time of this process by the part that it is in."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.within, self.last = [OTHER], time.process_time()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is done inside belongs to ``name``, less what belongs to a part within."""
        self.mark()
        self.within.append(name)
        try:
            with record_function(name):
                yield
        finally:
            self.mark()
            self.within.pop()

    def mark(self) -> None:
        """Count the time since the last mark."""
        now = time.process_time()
        self.spent[self.within[-1]] += now - self.last
        self.last = now

    def naming(self, owner: Any, method: str, name: str | Callable[[], str]) -> Any:
        """A context in which calls of a method, or of a function of a module, belong to a part."""
        plain = getattr(owner, method)

        def timed(*words: Any, **more: Any) -> Any:
            with self.part(name if isinstance(name, str) else name()):
                return plain(*words, **more)

        return patch.object(owner, method, timed)


def student_or_teacher() -> str:
    """Which of the two published networks is at work."""
    return FORWARD if torch.is_grad_enabled() else TEACHER


def names(clock: Clock) -> Iterator[Any]:
    """Where the parts of all four steps begin and end."""
    for owner, method, name in (
        (torch.Tensor, "backward", BACKWARD),
        (torch.optim.AdamW, "step", UPDATE),
        (Updater, "step", UPDATE),
        (Teacher, "follow", AVERAGE),
        (Samples, "sample", DATA),
        (VoCo, "cut", CROPS),
        (VoCo, "forward", FORWARD),
        (VoCo, "_teach", TEACHER),
        (VoCo, "losses", LOSS),
        (LabelledSamples, "sample", DATA),
        (segmentation.Downstream, "crops", CROPS),
        (segmentation.Segmentation, "target", LOSS),
        (segmentation, "segmentation_loss", LOSS),
        (SegmentationNetwork, "forward", FORWARD),
        (bench_step, "volume_from", DATA),
        (bench_step, "crops_of", CROPS),
        (published_step.PublishedStep, "_follow", AVERAGE),
        (published_step, "prediction", LOSS),
        (published_step, "regulariser", LOSS),
        (Dataset, "__getitem__", DATA),
        (transforms.RandCropByPosNegLabeld, "__call__", CROPS),
        (transforms.RandFlipd, "__call__", CROPS),
        (transforms.RandRotate90d, "__call__", CROPS),
        (transforms.RandScaleIntensityd, "__call__", CROPS),
        (transforms.RandShiftIntensityd, "__call__", CROPS),
        (DiceCELoss, "forward", LOSS),
    ):
        yield clock.naming(owner, method, name)
    yield clock.naming(published_step.PublishedNetwork, "forward", student_or_teacher)


def by_part(before: Step, after: Step, steps: int) -> tuple[Spent, Spent]:
    """Seconds of each part of a step in each round; a round is one call, which does ``steps``."""
    found: tuple[Spent, Spent] = {}, {}
    with ExitStack() as stack:
        clock = Clock()
        for name in names(clock):
            stack.enter_context(name)
        for number in range(ROUNDS + 1):
            for kept, step in zip(found, (before, after), strict=True):
                clock.mark()
                clock.spent.clear()
                step(number)
                clock.mark()
                for part in PARTS if number else ():  # the first one warms up
                    kept.setdefault(part, []).append(clock.spent[part] / steps)
    return found


def table(title: str, found: tuple[Spent, Spent]) -> None:
    """Print the parts as a table of Markdown."""
    before, after = ({part: 1e3 * statistics.median(each) for part, each in side.items()} for side in found)
    print(f"\n{title}\n\n| Part | Before, CPU ms | After, CPU ms | Share of it |\n|---|---|---|---|")
    whole = sum(after.values())
    for part in PARTS:
        if before[part] + after[part]:
            print(f"| {part} | {before[part]:.1f} | {after[part]:.1f} | {after[part] / whole:.1%} |")
    print(f"| whole step | {sum(before.values()):.1f} | {whole:.1f} | |")


def kernels(step: Step) -> None:
    """Print what torch.profiler sees of one more call."""
    with profile() as seen:
        step(ROUNDS + 1)
    print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40))


def steps_of(folder: Path, whole: bool) -> Iterator[tuple[str, Step, Step, int]]:
    """Both kinds of training: a title, the published way, ours, and steps a call."""
    size, grid = (48, (2, 1, 1)) if whole else (12, (2, 1, 1))
    image, fast = bench_step.made_image(folder), bench_step.settings_of("fast", size, grid)
    published = bench_step.published(image, bench_step.settings_of("published", size, grid))
    title = f"v1 step, feature size {size}, 1 volume, 3 crops of 64^3 (before: as published)"
    yield title, published, bench_step.ours(image, fast, folder), 1
    kind, cases = ("CT-like", 2) if whole else ("hippocampus-like", 4)
    shape, edges = bench_finetune.COHORTS[kind]
    settings = bench_finetune.settings_of(edges, cases)
    cohort = make_cohort(folder / "cohort", cases, size=shape)
    mine = bench_finetune.ours(cohort, settings, folder / "labelled", True)
    peer = bench_finetune.theirs(cohort, settings, True)
    title = f"fine-tuning step, {kind}, 2 crops of {' x '.join(map(str, edges))} (before: MONAI's usual way)"
    yield title, lambda _: peer(), lambda _: mine(), cases


def main() -> None:
    """Print both tables."""
    parser = options(__doc__)
    parser.add_argument("--kernels", action="store_true", help="what torch.profiler saw of our steps")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        for title, before, after, steps in steps_of(Path(scratch), given.full):
            table(title, by_part(before, after, steps))
            if given.kernels:
                kernels(after)


if __name__ == "__main__":
    main()
