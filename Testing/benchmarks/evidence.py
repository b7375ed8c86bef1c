"""Does pre-training help? One command that pre-trains and fine-tunes at equal budgets, and writes table and figure.

    python Testing/benchmarks/evidence.py            Table 6 (2 and 5 labels, 5 draws), Table 7 (three grids, 3 draws)
    python Testing/benchmarks/evidence.py --all      every grid and number of labels of the paper: for a GPU
    python Testing/benchmarks/evidence.py --hippocampus FOLDER     real MRs: pre-train on all images, fine-tune on few

Everything is made under --work and can be stopped and started again: a finished cell is a JSON file under
docs/evidence/, a pre-training goes on from its checkpoint. The cohort is the synthetic torso of
`VoCoCore.data.phantom`, whose look-alikes only their place in the body tells apart.

Every cell has the same fine-tuning: so many labelled cases (the draw chooses which), so many steps, the last state,
never the best one; scored by mean Dice over held-out cases that nothing was chosen by.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evidence_page import write_page
from evidence_plan import (
    COHORT_SEEDS,
    FINETUNE,
    HELD_OUT,
    METHODS,
    MR_DRAWS,
    MR_FINETUNE,
    MR_GRID,
    MR_HELD_OUT,
    MR_PRETRAIN,
    PRETRAIN,
    TRAIN,
    UNLABELLED,
    Cell,
    cells,
)

from VoCoCore.data.cases import load_index, save_index
from VoCoCore.data.phantom import make_cohort
from VoCoCore.data.sources import index_source
from VoCoCore.evaluation.finetune_report import result_of
from VoCoCore.presets import resolve_pretrain
from VoCoCore.protocols import resolve_finetune
from VoCoCore.runs.directory import is_run
from VoCoCore.runs.files import write_json
from VoCoCore.runs.follow import Follower
from VoCoCore.training.finetune import finetune
from VoCoCore.training.pretrain import pretrain

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "evidence"


class Bench:
    """Where cohorts, stores and runs of the evidence lie, and what makes them."""

    def __init__(self, work: Path, device: str, threads: int | None) -> None:
        self.work = work
        self.common = {"data.store": str(work / "store"), "run.device": device, "run.threads": threads}
        self.common = {name: value for name, value in self.common.items() if value is not None}

    def cohort(self, kind: str, cases: int, labels: bool) -> Path:
        """A synthetic cohort, made once."""
        folder = self.work / kind
        if not (folder / "dataset.json").is_file():
            make_cohort(folder, cases, COHORT_SEEDS[kind], labels=labels, progress=_tell(f"making {kind}"))
        return folder

    def labelled(self) -> Path:
        """An index of the labelled cases, of which the last HELD_OUT are validated on and never trained on."""
        path = self.work / "labelled.json"
        if not path.is_file():
            index = index_source(self.cohort("labelled", TRAIN + HELD_OUT, labels=True))
            save_index(_with_held_out(index, HELD_OUT), path)
        return path

    def pretrained(
        self, source: Path, method: str, grid: str, options: dict[str, Any], name: str
    ) -> Path | None:
        """The run that a cell starts from, done where it is not yet; None for scratch."""
        changes = METHODS[method]
        if changes is None:
            return None
        run = self.work / "pretrain" / f"{name}-{grid}-{'reg' if not changes else 'pred'}"
        if not (run / "weights" / "encoder.safetensors").is_file():
            where = {"data.source": str(source), **_grid(grid, options)}
            settings = resolve_pretrain({}, {**options, **self.common, **changes, **where})
            pretrain(settings, run, resume=is_run(run), listeners=[_progress(f"pre-training {run.name}")])
        return run

    def score(self, cell: Cell, source: Path, start: Path | None, options: dict[str, Any]) -> dict[str, Any]:
        """Carry a cell out; what it scored, by class."""
        run = self.work / "finetune" / f"{cell.name}-{options['optim.steps']}"
        began = time.monotonic()
        if not (run / "weights" / "model.safetensors").is_file():
            chosen = {
                "init": str(start) if start else "scratch",
                "data.source": str(source),
                "data.labels": cell.labels,
                "data.label_seed": cell.draw,
                "run.seed": cell.draw,
                "run.validate_every": options["optim.steps"],
                "run.checkpoint_every": options["optim.steps"],
            }
            settings = resolve_finetune({}, {**options, **self.common, **chosen})
            finetune(settings, run, resume=is_run(run), listeners=[_progress(cell.name)])
        values = result_of(run)
        environment = json.loads((run / "environment.json").read_text())
        return {
            **asdict(cell),
            "scores": values,
            "pretext": _pretext(start),
            "seconds": time.monotonic() - began,
            "device": environment["device"],
        }


def _grid(grid: str, options: dict[str, Any]) -> dict[str, Any]:
    """Settings of a grid such as 4x4x1: random crops and inputs have the size of its base crops, at least 16."""
    counts = tuple(map(int, grid.split("x")))
    volume = tuple(max(edge, 16 * n) for edge, n in zip(options["crops.volume_size"], counts, strict=True))
    size = tuple(edge // n for edge, n in zip(volume, counts, strict=True))
    return {
        "crops.volume_size": volume,
        "crops.counts": counts,
        "crops.base_size": size,
        "crops.input_size": size,
    }


def _with_held_out(index: Any, count: int) -> Any:
    first = len(index.cases) - count
    cases = (replace(c, split="train" if n < first else "val") for n, c in enumerate(index.cases))
    return replace(index, cases=tuple(cases))


def torso(bench: Bench, everything: bool, results: Path) -> None:
    """All cells of the synthetic torso."""
    source, labelled = bench.cohort("unlabelled", UNLABELLED, labels=False), bench.labelled()
    _carry_out(bench, list(cells(everything)), source, labelled, "torso", PRETRAIN, FINETUNE, results)


def hippocampus(bench: Bench, folder: Path, results: Path) -> None:
    """All cells of the real MRs: pre-trained on the images of all cases that are not held out."""
    path, unlabelled = bench.work / "hippocampus.json", bench.work / "hippocampus-images.json"
    if not path.is_file():
        index = _with_held_out(index_source(folder), MR_HELD_OUT)
        save_index(index, path)
        train = [replace(c, label=None, split=None) for c in index.cases if c.split == "train"]
        save_index(replace(index, cases=tuple(train)), unlabelled)
    counts = (3, 5, 10, sum(case.split == "train" for case in load_index(path).cases))
    made = [
        Cell("hippocampus", method, MR_GRID, labels, draw)
        for draw in MR_DRAWS
        for labels in counts
        for method in ("scratch", "L_pred + L_reg")
        if labels < max(counts) or draw == MR_DRAWS[0]
    ]
    _carry_out(
        bench, made, unlabelled, path, "hippocampus", {**PRETRAIN, **MR_PRETRAIN}, MR_FINETUNE, results
    )


def _carry_out(
    bench: Bench,
    made: list[Cell],
    source: Path,
    labelled: Path,
    name: str,
    before: dict[str, Any],
    after: dict[str, Any],
    results: Path,
) -> None:
    asked = {
        "settings": _digest([before, after]),
        "steps": [before["optim.steps"], after["optim.steps"]],
    }
    for cell in made:
        path = results / f"{cell.name}.json"
        if path.is_file() and asked.items() <= json.loads(path.read_text()).items():
            continue
        start = bench.pretrained(source, cell.method, cell.grid, before, name)
        if "prepare.spacing" not in after:
            usual = MR_GRID if name == "hippocampus" else "4x4x1"
            reference = bench.pretrained(source, "L_pred + L_reg", usual, before, name)
            after = {**after, "prepare.spacing": _scale(reference)}
        found = {**bench.score(cell, labelled, start, after), **asked}
        write_json(path, found)
        print(f"{cell.name}: mean Dice {found['scores']['dice']:.3f} in {found['seconds']:.0f} s", flush=True)


def _digest(settings: Any) -> str:
    """Tells a cell that was made with other settings, which is made anew."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _scale(run: Path | None) -> tuple[float, ...]:
    """The mean voxel size that a network was pre-trained at: every cell is fine-tuned at it, scratch too."""
    from VoCoCore.models.weight_files import read_weight_file

    assert run is not None
    return tuple(
        map(float, read_weight_file(run / "weights" / "encoder.safetensors").metadata["spacing"].split(","))
    )


def _pretext(run: Path | None) -> dict[str, float]:
    """What a pre-training had learnt at its end, on held-out volumes; nothing for scratch."""
    if run is None:
        return {}
    follower = Follower(run)
    follower.read_all()
    values = follower.summary().val
    return {name: values[name] for name in ("position_accuracy", "accuracy_low", "chance", "effective_rank")}


def _tell(what: str) -> Any:
    return lambda done, total, text: print(f"{what} {done}/{total}", flush=True) if done % 50 == 0 else None


def _progress(name: str) -> Any:
    last = [0.0]

    def listen(event: dict[str, Any]) -> None:
        if event["type"] == "warning":
            print(f"{name}: {event['message']}  ({event.get('hint', '')})", flush=True)
        if event["type"] == "progress" and time.monotonic() - last[0] > 60:
            last[0] = time.monotonic()
            print(
                f"{name}: step {event['step']} of {event['total']}, {event['eta_s'] / 60:.0f} min left",
                flush=True,
            )

    return listen


def main(words: list[str] | None = None) -> int:
    """Carry out what is missing, then write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("evidence-work"), help="cohorts, stores and runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="finished cells, as JSON")
    parser.add_argument("--all", action="store_true", help="every grid and number of labels")
    parser.add_argument("--hippocampus", type=Path, metavar="FOLDER", help="the Decathlon's Task04 instead")
    parser.add_argument(
        "--steps",
        type=int,
        help=f"of a fine-tuning, default {FINETUNE['optim.steps']}; MR: {MR_FINETUNE['optim.steps']}",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    asked = parser.parse_args(words)
    asked.results.mkdir(parents=True, exist_ok=True)
    for settings in (FINETUNE, MR_FINETUNE):
        settings["optim.steps"] = asked.steps or settings["optim.steps"]
    bench = Bench(asked.work.resolve(), asked.device, asked.threads)
    if asked.hippocampus:
        hippocampus(bench, asked.hippocampus, asked.results)
    else:
        torso(bench, asked.all, asked.results)
    print(write_page(asked.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
