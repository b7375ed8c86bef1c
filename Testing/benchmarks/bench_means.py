"""Each means by itself: the same work with it and without it, in turn, in one process.

Run: python Testing/benchmarks/bench_means.py [--full]
--full: more rounds, the base network, two threads, and torch.compile, which takes minutes and a C++ compiler.
The baseline is the usual way: MONAI's attention, torch's memory order, an optimiser that goes parameter by parameter,
two calls in place of one, one thread in place of two. Ratios below 1 are means that are not taken for that.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import copy
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets.swin_unetr import WindowAttention
from side_by_side import Row, Work, full, in_turn, row, tell, wall_seconds
from torch import Tensor, nn

from VoCoCore.data.store import Store
from VoCoCore.devices import Machine
from VoCoCore.geometry import Box
from VoCoCore.inference.allocator import kept_memory
from VoCoCore.models.attention import ChunkedWindowAttention
from VoCoCore.models.encoders import build_encoder
from VoCoCore.models.interface import Encoder
from VoCoCore.models.placing import placed
from VoCoCore.presets import resolve_pretrain
from VoCoCore.training.updates import Updater

HOST = Machine(torch.device("cpu"), "fp32", "")
EDGE = 64
CPU, WALL = "CPU ms", "ms by the wall"


def trained(network: nn.Module, *inputs: Any) -> None:
    """One pass forward and back."""
    found = network(*inputs)
    outputs = found if isinstance(found, list) else [found]
    torch.stack([output.float().mean() for output in outputs]).sum().backward()


def attention(rounds: int) -> Iterator[Row]:
    """The first stage of a Swin-UNETR on two crops of 64^3, with and without shifted windows."""
    plain = WindowAttention(12, 3, (7, 7, 7), qkv_bias=True)
    pieces = copy.deepcopy(plain)
    pieces.__class__ = ChunkedWindowAttention
    tokens = torch.randn(2 * 125, 343, 12, requires_grad=True)
    for name, mask in (("windows", None), ("shifted windows", torch.zeros(125, 343, 343))):
        found = in_turn(partial(trained, pieces, tokens, mask), partial(trained, plain, tokens, mask), rounds)
        yield row(f"attention in pieces, {name} (baseline: MONAI's)", CPU, found, "", scale=1e3)


def encoders(size: dict[str, int]) -> Iterator[tuple[str, Encoder, Tensor]]:
    """Two networks, and two crops for them."""
    for name, features in size.items():
        torch.manual_seed(0)
        yield name, build_encoder(name, 1, features, (EDGE,) * 3).train(), torch.randn(2, 1, EDGE, EDGE, EDGE)


def memory_order(size: dict[str, int], rounds: int) -> Iterator[Row]:
    """A network as we place it, its channels innermost, beside torch's usual order."""
    for name, usual, crops in encoders(size):
        ours = placed(copy.deepcopy(usual), HOST)
        found = in_turn(partial(trained, ours, crops), partial(trained, usual, crops), rounds)
        yield row(f"channels innermost, {name} {size[name]}, both ways", CPU, found, "", scale=1e3)


def compiled(size: dict[str, int], rounds: int) -> Iterator[Row]:
    """An encoder given to torch.compile, beside itself as we place it."""
    for name, usual, crops in encoders(size):
        ours, made = placed(copy.deepcopy(usual), HOST), usual
        made.compile(dynamic=False)
        made = placed(made, HOST)
        seconds = wall_seconds(partial(trained, made, crops))
        found = in_turn(partial(trained, made, crops), partial(trained, ours, crops), rounds)
        title = f"torch.compile, {name} {size[name]}, both ways (baseline: ours; first call {seconds:.0f} s)"
        yield row(title, CPU, found, "", scale=1e3)


def one_call(size: dict[str, int], rounds: int) -> Iterator[Row]:
    """Bases and random crops through the student at once, beside one call each."""
    for name, usual, crops in encoders(size):
        network = placed(usual, HOST)

        def apart(network: nn.Module = network, crops: Tensor = crops) -> None:
            for crop in crops.split(1):
                trained(network, crop)

        found = in_turn(partial(trained, network, crops), apart, rounds)
        yield row(f"two crops in one call, {name} {size[name]}, both ways", CPU, found, "", scale=1e3)


def without_graph(rounds: int) -> Iterator[Row]:
    """A teacher's pass in inference mode, beside no_grad, which we use: its results may be read anywhere."""
    network, crops = (
        placed(build_encoder("unet", 1, 12, (EDGE,) * 3), HOST),
        torch.randn(2, 1, EDGE, EDGE, EDGE),
    )
    found = in_turn(
        torch.inference_mode()(lambda: network(crops)), torch.no_grad()(lambda: network(crops)), rounds
    )
    yield row("inference mode (baseline: no_grad)", CPU, found, "", scale=1e3)


def optimisers(features: int, rounds: int) -> Iterator[Row]:
    """A clipped step of AdamW: ours, one fused kernel, beside torch's parameter by parameter and its foreach."""
    settings = resolve_pretrain({}, {"optim.clip": 1.0}).optim
    network = build_encoder("swin_unetr", 1, features, (EDGE,) * 3)
    parameters = [p for p in network.parameters() if p.requires_grad]
    gradients = [torch.randn_like(p) for p in parameters]
    updater = Updater(parameters, settings, HOST)

    def given(step: Work) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        step()

    for name, foreach in (("parameter by parameter", False), ("foreach", True)):
        usual: Any = torch.optim.AdamW(parameters, lr=1e-4, amsgrad=settings.amsgrad, foreach=foreach)

        def theirs(usual: Any = usual) -> None:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            usual.step()

        found = in_turn(lambda: given(lambda: updater.step(1e-4)), lambda u=theirs: given(u), rounds)
        yield row(f"AdamW with clipping, swin_unetr {features} (baseline: {name})", CPU, found, "", scale=1e3)


def reading_threads(folder: Path, rounds: int) -> Iterator[Row]:
    """Eight crops of 96^3 from the store, by two threads beside one: whether decoding runs beside itself."""
    store = Store(folder).create()
    noise = np.random.default_rng(0).integers(0, 40, (1, 192, 192, 192)).astype(np.uint8)
    store.write("0" * 64, noise, {"affine": np.eye(4).tolist()})
    boxes = [Box((x, y, z), (96, 96, 96)) for x in (0, 90) for y in (0, 90) for z in (0, 90)]

    def read(box: Box) -> Any:
        return store.open("0" * 64).read(box)

    with ThreadPoolExecutor(2) as pool:
        found = in_turn(
            lambda: list(pool.map(read, boxes)),
            lambda: [read(box) for box in boxes],
            rounds,
            clock=wall_seconds,
        )
    yield row("crops read by two threads (baseline: one)", WALL, found, "", scale=1e3)


def computing_threads(size: dict[str, int], rounds: int) -> Iterator[Row]:
    """A pass on two threads beside one, by the wall; on a machine with two cores or more."""
    if (os.cpu_count() or 1) < 2:
        return
    for name, usual, crops in encoders(size):
        network = placed(usual, HOST)

        def on(threads: int, network: nn.Module = network, crops: Tensor = crops) -> None:
            torch.set_num_threads(threads)
            trained(network, crops)

        found = in_turn(partial(on, 2), partial(on, 1), rounds, clock=wall_seconds)
        yield row(f"two threads, {name} {size[name]}, both ways (baseline: one)", WALL, found, "", scale=1e3)


def main() -> None:
    """Print all rows."""
    torch.set_num_threads(1)
    whole = full(__doc__)
    size, rounds = ({"unet": 12, "swin_unetr": 48}, 5) if whole else ({"unet": 12, "swin_unetr": 12}, 2)
    with tempfile.TemporaryDirectory() as folder, kept_memory():
        tell(attention(rounds))
        tell(memory_order(size, rounds))
        tell(one_call(size, rounds))
        tell(without_graph(rounds))
        tell(optimisers(size["swin_unetr"], rounds))
        tell(reading_threads(Path(folder), rounds))
        if whole:
            tell(computing_threads(size, rounds))
            tell(compiled(size, rounds))


if __name__ == "__main__":
    main()
