"""Runs in any state as a job would have left them, made by writing their files."""

import json
import os
import time

import numpy as np

from VoCoCore.data.phantom import make_case
from VoCoCore.geometry import Box, Grid, spacing_of, to_ras
from VoCoCore.presets import resolve_pretrain

BEGUN = 1_780_000_000.0
VAL = {
    "position_accuracy": 0.62,
    "accuracy_low": 0.55,
    "accuracy_high": 0.69,
    "chance": 0.11,
    "shuffled_accuracy": 0.06,
    "loss": 1.1,
    "loss_prediction": 0.9,
    "loss_regularisation": 0.2,
    "base_similarity": 0.21,
    "effective_rank": 9.3,
    "volumes": 12.0,
}


def settings(**changes):
    chosen = resolve_pretrain({"recipe": "paper", "preset": "tiny", "model.encoder": "unet", **changes})
    return chosen.with_values({"data.source": "/home/meier/Scans of Anna Meier"}).to_dict()


def make_run(folder, state="finished", step=500, events=(), settings_dict=None, environment=None, message=""):
    """Write a run's files as a job would have left them."""
    (folder / "validation").mkdir(parents=True)
    versions = {"vococore": "0.1.0", "python": "3.12.1", "packages": {"torch": "2.13.0", "isal": None}}
    files = {
        "settings.json": settings() if settings_dict is None else settings_dict,
        "environment.json": versions if environment is None else environment,
        "status.json": {
            "v": 1,
            "state": state,
            "step": step,
            "total": 1000,
            "heartbeat": time.time(),
            "host": "ward7",
            "pid": os.getpid(),
            "attempt": 1,
            "message": message,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    lines = [json.dumps({"v": 1, "time": BEGUN + i, **event}) for i, event in enumerate(events)]
    (folder / "events.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


def started(**extra):
    data = {"cases": 40, "train": 28, "held_out": 12, "skipped": 2, "channels": 1, "fingerprint": "c0ffee"}
    return {"type": "started", "attempt": 1, "step": 0, "device": "CPU, 2 threads", "data": data, **extra}


def train(step, **values):
    usual = {
        "loss": 2 * 0.998**step + 0.4,
        "loss_prediction": 1.5 * 0.998**step + 0.3,
        "loss_regularisation": 0.5 * 0.998**step + 0.1,
        "learning_rate": 1e-3 * (1 + np.cos(np.pi * step / 1000)) / 2,
        "gradient_norm": 1.0,
        "skipped_steps": step // 400,
        "position_accuracy": 0.6 - 0.5 * 0.997**step,
        "base_similarity": 0.2 + 0.7 * 0.99**step,
        "effective_rank": 10 - 9 * 0.99**step,
        "rate": 11.5,
        "memory_mb": 612.0,
    }
    return {"type": "metrics", "step": step, "split": "train", "values": {**usual, **values}}


def val(step, **values):
    return {"type": "metrics", "step": step, "split": "val", "values": {**VAL, **values}}


def whole_story(steps=500):
    return [
        {"type": "stage", "name": "preparing"},
        started(),
        *(train(step) for step in range(10, steps + 1, 10)),
        *(
            val(
                step,
                position_accuracy=0.1 + step / 1000,
                accuracy_low=0.03 + step / 1000,
                accuracy_high=0.17 + step / 1000,
            )
            for step in range(100, steps + 1, 100)
        ),
    ]


def leave_pictures(run, volumes=2, counts=(4, 4, 1), crops=2):
    """Keep the pictures of held-out phantoms as training does."""
    rng = np.random.default_rng(0)
    size = (64, 64, 32)
    grid = Grid(size, counts)
    kept = {name: [] for name in ("axial", "coronal", "boxes", "labels", "logits", "spacing")}
    for number in range(volumes):
        case = make_case(1, number)
        order, flips, affine = to_ras(case.image.shape, case.affine)
        image = np.flip(case.image.transpose(order), flips)
        at = np.ix_(
            *(np.linspace(0, n - 1, m).round().astype(int) for n, m in zip(image.shape, size, strict=True))
        )
        grey = (np.clip((image[at] + 175) / 425, 0, 1) * 255).astype(np.uint8)
        edges = np.divide(size, counts)
        starts = rng.uniform(0, 1, (crops, 3)) * (size - edges)
        labels = np.stack([grid.overlap_labels(Box(tuple(s), tuple(edges))) for s in starts])
        kept["axial"].append(grey[:, :, size[2] // 2])
        kept["coronal"].append(grey[:, size[1] // 2])
        kept["boxes"].append(np.stack([starts, np.broadcast_to(edges, starts.shape)], 1))
        kept["labels"].append(labels)
        kept["logits"].append(0.8 * labels + rng.normal(0, 0.08, labels.shape))
        kept["spacing"].append(spacing_of(affine) * np.divide(image.shape, size))
    arrays = {name: np.stack(values) for name, values in kept.items()}
    np.savez_compressed(
        run / "validation" / "latest.npz", counts=counts, volume_size=size, step=500, **arrays
    )
    return run
