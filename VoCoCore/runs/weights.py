"""Where weights lie: in the folder of a run, of its folds, or of a checkpoint. Looks at names alone, opens nothing."""

from __future__ import annotations

import re
from pathlib import Path

from VoCoCore.errors import DataError
from VoCoCore.runs.directory import RunDirectory, is_run
from VoCoCore.runs.narrate import shell_word

MODEL, ENCODER = "model.safetensors", "encoder.safetensors"  # in a run's folder `weights`
_STATE = "state.pt"  # in a checkpoint, beside MODEL
_FOLD = re.compile(r"fold-(\d+)")


def model_paths(source: str | Path) -> list[Path]:
    """The files of fine-tuned networks behind ``source``: a file, a run folder, a folder of ``fold-0``, ``fold-1``...

    Raises DataError, saying what is missing, where there are none (yet).
    """
    source = Path(source)
    if not source.is_dir():
        if not source.exists():
            raise DataError(
                f"there is no {source}", "give a run of 'voco finetune', or a file of its weights"
            )
        return [source]
    if is_run(source):
        return [_of_run(source)]
    folds = {int(match[1]): path for path in source.iterdir() if (match := _FOLD.fullmatch(path.name))}
    runs = [path for _, path in sorted(folds.items()) if is_run(path)]
    if not runs:
        raise DataError(f"{source} is neither a run nor a folder of folds", "give a run of 'voco finetune'")
    return [_of_run(run) for run in runs]


def _of_run(path: Path) -> Path:
    model = path / "weights" / MODEL
    if model.is_file():
        return model
    if (path / "weights" / ENCODER).is_file():
        hint = f"fine-tune it first: voco finetune --init {shell_word(path)} ..."
        raise DataError(f"{path} is a pre-training: its encoder gives features, no classes", hint)
    raise unfinished(path)


def weights_file(source: str | Path) -> Path:
    """The one weights file behind ``source``: a file, a run of any kind, or one of its checkpoints.

    Raises DataError, saying what to name instead, where there is none (yet) or there are several.
    """
    source = Path(source)
    if source.name == _STATE and (source.parent / MODEL).is_file():
        return source.parent / MODEL  # the optimiser's part of a checkpoint: its weights lie beside it
    if not source.is_dir():
        return source
    found = [source / MODEL, *(source / "weights" / name for name in (MODEL, ENCODER))]
    if file := next((path for path in found if path.is_file()), None):
        return file
    if is_run(source):
        raise unfinished(source)
    if any(_FOLD.fullmatch(path.name) for path in source.iterdir()):
        raise DataError(f"{source} holds several folds", f"name one of them, such as {source / 'fold-0'}")
    raise DataError(
        f"{source} is neither a run nor a checkpoint of one", "give a run's folder, or a file of weights"
    )


def unfinished(path: Path) -> DataError:
    """The error for a run folder that has no weights yet."""
    run = RunDirectory(path)
    status = run.read_status()
    how_far = f", step {status.step} of {status.total}" if status and status.total else ""
    kept = sorted(run.checkpoints.glob(f"step-*/{MODEL}"))
    other = f"start from its checkpoint {kept[-1].parent}" if kept else "name another run"
    return DataError(
        f"{path} has no weights yet: it is {run.state()}{how_far}",
        f"finish it (voco jobs resume), or {other}",
    )
