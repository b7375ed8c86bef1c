"""What the evidence is made of: cohorts, settings, and the cells of its tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Draws 0 and 1 are not in the tables: the settings below were chosen by them.
DRAWS, FEW_DRAWS, MR_DRAWS = range(2, 7), range(2, 5), range(3)
UNLABELLED, TRAIN, HELD_OUT = 200, 20, 20
COHORT_SEEDS = {"unlabelled": 11, "labelled": 12}
NETWORK: dict[str, Any] = {"model.encoder": "unet", "model.feature_size": 8}
PRETRAIN: dict[str, Any] = {
    "preset": "tiny",
    "recipe": "paper",
    **NETWORK,
    "model.projector_width": 128,
    "optim.batch": 1,
    "optim.steps": 1500,
    "prepare.foreground": 0.0,  # all of the body
    # Base crops of 32^3, as large as fine-tuning's crops and at their voxel size.
    "crops.volume_size": (128, 128, 32),
    # Kidneys, lungs and flanks have sides: a mirrored body shows the right one on the left.
    "augment.flip": 0.0,
    "augment.turn": 0.0,
    "crops.random_crops": 4,
    "data.workers": 0,
    "data.val_fraction": 0.05,
    "run.validation_rounds": 2,
}
FINETUNE: dict[str, Any] = {
    **NETWORK,
    "prepare.window": (-175, 250),
    "prepare.intensity": "ct",
    "patches.size": (32, 32, 32),
    "patches.per_case": 2,
    "optim.batch": 1,
    "optim.steps": 800,
    "optim.lr": 6e-3,
    "optim.encoder_lr": 0.3,
    "augment.flip": (0, 0, 0),
    "data.workers": 0,
    "run.overlap": 0.25,
}
MR_HELD_OUT = 30
MR_GRID = "2x2x1"
MR_PRETRAIN: dict[str, Any] = {
    "prepare.intensity": "mr",
    # The images are about 35 x 50 x 35 mm. Smaller base crops than 32^3 leave the network's norm nothing to learn by.
    "crops.volume_size": (64, 64, 32),
    "augment.flip": 0.2,
    "augment.turn": 0.2,
    "optim.batch": 4,
    "optim.steps": 600,
}
MR_FINETUNE: dict[str, Any] = {
    **{name: value for name, value in FINETUNE.items() if name != "prepare.window"},
    "prepare.intensity": "mr",
    "patches.size": (32, 48, 32),
    "optim.steps": 400,
    "optim.encoder_lr": 1.0,
}
METHODS: dict[str, dict[str, Any] | None] = {
    "scratch": None,
    "L_pred": {"pretext.lambda": 0.0},
    "L_pred + L_reg": {},
}
# Base crops of these divide the volume into whole steps of the network: no crop is enlarged, and all see one scale.
# The other ones need more planes, and leave the network's lowest map few voxels to normalise.
GRIDS = ("2x2x1", "2x2x2", "4x4x1")
MORE_GRIDS = ("1x1x4", "4x4x2", "4x4x4")


@dataclass(frozen=True)
class Cell:
    """One fine-tuning: which table it is of, how it starts, on which grid, with how many labels, which draw."""

    table: str
    method: str
    grid: str
    labels: int
    draw: int

    @property
    def name(self) -> str:
        """Its file's name."""
        word = self.method.lower().replace(" + ", "-").replace("_", "")
        return f"{self.table}-{word}-{self.grid}-{self.labels}-{self.draw}"


def cells(everything: bool) -> Iterator[Cell]:
    """All cells, draws outermost, so that stopping early leaves every method with the same draws."""
    counts = (2, 5, 10, 20) if everything else (2, 5)
    grids = (*GRIDS, *MORE_GRIDS) if everything else GRIDS
    for draw in DRAWS:
        for labels in counts:
            yield from (Cell("torso", method, "4x4x1", labels, draw) for method in METHODS)
        if everything or draw in FEW_DRAWS:
            yield from (Cell("torso", "L_pred + L_reg", grid, 2, draw) for grid in grids if grid != "4x4x1")
