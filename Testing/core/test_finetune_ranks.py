"""Two ranks with one case each fine-tune as one rank with two: gradients, weights and looks; with all augmentation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from VoCoCore.models.model_files import model_tensors
from VoCoCore.models.networks import SegmentationNetwork
from VoCoCore.runs.events import read_events
from VoCoCore.training.finetune import finetune
from VoCoCore.training.finetune_plan import Planned


def metrics(run: Path, split: str) -> list[dict[str, float]]:
    found = [e for e in read_events(run / "events.jsonl") if e["type"] == "metrics"]
    return [event["values"] for event in found if event["split"] == split]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no ranks")
@pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs libuv, which Windows builds lack")
def test_two_ranks_equal_one(labelled_cohort, tmp_path, monkeypatch) -> None:
    """At a rate so low that rounding, whose sign AdamW follows where a gradient is nearly 0, cannot add up."""
    augment = ("rotate", "zoom", "turn", "scale", "shift", "gamma", "noise", "blur")
    certain = {f"augment__{name}": 1.0 for name in augment}
    settings = labelled_cohort.settings(
        optim__steps=3,
        run__validate_every=3,
        run__precision="fp32",
        optim__lr=1e-5,
        optim__ema=0.5,
        **certain,
    )
    begun: list[dict[str, torch.Tensor]] = []
    network = Planned.network

    def remember(plan: Planned) -> SegmentationNetwork:
        made = network(plan)
        begun.append({name: value.clone() for name, value in model_tensors(made).items()})
        return made

    monkeypatch.setattr(Planned, "network", remember)
    alone = finetune(settings, tmp_path / "one")
    config = tmp_path / "one" / "settings.json"
    assert json.loads(config.read_text())["optim"]["batch"] == 2
    # torchrun takes "--run" for an option of its own.
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "VoCoCore"]
    places = ["--data", labelled_cohort.source, "--store", labelled_cohort.store]
    words = ["finetune", "--config", config, *places, "--run-folder", tmp_path / "two"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VOCO_CONFIG_HOME": str(tmp_path)}
    command = [sys.executable, *torchrun, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]

    # The losses of a step are the first rank's, which sees one of the two crops; its gradient is that of both.
    norms = [
        [step["gradient_norm"] for step in metrics(run, "train")] for run in (alone.run, tmp_path / "two")
    ]
    assert len(norms[0]) == 3 and norms[1] == pytest.approx(norms[0], rel=1e-5)
    (one,), (two,) = metrics(alone.run, "val"), metrics(tmp_path / "two", "val")
    assert one["cases"] == 2 and two == pytest.approx(one, rel=2e-3, abs=1e-5)
    kept = [load_file(run / "weights" / "model.safetensors") for run in (alone.run, tmp_path / "two")]
    apart = torch.cat([(kept[1][name] - kept[0][name]).flatten() for name in kept[0]])
    moved = torch.cat([(kept[0][name] - begun[-1][name]).flatten() for name in kept[0]])
    assert moved.abs().max() > 5e-6 and apart.norm() < 0.1 * moved.norm()
