"""The loss of 20 small CPU steps of each recipe, kept so that a change of the code that changes them is seen.

``python Testing/core/golden.py`` writes them anew: only after a change that is meant to change the mathematics.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from made_cohorts import SmallCohort

from VoCoCore.data.phantom import make_cohort
from VoCoCore.runs.events import read_events
from VoCoCore.training.pretrain import pretrain

FILE = Path(__file__).with_name("golden.json")
RECIPES = ("paper", "v1", "v2")
# Every augmentation, clipping and a warm-up that ends within the steps take part. The rate is low, because at a usual
# one the rounding of another processor grows to whole digits within these steps.
CHANGES: dict[str, Any] = {
    "run__precision": "fp32",
    "optim__steps": 20,
    "optim__warmup": 5,
    "optim__lr": 2e-5,
    "optim__clip": 1.0,
    "augment__shift": 0.5,
    "run__validate_every": 10,
    "run__checkpoint_every": 20,
}
# v2's inter-volume term is so steep where two volumes look alike that rounding shows in its first digit.
CALM: dict[str, dict[str, Any]] = {"v2": {"pretext__epsilon": 1e-2}}
TERMS = ("loss", "loss_prediction", "loss_regularisation", "loss_inter", "learning_rate")


def curves(cohort: SmallCohort, recipe: str, folder: Path) -> dict[str, list[float]]:
    """The curve of each term over the steps, and of the held-out loss over the two looks."""
    run = pretrain(cohort.settings(recipe, **CHANGES, **CALM.get(recipe, {})), folder).run
    found = [event for event in read_events(run / "events.jsonl") if event["type"] == "metrics"]
    train = [event["values"] for event in found if event["split"] == "train"]
    made = {name: [step[name] for step in train] for name in TERMS if name in train[0]}
    return made | {"held_out": [event["values"]["loss"] for event in found if event["split"] == "val"]}


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        cases = make_cohort(folder / "cases", cases=6, size=(40, 40, 24), labels=False)
        cohort = SmallCohort(cases, folder / "store")
        golden = {recipe: curves(cohort, recipe, folder / recipe) for recipe in RECIPES}
    short = {r: {n: [float(f"{v:.7g}") for v in c] for n, c in of.items()} for r, of in golden.items()}
    FILE.write_text(json.dumps(short, indent=1) + "\n")


if __name__ == "__main__":
    main()
