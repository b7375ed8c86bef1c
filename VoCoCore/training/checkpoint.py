"""Checkpoints: folders that exist only when their manifest, written last, agrees with every file in them.

``step-00000500/``: model.safetensors (task: student, heads, teacher), state.pt (optimiser, scale, random state),
manifest.json (step, sizes and sha256 of both). The newest two and the best one are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from VoCoCore.errors import DataError, EnvironmentFault, SettingsError
from VoCoCore.training.updates import Updater

KEEP = 2
MODEL, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"


def save_checkpoint(
    folder: Path, step: int, task: nn.Module, updater: Updater, extra: dict[str, Any], best: bool = False
) -> Path:
    """Write the checkpoint of ``step`` (beside, then renamed) under ``folder`` and drop those no longer kept.

    ``extra`` (plain values) comes back from `load_checkpoint`. Raises EnvironmentFault when it cannot be written; the
    checkpoints before are then untouched.
    """
    target, draft = folder / f"step-{step:08d}", folder / f".draft-{step:08d}-{os.getpid()}"
    try:
        draft.mkdir(parents=True)
        save_file({name: value.contiguous() for name, value in task.state_dict().items()}, draft / MODEL)
        state = {"updater": updater.state_dict(), "torch_random": torch.get_rng_state(), "extra": extra}
        torch.save(state, draft / STATE)
        _write_manifest(draft, step, best)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(draft, target)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise EnvironmentFault(
            f"cannot write the checkpoint of step {step} to {folder.name}: {error.strerror or error}",
            "free disk space or check permissions, then go on with --resume",
        ) from None
    _tidy(folder)
    return target


def _write_manifest(folder: Path, step: int, best: bool) -> None:
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
        for name in (MODEL, STATE)
    }
    for name in (MODEL, STATE):
        with open(folder / name, "rb+") as stream:
            os.fsync(stream.fileno())
    (folder / MANIFEST).write_text(json.dumps({"v": 1, "step": step, "best": best, "files": files}, indent=1))


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checkpoints(folder: Path) -> list[Path]:
    """Folders that claim to be checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / MANIFEST).read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def is_whole(folder: Path) -> bool:
    """Whether the manifest is there and agrees with the files."""
    files = _manifest(folder).get("files", {})
    return set(files) == {MODEL, STATE} and all(
        (folder / name).is_file()
        and (folder / name).stat().st_size == facts["bytes"]
        and _sha256(folder / name) == facts["sha256"]
        for name, facts in files.items()
    )


def _tidy(folder: Path) -> None:
    found = checkpoints(folder)
    best = [path for path in found if _manifest(path).get("best")]
    for path in found[:-KEEP]:
        if path not in best[-1:]:
            shutil.rmtree(path, ignore_errors=True)
    for draft in folder.glob(".draft-*"):
        shutil.rmtree(draft, ignore_errors=True)


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint and the names of newer ones that are damaged."""
    damaged: list[str] = []
    for path in reversed(checkpoints(folder)):
        if is_whole(path):
            return path, damaged
        damaged.append(path.name)
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
            f"cannot read checkpoint {path.name}: {error}", "delete this folder to use the one before"
        ) from None
    try:
        task.load_state_dict(weights)
        updater.load_state_dict(state["updater"])
    except (RuntimeError, ValueError, KeyError):
        raise SettingsError(
            f"checkpoint {path.name} holds another network than the settings describe",
            "resume with the settings of this run, or start a new run folder",
        ) from None
    torch.set_rng_state(state["torch_random"])
    return int(_manifest(path)["step"]), state["extra"]
