"""Run by the Python of the jobs: what a pre-trained run says of one crop of a prepared volume, as JSON.

    python score_crop.py FOLDER_OF_VOCOCORE RUN REGION.npy X,Y,Z

``REGION.npy`` is what the run's grid divides, uint8 (C, X, Y, Z), 255 for 1; ``X,Y,Z`` is the crop's first voxel there.
Prints ``{"step": ..., "predicted": [...], "similarity": [...]}``: the logits of the run's own task, and the plain
cosine of the crop's and each base crop's projection. Never imported by the module.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(core: str, run: str, region: str, start: str) -> int:
    """Load the run's task from its best or newest checkpoint, look at the crop, print."""
    sys.path.insert(0, core)
    from VoCoCore.errors import VocoError

    try:
        print(json.dumps(score(Path(run), Path(region), [int(word) for word in start.split(",")])))
    except VocoError as error:
        print(f"voco: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def score(run: Path, region: Path, start: list[int]) -> dict[str, object]:
    """The answer for one crop; raises VocoError for a run or a region that does not fit."""
    from VoCoCore.errors import DataError

    if not any((run / "checkpoints").glob("step-*")):  # before the seconds that torch takes
        raise DataError(f"{run.name} has no checkpoint yet", "wait for its first one, or choose another run")
    import numpy as np
    import torch

    from VoCoCore.geometry import Grid
    from VoCoCore.pretext.voco_losses import cosines
    from VoCoCore.runs.directory import RunDirectory
    from VoCoCore.settings import PretrainSettings

    settings = PretrainSettings.from_dict(RunDirectory(run).read_settings())
    crops, values = settings.crops, np.load(region)
    if values.shape[1:] != tuple(crops.volume_size):
        raise DataError(
            f"{run.name} divides volumes of {crops.volume_size} voxels, not {values.shape[1:]}",
            "take the run's own settings",
        )
    task, step = load(run, settings, len(values))
    grid = Grid(crops.volume_size, crops.counts)
    starts, sizes = grid.starts_and_sizes
    batch = {
        "volumes": torch.from_numpy(values)[None],
        "starts": torch.from_numpy(np.concatenate([[start], starts]))[None],
        "sizes": torch.from_numpy(np.concatenate([[crops.random_size], sizes]))[None],
        "labels": torch.full((1, 1, grid.n), 1 / grid.n),
    }
    with torch.inference_mode():
        batch["crops"] = task.cut(batch)
        logits = task(batch).details["logits"][0, 0]
        projected = task.student(batch["crops"])[None]
        similar = cosines(projected[:, :1], projected[:, 1:])[0, 0]
    return {"step": step, "predicted": logits.tolist(), "similarity": similar.tolist()}


def load(run: Path, settings: object, channels: int) -> tuple[object, int]:
    """The run's task in evaluation mode, and the step of the checkpoint that it comes from."""
    from safetensors.torch import load_file

    from VoCoCore.errors import DataError
    from VoCoCore.pretext.build import build_task, encoder_factory
    from VoCoCore.training import checkpoint

    folder = run / "checkpoints"
    task = build_task(settings, encoder_factory(settings, channels))
    try:
        step = checkpoint.load_best(folder, task)
        if step is None:
            path, _ = checkpoint.newest(folder)
            if path is None:
                raise DataError(f"{run.name} has no checkpoint that is whole", "choose another run")
            task.load_state_dict(load_file(path / checkpoint.MODEL))
            step = int(path.name.partition("-")[2])
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"the checkpoint of {run.name} does not fit {channels} channel(s) and its settings: {error}",
            "choose another run, or group the channels of its cases under Volumes",
        ) from None
    return task.eval(), step


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
