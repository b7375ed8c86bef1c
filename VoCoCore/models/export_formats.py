"""What `voco weights export` can write; nothing heavy is imported to know it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """``endings`` of its files (none: it is a folder); ``network``: it needs a fine-tuned network."""

    words: str
    endings: tuple[str, ...]
    network: bool


FORMATS = {
    "torch": Format("PyTorch state dict under the names of MONAI's networks", (".pt", ".pth"), False),
    "safetensors": Format("the same as safetensors", (".safetensors",), False),
    "torchscript": Format("TorchScript program of a fine-tuned network", (".ts", ".pt", ".pth"), True),
    "torch-export": Format("torch.export program of a fine-tuned network", (".pt2",), True),
    "onnx": Format("ONNX file of a fine-tuned network", (".onnx",), True),
    "bundle": Format("MONAI bundle folder of a fine-tuned segmentation network", (), True),
}
INTENSITIES = ("ct", "mr", "none")  # rules that a bundle can state
