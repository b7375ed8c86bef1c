"""Our networks in MONAI's words: which class with which arguments, and its state dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from VoCoCore.models.published import canonical

LEVELS = 5  # of the U-Net


def monai_network(description: Mapping[str, str], outputs: int) -> dict[str, Any]:
    """MONAI's whole network around the encoder of a description: ``_target_`` and its arguments."""
    channels, c = int(description["in_channels"]), int(description["feature_size"])
    both = {"in_channels": channels, "out_channels": outputs}
    if description["encoder"] == "swin_unetr":
        return {"_target_": "SwinUNETR", **both, "feature_size": c, "use_v2": True}
    if description["encoder"] == "unetr":
        size = [int(edge) for edge in description["input_size"].split(",")]
        widths = {"feature_size": c, "hidden_size": 16 * c, "mlp_dim": 64 * c, "num_heads": c // 4}
        return {"_target_": "UNETR", **both, "img_size": size, **widths}
    steps = [2] * (LEVELS - 1)
    return {
        "_target_": "DynUNet",
        "spatial_dims": 3,
        **both,
        "kernel_size": [3] * LEVELS,
        "strides": [1, *steps],
        "upsample_kernel_size": steps,
        "filters": [c * 2**level for level in range(LEVELS)],
    }


def call_text(network: Mapping[str, Any]) -> str:
    """The same as a line of Python."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in network.items() if name != "_target_")
    return f"{network['_target_']}({arguments})"


def published_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the names that MONAI's networks, and published weights, give them."""
    return {canonical(name): tensor for name, tensor in tensors.items()}


def with_second_names(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a whole DynUNet once more by the names under which its skip layers hold them, as strict loading asks.

    Both names share one memory. Other networks stay as they are.
    """
    if not any(name.startswith("upsamples.") for name in published):
        return dict(published)
    second = {"bottleneck": f"skip_layers{'.next_layer' * (LEVELS - 1)}"}
    for level in range(LEVELS - 1):
        layer = f"skip_layers{'.next_layer' * level}"
        second["input_block" if level == 0 else f"downsamples.{level - 1}"] = f"{layer}.downsample"
        second[f"upsamples.{LEVELS - 2 - level}"] = f"{layer}.upsample"
    more = {
        f"{other}{name.removeprefix(block)}": tensor
        for name, tensor in published.items()
        for block, other in second.items()
        if name.startswith(f"{block}.")
    }
    return {**published, **more}
