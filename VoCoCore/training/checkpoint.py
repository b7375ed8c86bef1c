"""Checkpoints: folders that exist only when their manifest, written last, agrees with every file in them.

``step-00000500/``: model.safetensors (task: student, heads, teacher), state.pt (optimiser, scale, random state),
manifest.json (step, sizes and sha256 of both). The newest two and the best one are kept.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from VoCoCore.errors import DataError, EnvironmentFault, SettingsError
from VoCoCore.models.weights import save_tensors
from VoCoCore.runs.files import fault, move, open_plain, read_json, write_json
from VoCoCore.training.updates import Updater

KEEP = 2
MODEL, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"
_NAME = re.compile(r"step-\d{8,}")


def save_checkpoint(
    folder: Path, step: int, task: nn.Module, updater: Updater, extra: dict[str, Any], best: bool = False
) -> Path:
    """Write the checkpoint of ``step`` (beside, then renamed) under ``folder`` and drop those no longer kept.

    ``extra`` (plain values) comes back from `load_checkpoint`. Raises EnvironmentFault when it cannot be written; the
    checkpoints before are then untouched.
    """
    target, draft = step_folder(folder, step), folder / f".draft-{step:08d}-{os.getpid()}"
    try:
        draft.mkdir(parents=True)
        _write_files(draft, task, updater, extra)
        _write_manifest(draft, step, best)
        if target.exists():
            _make_room(target, draft.with_name(f"{draft.name}-old"))
        move(draft, target)  # a virus scanner may look at the new files
        _sync_folder(folder)
    except (OSError, EnvironmentFault, SafetensorError, RuntimeError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        if cause := _of_the_system(error):
            raise _not_written(target, cause) from error
        raise
    _tidy(folder)
    return target


def _make_room(target: Path, old: Path) -> None:
    """Take away an earlier attempt's checkpoint of the same step: from before a look that was owed, or damaged."""
    if is_whole(target):
        move(target, old)  # `_tidy` deletes it, once the new one is there
    else:
        set_aside(target)


def _write_files(folder: Path, task: nn.Module, updater: Updater, extra: dict[str, Any]) -> None:
    save_tensors({name: value.contiguous() for name, value in task.state_dict().items()}, folder / MODEL)
    state = {"updater": updater.state_dict(), "random": _random_state(), "extra": extra}
    with open(folder / STATE, "wb") as stream:  # given a path, torch hides what the system said
        torch.save(state, stream)
    for name in (MODEL, STATE):
        with open(folder / name, "rb+") as stream:
            os.fsync(stream.fileno())


def _write_manifest(folder: Path, step: int, best: bool) -> None:
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
        for name in (MODEL, STATE)
    }
    write_json(folder / MANIFEST, {"v": 1, "step": step, "best": best, "files": files})
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Have the names in ``folder`` on the disk, so that a power cut cannot take a whole checkpoint away."""
    with suppress(OSError):  # Windows and some network disks cannot open a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _not_written(target: Path, cause: OSError) -> EnvironmentFault:
    said = fault(target, cause)
    hint = f"{said.hint}: go on with --resume, the checkpoints before are whole"
    return EnvironmentFault(f"the checkpoint {said.message}", hint)


def _of_the_system(error: BaseException | None) -> OSError | None:
    """What the system said: each library wraps it in its own way, as cause, as context, or in its text alone."""
    if error is None or isinstance(error, OSError):
        return error
    if found := re.search(r"os error (\d+)\b", str(error)):
        return OSError(int(found[1]), os.strerror(int(found[1])))
    return _of_the_system(error.__cause__ or error.__context__)


def _random_state() -> dict[str, Any]:
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": on_gpus}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _sha256(path: Path) -> str:
    with open_plain(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` is, or would be."""
    return folder / f"step-{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """Folders that claim to be checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir() and _NAME.fullmatch(path.name))


def _manifest(folder: Path) -> dict[str, Any]:
    found = read_json(folder / MANIFEST)
    return found if isinstance(found, dict) else {}


def is_whole(folder: Path) -> bool:
    """Whether the manifest is there and agrees with the files."""
    manifest = _manifest(folder)
    try:
        facts = {name: (of["bytes"], of["sha256"]) for name, of in manifest["files"].items()}
        found = {name: ((folder / name).stat().st_size, _sha256(folder / name)) for name in (MODEL, STATE)}
    except (KeyError, TypeError, AttributeError, OSError):
        return False
    return facts == found and isinstance(manifest.get("step"), int)


def set_aside(folder: Path) -> Path:
    """Take a damaged checkpoint out of the way, without deleting what somebody may want to look at."""
    aside = folder.with_name(f"damaged-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    move(folder, aside)
    return aside


def _tidy(folder: Path) -> None:
    found = checkpoints(folder)
    best = [path for path in found if _manifest(path).get("best")]
    for path in found[:-KEEP]:
        if path not in best[-1:]:
            shutil.rmtree(path, ignore_errors=True)
    for draft in folder.glob(".draft-*"):
        shutil.rmtree(draft, ignore_errors=True)


def load_best(folder: Path, task: nn.Module) -> int | None:
    """Put the weights of the best checkpoint into ``task``; returns its step, None where none is marked so."""
    for path in reversed(checkpoints(folder)):
        if _manifest(path).get("best") and is_whole(path):
            task.load_state_dict(load_file(path / MODEL))
            return int(_manifest(path)["step"])
    return None


def newest(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest whole checkpoint and newer ones that are damaged."""
    damaged: list[Path] = []
    for path in reversed(checkpoints(folder)):
        if is_whole(path):
            return path, damaged
        damaged.append(path)
    return None, damaged


def load_checkpoint(path: Path, task: nn.Module, updater: Updater) -> tuple[int, dict[str, Any]]:
    """Put a checkpoint back; returns (steps done, extra).

    Raises SettingsError when it belongs to another network, DataError when it cannot be read.
    """
    try:
        weights = load_file(path / MODEL)
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            f"cannot read the checkpoint {path}: {error}", "delete this folder to use the one before"
        ) from None
    try:
        task.load_state_dict(weights)
        updater.load_state_dict(state["updater"])
        _set_random_state(state["random"])
    except (RuntimeError, ValueError, KeyError, TypeError):
        raise SettingsError(
            f"the checkpoint {path} holds another network than the settings of its run describe",
            "put the run's own checkpoint back, or start a new run folder",
        ) from None
    return int(_manifest(path)["step"]), state["extra"]
