"""What this machine can do: devices, memory, disk, versions, and what the presets will need here."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import Any

import psutil
import torch

from VoCoCore.devices import Machine, available, choose, multiplies_bf16
from VoCoCore.presets import PRESETS, resolve_pretrain
from VoCoCore.runs.environment import environment
from VoCoCore.runs.files import free_bytes
from VoCoCore.runs.space import default_store
from VoCoCore.training.estimate import estimate

GB = 2**30
# What each preset is judged with where no encoder is named: only a U-Net makes tiny what a laptop can do.
ENCODERS = {**dict.fromkeys(PRESETS, "swin_unetr"), "tiny": "unet"}


def examine(
    recipe: str = "v1",
    encoder: str | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, words: None,
) -> dict[str, Any]:
    """Facts about this machine as plain values, with an estimate of every preset for ``recipe`` and ``encoder``
    (None: those of ENCODERS).

    ``progress`` hears how many presets are estimated, of how many, and what comes next: the first one of an encoder
    takes it through a step, which lasts some seconds.
    """
    machine, presets = choose(resolve_pretrain({}, {"preset": "tiny"}).run), {}
    facts = {  # first: the trial takes memory
        "devices": [_device(kind) for kind in available()],
        "chosen": machine.words,
        "cpu_cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / GB, 1),
        "memory_free_gb": round(psutil.virtual_memory().available / GB, 1),
        "store": {
            "folder": str(default_store()),
            "free_gb": round((free_bytes(default_store()) or 0) / GB, 1),
        },
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "versions": environment(),
    }
    for done, name in enumerate(PRESETS):
        kind = encoder or ENCODERS[name]
        progress(done, len(PRESETS), f"a trial step of {kind} for preset {name}")
        presets[name] = _preset(name, recipe, kind, machine)
    progress(len(PRESETS), len(PRESETS), "")
    return {**facts, "presets": presets, "recipe": recipe}


def _device(kind: str) -> dict[str, Any]:
    half = {"bf16": multiplies_bf16(torch.device(kind))}
    if kind != "cuda":
        return {"kind": kind, "threads": torch.get_num_threads(), **half} if kind == "cpu" else {"kind": kind}
    facts = torch.cuda.get_device_properties(0)
    return {
        "kind": kind,
        "name": facts.name,
        "count": torch.cuda.device_count(),
        "memory_gb": round(facts.total_memory / GB, 1),
        **half,
    }


def _preset(name: str, recipe: str, encoder: str, machine: Machine) -> dict[str, Any]:
    made = estimate(
        resolve_pretrain({}, {"preset": name, "recipe": recipe, "model.encoder": encoder}), machine
    )
    total = torch.cuda.mem_get_info()[1] if machine.device.type == "cuda" else psutil.virtual_memory().total
    return {
        "encoder": encoder,
        "parameters_m": round(made.parameters / 1e6, 1),
        "memory_mb": round(made.memory_mb),
        "fits": made.memory_mb * 2**20 < 0.9 * total,
        "seconds_per_step": float(f"{made.step_s:.2g}"),
        "steps": made.steps,
        "checkpoint_mb": round(made.checkpoint_mb),
    }
