"""One pre-training job of a few steps, for bench_scale: prints what starting it, a step and an item took, as JSON.

Run: python Testing/benchmarks/scale_job.py INDEX STORE RUN WORKERS STEPS, or by torchrun for several ranks.
Its network costs little, so that what grows with cases, workers or ranks is seen.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from side_by_side import cpu_seconds, peak_mb

from VoCoCore.data.loading import Samples
from VoCoCore.data.sampling import TRAIN
from VoCoCore.devices import this_rank
from VoCoCore.presets import resolve_pretrain
from VoCoCore.pretext.voco import VoCo
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.settings import PretrainSettings
from VoCoCore.training.cohort import Cohort, gather_cohort
from VoCoCore.training.pretrain import pretrain

WARM, ITEMS, TURNS = 3, 50, 4


def small_settings(**private: Any) -> PretrainSettings:
    """Recipe v1 with the smallest network that is still one, and few crops."""
    model = {"model.encoder": "unet", "model.feature_size": 4, "model.projector_width": 64}
    model |= {"crops.counts": (2, 2, 1), "crops.random_crops": 2}
    run = {"run.device": "cpu", "run.threads": 1, "run.log_every": 1, "optim.steps": 10_000}
    named = {name.replace("__", "."): value for name, value in private.items()}
    return resolve_pretrain({}, {"recipe": "v1", "preset": "tiny", **model, **run, **named})


def main(index: str, store: str, run: str, workers: str, steps: str) -> None:
    """Do the job and print."""
    settings = small_settings(data__source=index, data__store=store, data__workers=int(workers))
    begun, before = time.process_time(), peak_mb()
    found: dict[str, Any] = {}
    walls: list[float] = []
    own: list[float] = []

    def listen(event: dict[str, Any]) -> None:
        if event["type"] == "started":
            found.update(start=time.process_time() - begun, memory=peak_mb() - before)
        if event.get("split") == "train":
            walls.append(time.perf_counter())
            own.append(time.process_time())

    # All ranks stop when the first one, which alone hears events, has seen enough.
    pretrain(settings, run, listeners=[listen], should_stop=lambda: len(walls) > WARM + int(steps))
    if this_rank():
        return
    for name, times in (("wall", walls), ("cpu", own)):
        found[name] = [b - a for a, b in zip(times[WARM:], times[WARM + 1 :], strict=False)]
    print(json.dumps({**found, **afterwards(settings, run)}))


def afterwards(settings: PretrainSettings, run: str) -> dict[str, Any]:
    """CPU seconds of finding the same cohort again, as a resumed job does, and of an item in several rounds."""
    kept: list[Cohort] = []

    def again() -> None:
        kept.append(gather_cohort(settings, RunDirectory(run), lambda kind, **more: None, lambda: False))

    seconds, cohort = cpu_seconds(again), kept[0]
    samples = Samples(Path(cohort.store), cohort.train, partial(VoCo.views, settings, stream=TRAIN), seed=0)

    def some(turn: int) -> float:
        numbers = range(turn * ITEMS, (turn + 1) * ITEMS)
        return cpu_seconds(lambda: [samples[number] for number in numbers]) / ITEMS

    items = [some(turn) for turn in range(TURNS)]
    return {"again": seconds, "item": items}


if __name__ == "__main__":
    main(*sys.argv[1:])
