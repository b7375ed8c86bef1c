"""Kill pre-trainings at random moments and see that, gone on with, they end in the same bits.

``python Testing/core/kills.py --moments 100`` does it a hundred times, over all recipes and encoders, and prints a
table for the documentation; `test_kills.py` does it twenty times.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from made_cohorts import SmallCohort
from nursery import Nursery
from safetensors.torch import load_file

from VoCoCore.data.phantom import make_cohort
from VoCoCore.runs.directory import RunDirectory, is_run
from VoCoCore.runs.events import read_events
from VoCoCore.training.checkpoint import MODEL, STATE, newest

RECIPES, ENCODERS = ("paper", "v1", "v2"), ("unet", "unetr", "swin_unetr")
# What else a checkpoint has to hold is exercised along the way.
EXTRAS: dict[tuple[str, str], dict[str, Any]] = {
    ("v1", "unetr"): {"optim__clip": 1.0},
    ("v2", "unet"): {"optim__accumulate": 2},
    ("paper", "unetr"): {"model__checkpointing": True},
}
KILLED = -9
FIRST_SECONDS = 0.1  # of a job, in which it makes its folder


@dataclass
class Outcome:
    """What happened to one recipe with one encoder: how often it was killed, and everything that differs."""

    name: str
    kills: int = 0
    moments: list[float] = field(
        default_factory=list
    )  # share of the whole run's seconds at which it was killed
    started_again: int = 0  # killed before there was a run to go on with
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0


def settings_of(cohort: SmallCohort, recipe: str, encoder: str, steps: int) -> dict[str, Any]:
    """Flat settings of a small job: validation and checkpoints fall between each other."""
    slow = encoder == "swin_unetr"  # its inputs are at least 64^3
    changes = {
        "model__encoder": encoder,
        "model__feature_size": 12 if slow else 4,
        "crops__counts": "1,1,1" if slow else "2,1,1",
        "crops__random_crops": 1,
        "optim__batch": 1 if slow else 2,
        "optim__steps": steps,
        "data__val_fraction": 0.0 if slow else 0.3,
        "run__validate_every": 7,
        "run__checkpoint_every": 1 if steps < 10 else 3,
    }
    return cohort.settings(recipe, **changes, **EXTRAS.get((recipe, encoder), {})).flat()


def try_kills(
    nursery: Nursery, settings: dict[str, Any], folder: Path, kills: int, rng: random.Random, name: str
) -> Outcome:
    """One undisturbed run, then runs that are killed, ``kills`` times in all, some of them more than once."""
    began, outcome = time.monotonic(), Outcome(name)
    whole = nursery.job(settings, folder / "whole")
    assert whole["ended"] == 0, whole["said"]
    while outcome.kills < kills:
        run, most = folder / f"run-{outcome.kills}", rng.choice((1, 1, 2, 3))
        ended = KILLED
        for _ in range(min(most, kills - outcome.kills)):
            ended = _kill_once(nursery, settings, run, whole["seconds"], rng, outcome)
        if ended == KILLED:
            last = _go_on(nursery, settings, run, None, rng, outcome)
            ended = last["ended"]
            outcome.differences += [f"{run.name}: {last['said']}"] if ended else []
        if ended == 0:
            outcome.differences += [f"{run.name}: {text}" for text in differences(folder / "whole", run)]
    outcome.seconds = time.monotonic() - began
    return outcome


def _kill_once(
    nursery: Nursery,
    settings: dict[str, Any],
    run: Path,
    seconds: float,
    rng: random.Random,
    outcome: Outcome,
) -> int:
    after = rng.uniform(0, FIRST_SECONDS) if rng.random() < 0.1 else rng.uniform(0, seconds)
    job = _go_on(nursery, settings, run, after, rng, outcome)
    if job["ended"] == KILLED:
        outcome.kills += 1
        outcome.moments.append(after / seconds)
        state = RunDirectory(run).state() if is_run(run) else "lost"
        if state not in ("lost", "finished"):
            outcome.differences.append(f"{run.name}: killed, it says {state}")
    elif job["ended"] != 0:
        outcome.differences.append(f"{run.name}: {job['said']}")
        outcome.kills += 1  # a failure must not be tried for ever
    return int(job["ended"])


def _go_on(
    nursery: Nursery,
    settings: dict[str, Any],
    run: Path,
    after: float | None,
    rng: random.Random,
    outcome: Outcome,
) -> dict[str, Any]:
    there = is_run(run)
    outcome.started_again += not there and after is None
    return nursery.job(
        {**settings, "data.workers": rng.choice((0, 0, 0, 1, 2))}, run, resume=there, kill_after=after
    )


def differences(whole: Path, other: Path) -> Iterator[str]:
    """What differs between two finished runs: weights, optimiser, scale, random state, and each step's numbers."""
    ours, theirs = (newest(RunDirectory(run).checkpoints)[0] for run in (whole, other))
    if ours is None or theirs is None or ours.name != theirs.name:
        yield f"the last checkpoints are {ours and ours.name} and {theirs and theirs.name}"
        return
    yield from unequal(load_file(ours / MODEL), load_file(theirs / MODEL), "model")
    yield from unequal(*(torch.load(run / STATE, weights_only=True) for run in (ours, theirs)), "state")
    results = ((run / "weights").glob("*.safetensors") for run in (whole, other))
    yield from unequal(*({path.name: load_file(path) for path in found} for found in results), "weights")
    yield from unequal(curve(whole), curve(other), "metrics")


def curve(run: Path) -> dict[str, dict[str, float]]:
    """Every number that a step computed, by split and step, less what only tells of the machine."""
    found = [event for event in read_events(run / "events.jsonl") if event["type"] == "metrics"]
    return {
        f"{event['split']} {event['step']}": {
            name: value for name, value in event["values"].items() if name not in ("rate", "memory_mb")
        }
        for event in found
    }


def unequal(ours: Any, theirs: Any, where: str) -> Iterator[str]:
    """The places where two nested values are not the same to the last bit."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if ours.keys() != theirs.keys():
            yield f"{where} has other names"
        for key in ours.keys() & theirs.keys():
            yield from unequal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for at, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from unequal(*pair, f"{where}[{at}]")
    elif isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        if not torch.equal(ours, theirs):
            yield f"{where} differs"
    elif ours != theirs and not (ours != ours and theirs != theirs):  # what is not a number twice is the same
        yield f"{where} is {ours} and {theirs}"


def all_combinations(folder: Path, plan: dict[tuple[str, str], tuple[int, int]], seed: int) -> list[Outcome]:
    """Kill as ``plan`` says, (recipe, encoder) -> (kills, steps), with two nurseries side by side."""
    cases = make_cohort(folder / "cases", cases=6, size=(40, 40, 24), labels=False)
    cohort = SmallCohort(cases, folder / "store")
    parts: list[list[tuple[str, str]]] = [[], []]
    for number, pair in enumerate(plan):
        parts[number % 2].append(pair)

    def work(part: list[tuple[str, str]]) -> list[Outcome]:
        with Nursery() as nursery:
            done = []
            for recipe, encoder in part:
                kills, steps = plan[recipe, encoder]
                name, rng = f"{encoder}, {recipe}", random.Random(f"{seed} {recipe} {encoder}")
                at = folder / f"{recipe}-{encoder}"
                at.mkdir()
                done.append(
                    try_kills(nursery, settings_of(cohort, recipe, encoder, steps), at, kills, rng, name)
                )
                print(done[-1], flush=True)
            return done

    with ThreadPoolExecutor(2) as pool:
        return [outcome for part in pool.map(work, parts) for outcome in part]


def share_out(total: int, among: int) -> list[int]:
    """``total`` as equal whole parts, the first ones larger by one."""
    return [total // among + (n < total % among) for n in range(among)]


def main() -> None:
    """Print what came out as a Markdown table; exit code 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    asked = parser.parse_args()
    slow = list(
        product(RECIPES, ["swin_unetr"])
    )  # twenty times slower here, so they get a tenth of the kills
    quick = [pair for pair in product(RECIPES, ENCODERS) if pair not in slow]
    few = max(len(slow), asked.moments // 10)
    shares = [*share_out(few, len(slow)), *share_out(asked.moments - few, len(quick))]
    plan = {pair: (share, asked.steps) for pair, share in zip([*slow, *quick], shares, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        outcomes = all_combinations(Path(folder), plan, asked.seed)
    print(f"\nseed {asked.seed}\n\n| Encoder, recipe | Kills | At (share of the run) | Different bits |")
    print("|---|---|---|---|")
    for made in outcomes:
        low, high = min(made.moments), max(made.moments)
        print(f"| {made.name} | {made.kills} | {low:.0%} to {high:.0%} | {len(made.differences)} |")
    print(f"| all | {sum(made.kills for made in outcomes)} | | {sum(len(o.differences) for o in outcomes)} |")
    raise SystemExit(any(made.differences for made in outcomes))


if __name__ == "__main__":
    main()
