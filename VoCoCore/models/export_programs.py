"""Fine-tuned networks as programs that run without this package: TorchScript, torch.export, ONNX.

A program takes crops (N, channels, *window) in [0, 1] and gives logits; N is free, the window is fixed. Each program is
read back and compared with the network.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from VoCoCore.errors import EnvironmentFault, SettingsError, VocoError
from VoCoCore.models.attention import use_plain_attention
from VoCoCore.models.card import ModelCard

TOLERANCE = 1e-4  # of the largest logit
INPUT, OUTPUT = "image", "logits"
_LARGEST_ONNX = 1_900_000_000  # bytes; one file of protocol buffers holds 2 GiB
_TRACED = 2  # crops; with one, tracers take the number of crops for fixed

Program = Callable[[Tensor], Tensor]


def write_program(form: str, network: nn.Module, card: ModelCard, path: Path) -> str:
    """Write ``network`` (evaluation mode, CPU) as ``form`` to ``path``; returns in words how far it is from it.

    Raises EnvironmentFault where a package is missing, SettingsError where the network is too large for the format,
    VocoError where the program computes something else.
    """
    if form == "onnx":
        _check_onnx(network)
    generator = torch.Generator().manual_seed(0)
    crops = torch.rand(_TRACED + 1, card.in_channels, *card.window, generator=generator)
    with torch.no_grad(), _quiet():
        expected = network(crops[_TRACED:])
        use_plain_attention(network)
        program = _WRITERS[form](network, crops[:_TRACED], path)
        return (
            "not compared: onnxruntime is not installed"
            if program is None
            else _compare(program, crops, expected)
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Tracers speak to those who wrote the network, by warnings and by logging."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _compare(program: Program, crops: Tensor, expected: Tensor) -> str:
    found = program(crops[_TRACED:])
    difference = float((found - expected).abs().max())
    share = difference / max(float(expected.abs().max()), 1e-30)
    words = f"logits differ from the network's by at most {difference:.1e}, {share:.1e} of the largest"
    if not share <= TOLERANCE:
        raise VocoError(f"the exported program is wrong: {words}", "export another format, and report this")
    return f"{words} (tolerance {TOLERANCE:.0e})"


def _torchscript(network: nn.Module, crops: Tensor, path: Path) -> Program:
    program = torch.jit.trace(network, crops, check_trace=False)
    with path.open("wb") as stream:
        torch.jit.save(program, stream)
    return torch.jit.load(str(path), map_location="cpu")


def _torch_export(network: nn.Module, crops: Tensor, path: Path) -> Program:
    program = torch.export.export(network, (crops,), dynamic_shapes={"x": {0: torch.export.Dim("crops")}})
    with path.open("wb") as stream:
        torch.export.save(program, stream)
    with path.open("rb") as stream:
        return torch.export.load(stream).module()


def _onnx(network: nn.Module, crops: Tensor, path: Path) -> Program | None:
    torch.onnx.export(
        network,
        (crops,),
        str(path),
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={"x": {0: torch.export.Dim("crops")}},
    )
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run([OUTPUT], {INPUT: x.numpy()})[0])


_WRITERS: dict[str, Callable[[nn.Module, Tensor, Path], Program | None]] = {
    "torchscript": _torchscript,
    "torch-export": _torch_export,
    "onnx": _onnx,
}


def _check_onnx(network: nn.Module) -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentFault(
            f"writing ONNX needs the package {' and '.join(missing)}",
            "pip install onnx onnxscript onnxruntime",
        )
    size = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    if size > _LARGEST_ONNX:
        raise SettingsError(
            f"the network's {size / 1e9:.1f} GB do not fit an ONNX file, which holds 2 GB",
            "use --format torch-export",
        )
