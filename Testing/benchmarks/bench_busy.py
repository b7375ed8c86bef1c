"""Steps on all cores, on a quiet machine and beside other programs: threads that soon sleep, beside OpenMP's own way.

Run: python Testing/benchmarks/bench_busy.py [--full]
Passes forward and back of a tiny U-Net on two crops of 32^3, and with --full of a small Swin-UNETR, by the wall, each
kind in a process of its own; then the same with as many endless loops at work as there are cores. Only where PyTorch
computes with GNU's OpenMP, as it does on Linux.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from on_gpu import SKIPPED
from side_by_side import Row, options, paired, row, tell

from VoCoCore.cli.main import AWAKE
from VoCoCore.devices import Machine
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.placing import placed

SIZES = {"unet": 32, "swin_unetr": 64}
SECONDS = 4.0  # of passes in one process, and at least three


def alone(name: str) -> float:
    """Mean seconds of a pass, in this process."""
    edge = SIZES[name]
    encoder = placed(
        build_encoder(name, feature_size=12, input_size=edge), Machine(torch.device("cpu"), "fp32", "")
    )
    crops, count = torch.randn(2, 1, edge, edge, edge), -1  # the first is not counted
    begun = time.perf_counter()
    while count < 3 or time.perf_counter() - begun < SECONDS:
        torch.stack([found.float().mean() for found in encoder(crops)]).sum().backward()
        count += 1
        if not count:
            begun = time.perf_counter()
    return (time.perf_counter() - begun) / count


def seconds(name: str, **told: str) -> float:
    """The same in a process of its own, told so by its environment."""
    usual = {
        key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")
    }
    words = [sys.executable, __file__, "--alone", name]
    done = subprocess.run(words, env={**usual, **told}, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return float(done.stdout)


@contextmanager
def other_programs(count: int) -> Iterator[None]:
    """So many processes that compute without end."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def rows(names: list[str], rounds: int) -> Iterator[Row]:
    """Each network on a quiet machine and on a busy one."""
    cores = len(os.sched_getaffinity(0))
    for count, words in ((0, "alone"), (cores, f"beside {cores} busy programs")):
        with other_programs(count):
            for name in names:
                times = [(seconds(name, GOMP_SPINCOUNT=AWAKE), seconds(name)) for _ in range(rounds)]
                found = paired(*zip(*times, strict=True))
                device = f"CPU, {cores} threads"
                yield row(
                    f"a pass of {name}, {words} (OpenMP's own waiting)",
                    "ms by the wall",
                    found,
                    "",
                    scale=1e3,
                    device=device,
                )


def main() -> None:
    """Print the rows, or the seconds of one process."""
    parser = options(__doc__)
    parser.add_argument("--alone", choices=SIZES, help="one network, in this process")
    given = parser.parse_args()
    if given.alone:
        print(alone(given.alone))
    elif sys.platform != "linux":
        print("skipped: PyTorch has another OpenMP here", file=sys.stderr)
        sys.exit(SKIPPED)
    else:
        tell(rows([*SIZES] if given.full else ["unet"], 3 if given.full else 2))


if __name__ == "__main__":
    main()
