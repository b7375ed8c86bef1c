"""Memory and time of predicting a volume of 512 x 512 x 600 voxels with a tiny network of 14 classes, on a CPU.

Run: python Testing/benchmarks/memory_predict.py [X Y Z]
Prints one JSON row: the most resident memory above that of the process with its network loaded (goal: 4 GB).
"""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np
import torch

from VoCoCore.devices import choose
from VoCoCore.inference.predict import Predictor
from VoCoCore.models.card import ModelCard, OutputClass, palette
from VoCoCore.models.networks import build_network
from VoCoCore.settings import PrepareSettings, RunSettings

CLASSES = 14


def main() -> None:
    """Print the figures."""
    shape = tuple(map(int, sys.argv[1:4])) if len(sys.argv) > 3 else (512, 512, 600)
    prepare = PrepareSettings(intensity="ct", window=(-175.0, 250.0), foreground=0.0, fit="pad")
    classes = tuple(OutputClass(f"c{n}", (n,), colour) for n, colour in enumerate(palette(CLASSES)))
    card = ModelCard("segmentation", "unet", 12, (96, 96, 96), classes, "softmax", prepare.to_dict())
    torch.manual_seed(0)
    machine = choose(RunSettings(device="cpu"))
    predictor = Predictor([(build_network(card), card)], machine, overlap=0.0, say=print)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng = np.random.default_rng(0)
    slab = rng.normal(40, 60, (shape[0], shape[1], 50)).astype(np.int16)
    volume = np.concatenate([slab] * -(-shape[2] // 50), axis=2)[:, :, : shape[2]]
    began = time.perf_counter()
    found = predictor.segment(volume[None], np.diag([0.8, 0.8, 1.0, 1.0]))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    row = {
        "name": f"predict {' x '.join(map(str, found.shape))}, {CLASSES} classes, unet tiny, windows of 96^3",
        "unit": "GB above the model",
        "ours": round(peak / 2**20, 2),
        "goal": 4,
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps([row], indent=1))


if __name__ == "__main__":
    main()
